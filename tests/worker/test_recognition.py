from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from producer.errors import Internal
from worker.models import Model, available_models, load_model
from worker.orientation import Orientation
from worker.predictors import Execution, Stage
from worker.predictors.endings import best_classes
from worker.recognition import LINE_HEIGHT, LineInput, LineText, Recogniser, cuts, decode, upright
from worker.runtimes import build_predictor
from worker.shapes import DEFAULTS
from worker.tensors import HostKernels, Pixels

SHAPES = DEFAULTS["cpu"]
LETTERS = np.array(("", "a", "b", " "))


@pytest.fixture(scope="module", params=available_models())
def model(request: pytest.FixtureRequest) -> Model:
    return load_model(request.param)


def printed(text: str) -> Pixels:
    """A page of one line."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    page = np.full((height + below + 16, width + 16, 3), 255, np.uint8)
    cv2.putText(page, text, (8, height + 8), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 0), 2, cv2.LINE_AA)
    return page


def line_of(recogniser: Recogniser, text: str) -> LineInput:
    page = printed(text)
    height, width = page.shape[:2]
    quads = np.array([[(0, 0), (width, 0), (width, height), (0, height)]], np.float32)
    return recogniser.prepare(page, quads)[0]


def crop(page: Pixels, quad: np.ndarray, max_width: int) -> Pixels:
    """What the recogniser sees of a quad, as grey levels: `uint8[48, w, 3]`, RGB."""
    quads, (columns,) = upright(quad[None], max_width)
    line = LineInput(page, quads[0], int(columns), (LINE_HEIGHT, int(columns)))
    (tensor,) = HostKernels().cut(cuts([line]), 1, line.bucket)
    levels: Pixels = np.rint((tensor[::-1].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    return levels


def scores_of(*lines: tuple[tuple[int, float], ...]) -> np.ndarray:
    scores = np.zeros((len(lines), len(lines[0]), len(LETTERS)), np.float32)
    for line, steps in enumerate(lines):
        for step, (letter, score) in enumerate(steps):
            scores[line, step, letter] = score
    return scores


def test_repeats_become_one_letter_unless_a_blank_parts_them() -> None:
    scores = scores_of(
        ((1, 0.8), (1, 0.9), (0, 1.0), (1, 0.6), (2, 1.0)),
        ((0, 1.0), (0, 1.0), (0, 1.0), (0, 1.0), (0, 1.0)),
        ((2, 0.5), (3, 1.0), (3, 1.0), (2, 0.9), (0, 1.0)),
    )

    lines = decode(best_classes(scores), LETTERS)

    assert [line.text for line in lines] == ["aab", "", "b b"]
    assert [line.score for line in lines] == pytest.approx([0.8, 0.0, 0.8])


@given(arrays(np.float32, (3, 12, 4), elements=st.floats(0, 1, width=32)))
def test_whole_batches_decode_as_step_by_step(scores: np.ndarray) -> None:
    def one(steps: np.ndarray) -> LineText:
        text, kept, before = "", [], 0
        for step in steps:
            best = int(step.argmax())
            if best not in (0, before):
                text += str(LETTERS[best])
                kept.append(float(step[best]))
            before = best
        return LineText(text.strip(), sum(kept) / max(1, len(kept)))

    for line, steps in zip(decode(best_classes(scores), LETTERS), scores, strict=True):
        expected = one(steps)
        assert line.text == expected.text
        assert line.score == pytest.approx(expected.score, abs=1e-5)


def test_a_slanted_quad_is_cut_out_straight() -> None:
    # Given a page with a slanted rectangle, its left half red and its right half blue
    page = np.zeros((200, 300, 3), np.uint8)
    corners = cv2.boxPoints(((150, 100), (192, 48), 20)).astype(np.float32)
    top_left, top_right, bottom_right, bottom_left = corners[[1, 2, 3, 0]]
    quad = np.array([top_left, top_right, bottom_right, bottom_left])
    middle_top, middle_bottom = (top_left + top_right) / 2, (bottom_left + bottom_right) / 2
    for colour, half in (
        ((255, 0, 0), [top_left, middle_top, middle_bottom, bottom_left]),
        ((0, 0, 255), [middle_top, top_right, bottom_right, middle_bottom]),
    ):
        cv2.fillPoly(page, [np.array(half).astype(np.int32)], colour)

    cut = crop(page, quad, 3200)

    assert cut.shape[0] == LINE_HEIGHT
    assert cut.shape[1] == pytest.approx(192, abs=2)
    assert (cut[4:-4, 4:88].reshape(-1, 3) == (255, 0, 0)).all(axis=1).mean() > 0.99
    assert (cut[4:-4, 104:-4].reshape(-1, 3) == (0, 0, 255)).all(axis=1).mean() > 0.99


def test_a_tall_quad_is_turned_so_that_its_text_runs_to_the_right() -> None:
    # Given text that runs downwards: its beginning is bright
    page = np.zeros((192, 48, 3), np.uint8)
    page[:96] = 255
    quad = np.array([(0, 0), (48, 0), (48, 192), (0, 192)], np.float32)

    cut = crop(page, quad, 3200)

    assert cut.shape == (48, 192, 3)
    assert cut[:, :90].min() == 255
    assert cut[:, 102:].max() == 0


def test_lines_of_endless_pages_are_cut_out_too() -> None:
    # Given a page longer than OpenCV can warp, with one line at its far end and one along all of it
    page = np.zeros((40, 70_000, 3), np.uint8)
    page[:, 69_800:] = 255
    end = np.array([(69_850, 5), (69_950, 5), (69_950, 35), (69_850, 35)], np.float32)
    along = np.array([(0, 5), (69_999, 5), (69_999, 35), (0, 35)], np.float32)

    assert crop(page, end, 3200).min() == 255
    assert crop(page, along, 3200).shape == (48, 3200, 3)


@given(st.integers(1, 9000), st.integers(1, 400))
def test_a_lines_bucket_depends_on_its_own_shape_alone(width: int, height: int) -> None:
    recogniser = Recogniser(load_model("fake"), SHAPES)
    quad = np.array([[(0, 0), (width, 0), (width, height), (0, height)]], np.float32)
    page = np.zeros((8, 8, 3), np.uint8)

    together = recogniser.prepare(page, np.concatenate([quad, quad / 2, quad]))

    assert together[0].bucket == together[2].bucket == recogniser.prepare(page, quad)[0].bucket
    rows, columns = together[0].bucket
    assert rows == LINE_HEIGHT
    assert columns in SHAPES.recogniser_widths
    assert together[0].columns <= columns


def test_a_model_with_other_characters_is_refused() -> None:
    fake = load_model("fake")
    recogniser = Recogniser(Model("other", "fake", {}, ("", "a", " "), "other"), SHAPES)
    predictor = build_predictor(fake, Stage.RECOGNISER, recogniser.shapes, Execution())
    line = line_of(recogniser, "12")

    with pytest.raises(Internal, match="more classes than its 3 characters"):
        recogniser.run(predictor, line.bucket, [line])


def test_real_models_read_lines_alone_as_among_others(model: Model) -> None:
    # Given lines of one bucket, short and long
    recogniser = Recogniser(model, replace(SHAPES, recogniser_widths=(96, 320), recogniser_batches=(1, 2, 4)))
    predictor = build_predictor(model, Stage.RECOGNISER, recogniser.shapes, Execution(threads=2))
    texts = ["TOTAL 12.50", "2018/03/10", "CASH 20.00"]
    lines = [line_of(recogniser, text) for text in texts]
    assert {line.bucket for line in lines} == {(48, 320)}

    # When they are read one by one, and together in a batch with an empty place
    alone = [recogniser.run(predictor, line.bucket, [line])[0] for line in lines]
    together = recogniser.run(predictor, lines[0].bucket, lines)

    # Then each says the same
    assert [line.text.replace(" ", "") for line in alone] == [text.replace(" ", "") for text in texts]
    assert [line.text for line in together] == [line.text for line in alone]
    assert [line.score for line in together] == pytest.approx([line.score for line in alone], abs=1e-3)


def test_real_models_read_a_short_line_in_a_narrow_bucket(model: Model) -> None:
    recogniser = Recogniser(model, SHAPES)
    lines = [line_of(recogniser, text) for text in ("7", "42", "3.10")]
    shapes = [shape for shape in recogniser.shapes if shape.batch == 1 and shape.width <= 160]
    predictor = build_predictor(model, Stage.RECOGNISER, shapes, Execution(threads=2))

    read = [recogniser.run(predictor, line.bucket, [line])[0].text for line in lines]

    assert read == ["7", "42", "3.10"]


def test_real_models_tell_which_lines_stand_upside_down(model: Model) -> None:
    shapes = replace(SHAPES, recogniser_batches=(1, 4))
    recogniser, orientation = Recogniser(model, shapes), Orientation(shapes)
    predictor = build_predictor(model, Stage.ORIENTATION, orientation.shapes, Execution(threads=2))
    upright = line_of(recogniser, "TOTAL AMOUNT 12.50")
    items = orientation.prepare([upright, upright.turned(), upright.turned().turned()])

    turned = orientation.run(predictor, items[0].bucket, items)

    assert turned == [False, True, False]
