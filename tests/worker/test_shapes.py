from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.errors import InvalidRequest
from producer.settings import Settings
from tests.documents import SAMPLES, png, samples
from worker.detection import Detector
from worker.models import load_model
from worker.predictors import Shape
from worker.recognition import Recogniser
from worker.shapes import DEFAULTS, Device, ShapeList, resolve
from worker.shapes.fit import LONGEST, SIZE_GRAIN, WIDEST
from worker.shapes.histogram import Histogram
from worker.shapes.padding import line_padding, paddlex_columns, page_padding


def shapes_fit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "producer.cli", "shapes", "fit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("device", get_args(Device))
def test_what_the_settings_leave_empty_is_the_devices(device: Device) -> None:
    assert resolve(Settings(), device) == DEFAULTS[device]

    mine = resolve(Settings(recogniser_widths=(320, 640), detector_batches=(2,)), device)

    assert mine == ShapeList(DEFAULTS[device].detector_sizes, (2,), (320, 640), DEFAULTS[device].recogniser_batches)


@pytest.mark.parametrize("device", get_args(Device))
def test_the_lists_have_room_for_any_document(device: Device) -> None:
    shapes = DEFAULTS[device]
    assert list(shapes.recogniser_widths) == sorted(set(shapes.recogniser_widths))
    assert shapes.recogniser_widths[-1] == WIDEST
    assert all(side % SIZE_GRAIN == 0 and side <= LONGEST for size in shapes.detector_sizes for side in size)
    # Pages of the usual kinds get most of the area that they need, whichever way round they are.
    for page in [(1754, 1240), (3508, 2480), (3024, 4032), (1800, 600), (1000, 1000)]:
        for height, width in (page, page[::-1]):
            item, _ = Detector(shapes).prepare(np.broadcast_to(np.uint8(255), (height, width, 3)))
            assert item.height * item.width > 0.95 * 480_000


def test_no_lines_make_no_columns() -> None:
    assert paddlex_columns(np.zeros(0, np.int64)) == 0


def test_padding_inside_places_and_empty_places_are_told_apart() -> None:
    # Given 9 lines in the bucket of 100 columns, of which each fills 90, and one that is wider than all buckets
    padding = line_padding({90: 9, 1000: 1}, (100, 500), (2, 4))
    # Then 9 lines make two batches of 4 and one of 2, and the squeezed one wastes no column
    assert (padding.real, padding.places, padding.batches) == (9 * 90 + 500, 9 * 100 + 500, 10 * 100 + 2 * 500)
    assert padding.share == pytest.approx(1 - 1310 / 1400)
    assert padding.empty_share == pytest.approx(1 - 1400 / 2000)


def test_empty_places_are_those_of_the_recognisers_batches() -> None:
    # Given lines of each bucket of a card's list, of which the wide ones go in smaller batches
    shapes = DEFAULTS["cuda"]
    recogniser = Recogniser(load_model("fake"), shapes)
    page = np.zeros((48, 3200, 3), np.uint8)
    for width in shapes.recogniser_widths:
        quad = np.array([[[0, 0], [width, 0], [width, 48], [0, 48]]], np.float32)
        for count in (3, 20, 70):
            lines = recogniser.prepare(page, np.repeat(quad, count, axis=0))

            # Then they leave as many places empty as in the batches that the recogniser runs
            most = recogniser.max_batch(lines[0].bucket)
            parts = [lines[start : start + most] for start in range(0, count, most)]
            empty = sum(recogniser.pixels(lines[0].bucket, part)[2] for part in parts) // 48
            padding = line_padding({width: count}, shapes.recogniser_widths, shapes.recogniser_batches)
            assert padding.batches - padding.places == empty


@given(st.integers(1, 1500), st.integers(1, 1500))
def test_a_pages_padding_is_that_of_the_detector(height: int, width: int) -> None:
    shapes = DEFAULTS["cuda"]
    item, bucket = Detector(shapes).prepare(np.broadcast_to(np.uint8(255), (height, width, 3)))
    padding = page_padding({(height, width): 1}, shapes.detector_sizes, (1,))
    assert Shape(1, *bucket) in Detector(shapes).shapes
    assert (padding.real, padding.places) == (item.height * item.width, bucket[0] * bucket[1])


def test_paddlex_pads_each_batch_of_a_pages_lines_to_its_widest() -> None:
    widths = np.array([500, 40, 80, 4000, 90, 70, 60, 50])
    # 40 to 90 and 500 make one batch that 500 decides; the other has what is left.
    assert paddlex_columns(widths) == 6 * 320 + 2 * 3200
    assert paddlex_columns(widths[:7]) == 6 * 500 + 3200


def test_histograms_add_up_and_survive_a_file(tmp_path: Path) -> None:
    one = Histogram.of([((933, 461), np.array([100, 100, 300])), ((1754, 1240), np.array([], np.int64))])
    other = Histogram.of([((933, 461), np.array([100]))])
    (one + other).save(tmp_path / "both.json")

    both = Histogram.load(tmp_path / "both.json")

    assert both == one + other
    assert both.sizes == {(933, 461): 2, (1754, 1240): 1}
    assert both.lines == {100: 3, 300: 1}
    assert both.paddlex_columns == 4 * 320


@pytest.mark.parametrize("content", ["", "[]", '{"version": 2, "pages": {}, "lines": {}, "paddlex_columns": 0}'])
def test_another_file_is_no_histogram(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(InvalidRequest, match="is not a histogram"):
        Histogram.load(tmp_path / "other.json")


def test_the_command_fits_the_samples(tmp_path: Path) -> None:
    # Given the samples, among files that are no documents and one that is damaged
    folder = tmp_path / "documents"
    (folder / "deeper").mkdir(parents=True)
    for sample in samples():
        (folder / "deeper" / sample.name).symlink_to(sample)
    (folder / "notes.txt").write_text("no document")
    (folder / "damaged.png").write_bytes(png("damaged")[:60])
    counted = tmp_path / "counted.json"

    # When they are measured
    ran = shapes_fit(folder, "--widths", "10", "--sizes", "4", "--histogram", counted)

    # Then the list wastes less than the one of now with the same number of widths would, and is ready to paste
    assert ran.returncode == 0, ran.stderr
    assert "skipped: damaged.png" in ran.stderr
    found = dict(re.findall(r"^(OCRPOOL_\w+)=(\S+)$", ran.stdout, re.MULTILINE))
    assert "PaddleX's policy" in ran.stdout
    assert "█" in ran.stdout
    widths = [int(width) for width in found["OCRPOOL_RECOGNISER_WIDTHS"].split(",")]
    assert len(widths) == 10
    assert widths[-1] == WIDEST
    assert 1 <= len(found["OCRPOOL_DETECTOR_SIZES"].split(",")) <= 4
    Settings(
        recogniser_widths=found["OCRPOOL_RECOGNISER_WIDTHS"],
        detector_sizes=found["OCRPOOL_DETECTOR_SIZES"],
    )

    # And what was counted, twice, gives the same list without the documents
    again = shapes_fit(
        *("--from-histogram", counted, "--from-histogram", counted), "--widths", "10", "--sizes", "4", "-f", "json"
    )
    assert again.returncode == 0, again.stderr
    answer = json.loads(again.stdout)
    assert answer["recogniser_widths"] == widths
    assert answer["lines"] == 2 * sum(Histogram.load(counted).lines.values())
    assert answer["padding_after"]["recogniser"] <= answer["padding_by_widths"]["8"]
    env = shapes_fit("--from-histogram", counted, "--min-width", "128", "-f", "env")
    assert [line.partition("=")[0] for line in env.stdout.splitlines()] == list(found)
    assert re.search(r"OCRPOOL_RECOGNISER_WIDTHS=1(2[89]|[3-9]\d),", env.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a folder"),
        ([SAMPLES / "receipt.jpg"], "is not a folder"),
        (["--from-histogram", "/nowhere.json"], "/nowhere.json: No such file"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(arguments: list[str | Path], message: str) -> None:
    ran = shapes_fit(*arguments)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
