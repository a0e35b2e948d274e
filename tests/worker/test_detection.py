from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.job import ReadOptions
from worker.detection import CERTAIN, MAX_BOXES, MAX_SCALE, USUAL, Detector, Quads
from worker.models import available_models, load_model
from worker.predictors import Execution, Shape, Stage
from worker.runtimes import build_predictor
from worker.shapes import DEFAULTS
from worker.tensors import Pixels, Shrunk

SIDES = st.integers(1, 6000)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(DEFAULTS["cpu"])


def blank(height: int, width: int) -> Pixels:
    return np.broadcast_to(np.uint8(255), (height, width, 3))


@settings(deadline=None)
@given(height=SIDES, width=SIDES)
def test_a_page_of_any_size_fits_its_bucket_undistorted(height: int, width: int) -> None:
    detector = Detector(DEFAULTS["cpu"])

    item, bucket = detector.prepare(blank(height, width))

    rows, columns = item.height, item.width
    assert rows <= bucket[0]
    assert columns <= bucket[1]
    assert Shape(1, *bucket) in detector.shapes
    # Sides are whole pixels, and at least one.
    assert rows <= max(1, MAX_SCALE * height + 0.5)
    assert columns <= max(1, MAX_SCALE * width + 0.5)
    assert abs(rows * width - columns * height) <= height + width


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((933, 461), (1120, 512)),
        ((1754, 1240), (896, 640)),
        ((1240, 1754), (640, 896)),
        ((3508, 2480), (1344, 960)),
        ((48, 600), (128, 960)),
        ((200, 150), (320, 320)),
    ],
    ids=["receipt", "A4 at 150 dpi", "A4 landscape", "A4 at 300 dpi", "one line", "thumbnail"],
)
def test_usual_pages_get_the_smallest_bucket_that_is_enough(
    detector: Detector, size: tuple[int, int], bucket: tuple[int, int]
) -> None:
    assert detector.prepare(blank(*size))[1] == bucket


def map_with(centre: tuple[float, float], sides: tuple[float, float], angle: float) -> np.ndarray:
    drawn = np.zeros((320, 320), np.uint8)
    corners = cv2.boxPoints((centre, sides, angle)).astype(np.int32)
    cv2.fillPoly(drawn, [corners], (CERTAIN,))
    return drawn


@pytest.mark.parametrize("angle", [0, 7, -7, 30])
def test_a_shrunk_line_of_the_map_becomes_a_larger_quad_of_the_page(detector: Detector, angle: float) -> None:
    # Given a page twice as large as its map, and one line in the map
    item = Shrunk(blank(640, 640), 320, 320)
    text = map_with((160, 150), (120, 10), angle)

    (quad,) = detector.finish(text, item)

    # Then the quad lies on the line and reaches about 1.6 x area / perimeter beyond it: 7 pixels of the map
    top_left, top_right, _, bottom_left = quad
    assert np.allclose(quad.mean(axis=0), (320, 300), atol=4)
    assert np.linalg.norm(top_right - top_left) == pytest.approx(2 * (120 + 15), abs=12)
    assert np.linalg.norm(bottom_left - top_left) == pytest.approx(2 * (10 + 15), abs=12)
    slope = np.degrees(np.arctan2(*(top_right - top_left)[::-1]))
    assert slope == pytest.approx(angle, abs=1.5)


def test_a_line_that_runs_downwards_becomes_a_tall_quad(detector: Detector) -> None:
    item = Shrunk(blank(320, 320), 320, 320)

    (quad,) = detector.finish(map_with((160, 150), (120, 10), 90), item)

    top_left, top_right, bottom_right, bottom_left = quad
    assert top_left[0] < top_right[0] == pytest.approx(bottom_right[0], abs=1)
    assert bottom_left[1] - top_left[1] > 3 * (top_right[0] - top_left[0])


def test_quads_stay_on_the_page(detector: Detector) -> None:
    item = Shrunk(blank(320, 320), 320, 320)

    (quad,) = detector.finish(map_with((60, 2), (140, 12), 0), item)

    assert quad.min() >= 0
    assert quad.max() <= 319


def test_faint_text_and_specks_are_left_out(detector: Detector) -> None:
    item = Shrunk(blank(320, 320), 320, 320)
    faint = map_with((160, 150), (120, 10), 0) // 3
    speck = map_with((30, 30), (1, 1), 0)

    assert detector.finish(np.maximum(faint, speck), item).shape == (0, 4, 2)


def test_a_page_full_of_noise_gives_a_bounded_number_of_quads(detector: Detector) -> None:
    item = Shrunk(blank(960, 960), 960, 960)
    noise = np.kron(np.random.default_rng(1).integers(0, 2, (240, 240)), np.ones((4, 4))).astype(np.uint8) * CERTAIN

    assert len(detector.finish(noise, item)) <= MAX_BOXES


@given(st.integers(40, 300), st.integers(12, 40), st.floats(-40, 40), st.floats(0.32, 1))
def test_a_line_is_kept_for_its_mean_probability(width: int, height: int, angle: float, probability: float) -> None:
    # Given a line on a map whose every pixel is equally sure
    drawn = np.zeros((480, 480), np.uint8)
    corners = cv2.boxPoints(((240, 240), (width, height), angle)).astype(np.int32)
    cv2.fillPoly(drawn, [corners], (round(probability * CERTAIN),))

    quads = Detector(DEFAULTS["cpu"]).finish(drawn, Shrunk(blank(480, 480), 480, 480))

    # Then it is found or not by that, give or take the box's rim
    assert len(quads) == 1 or probability < USUAL.detector_box_threshold * 1.3
    assert len(quads) == 0 or probability > USUAL.detector_box_threshold - 0.01


def test_an_empty_page_has_no_lines(detector: Detector) -> None:
    item, bucket = detector.prepare(blank(1, 1))
    predictor = build_predictor(load_model("fake"), Stage.DETECTOR, detector.shapes, Execution())

    (text,) = detector.run(predictor, bucket, [item])

    assert text.shape == (item.height, item.width)
    assert detector.finish(text, item).shape == (0, 4, 2)


@pytest.mark.parametrize("name", available_models())
@pytest.mark.parametrize("size", [(400, 600), (1754, 1240)], ids=["small", "A4"])
def test_real_models_find_each_printed_line(detector: Detector, name: str, size: tuple[int, int]) -> None:
    # Given a page with three lines of text
    page = np.full((*size, 3), 255, np.uint8)
    baselines = (80, 160, 240)
    for baseline in baselines:
        cv2.putText(page, "TOTAL 12.50", (50, baseline), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 0), 2, cv2.LINE_AA)
    predictor = build_predictor(load_model(name), Stage.DETECTOR, detector.shapes, Execution(threads=2))

    item, bucket = detector.prepare(page)
    quads = detector.finish(detector.run(predictor, bucket, [item])[0], item)

    # Then each line lies in one quad or a few, and no quad lies elsewhere
    rows = {min(baselines, key=lambda baseline: abs(baseline - 11 - quad[:, 1].mean())) for quad in quads}
    assert rows == set(baselines)
    assert quads[..., 0].min() > 35
    assert quads[..., 0].max() < 300


@pytest.mark.parametrize(
    ("side", "side_px", "size", "shown"),
    [
        ("max", 320, (1754, 1240), (320, 226)),
        ("max", 4096, (1754, 1240), (896, 633)),  # what it is without the option
        ("min", 64, (20, 300), (64, 960)),
        ("min", 700, (1754, 1240), (1041, 736)),
        ("min", 2000, (1754, 1240), (1344, 950)),  # as far as the shapes reach
    ],
)
def test_a_job_may_limit_a_side(
    detector: Detector, side: str, side_px: int, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    options = ReadOptions.model_validate({"detector_side": side, "detector_side_px": side_px})

    item, bucket = detector.prepare(blank(*size), options)

    assert (item.height, item.width) == shown
    assert Shape(1, *bucket) in detector.shapes


def test_a_job_may_set_the_thresholds(detector: Detector) -> None:
    # Given a line that the detector is half sure of
    item = Shrunk(blank(320, 320), 320, 320)
    text = map_with((160, 150), (120, 10), 0) // 2

    def found(**thresholds: float) -> Quads:
        return detector.finish(text, item, ReadOptions.model_validate(thresholds))

    # Then each threshold on its own loses it, and a larger ratio makes its quad larger
    (usual,) = found()
    assert len(found(detector_threshold=0.6)) == 0
    assert len(found(detector_box_threshold=0.6)) == 0
    (larger,) = found(detector_unclip_ratio=3.2)
    assert np.ptp(larger[:, 1]) == pytest.approx(np.ptp(usual[:, 1]) + 2 * 7.4, abs=2)
