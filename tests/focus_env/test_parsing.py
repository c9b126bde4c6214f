"""The answer format: what is read from good, bad and hostile text, and that writing and reading agree."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from focus_env.boxes import CoordinateFrame, box_to_frame
from focus_env.parsing import NORM_1_DECIMALS, judge_coordinates, parse_answer, write_answer, write_box
from focus_env.types import Box, ParseResult, ParseStatus

OK, ABSENT, NO_BOX = ParseStatus.OK, ParseStatus.ABSENT, ParseStatus.NO_BOX
BAD_NUMBERS, OUT_OF_RANGE, REVERSED = ParseStatus.BAD_NUMBERS, ParseStatus.OUT_OF_RANGE, ParseStatus.REVERSED
DEGENERATE, MULTIPLE = ParseStatus.DEGENERATE, ParseStatus.MULTIPLE
CLIPPED = ParseStatus.CLIPPED


def parse(text: str, frame: CoordinateFrame = CoordinateFrame.NORM_1000) -> ParseResult:
    """In an image where pixels and thousandths are the same numbers."""
    return parse_answer(text, frame=frame, image_wh=(1000, 1000), input_wh=(500, 500))


BOX = Box(1, 2, 30, 40)

TABLE = [
    # Hostile or empty.
    ("", NO_BOX, False),
    ("\x00", NO_BOX, False),
    ("\ud800[1, 2, 30, 40]\udfff", OK, False),
    ("I cannot see it.", NO_BOX, False),
    ("<answer></answer>", NO_BOX, False),
    ("[1, 2, 30, 40", NO_BOX, False),
    ("1, 2, 30, 40", NO_BOX, False),
    ("[1, 2, 30]", NO_BOX, False),
    ("[1, 2, 30, 40, 50]", NO_BOX, False),
    ("[1, 2), (30, 40]", NO_BOX, False),
    ("[1, 2, 30, 40)", NO_BOX, False),
    ("(1, 2, 30, 40]", NO_BOX, False),
    ("(the one, on the left, I think)", NO_BOX, False),
    ("[the one over there]", NO_BOX, False),
    ("(1, 2) is left of (30, 40)", NO_BOX, False),
    ("[[1, 2], [30, 40, 50]]", NO_BOX, False),
    # Four values that are no numbers.
    ("<answer>[x_min, y_min, x_max, y_max]</answer>", BAD_NUMBERS, False),
    ("<answer>[1, 2, 30, forty]</answer>", BAD_NUMBERS, False),
    ("<answer>[1, 2, 30, 4O]</answer>", BAD_NUMBERS, False),
    ("<answer>[1, 2, 30, ]</answer>", BAD_NUMBERS, False),
    ("<answer>[nan, 2, 30, 40]</answer>", BAD_NUMBERS, False),
    ("<answer>[1, 2, -inf, 40]</answer>", BAD_NUMBERS, False),
    ("<answer>[1, 2, 30, 1e999]</answer>", BAD_NUMBERS, False),
    ("<answer>[1, 2, 30, " + "9" * 400 + "]</answer>", BAD_NUMBERS, False),
    ("[1_0, 2, 30, 40]", BAD_NUMBERS, False),
    ("[١, ٢, ٣٠, ٤٠]", BAD_NUMBERS, False),
    ("[0x1, 2, 30, 40]", BAD_NUMBERS, False),
    ("(nan, 2), (30, 40)", BAD_NUMBERS, False),
    # Defective boxes. Format is about syntax alone.
    ("<answer>[30, 40, 1, 2]</answer>", REVERSED, True),
    ("<answer>[30, 2, 1, 40]</answer>", REVERSED, True),
    ("<answer>[1, 40, 30, 2]</answer>", REVERSED, True),
    ("<answer>[30, 2, 30, 1]</answer>", REVERSED, True),
    ("<answer>[1, 2, 1, 40]</answer>", DEGENERATE, True),
    ("<answer>[5, 5, 5, 5]</answer>", DEGENERATE, True),
    ("[0, 0, 1e-200, 1e-200]", DEGENERATE, False),
    ("<answer>[1, 2, 30, 1011]</answer>", OUT_OF_RANGE, True),
    ("<answer>[1011, 2, 30, 40]</answer>", OUT_OF_RANGE, True),
    ("<answer>[-11, 2, 30, 40]</answer>", OUT_OF_RANGE, False),
    ("[1, 2, 30, 1010.0001]", OUT_OF_RANGE, False),
    ("<answer>[1001, 2, 30, 40]</answer>", OUT_OF_RANGE, True),
    ("<answer>[1000, 2, 1010, 40]</answer>", OUT_OF_RANGE, True),
    # Several answers.
    ("[1, 2, 30, 40] or [2, 2, 30, 40]", MULTIPLE, False),
    ("[1, 2, 30, 40] [1, 2, 30, 40]", MULTIPLE, False),
    ("[1, 2, 30, 40] [nan, 2, 30, 40]", MULTIPLE, False),
    ("[1, 2, 30, 40] (0, 0), (9, 9)", MULTIPLE, False),
    ("[[1, 2, 30, 40], [5, 6, 70, 80]]", MULTIPLE, False),
    ("(1, 2), (30, 40), (50, 60)", MULTIPLE, False),
    ("(1, 2), (30, 40)\n(1, 2), (30, 40)", MULTIPLE, False),
    ("<answer>[1, 2, 30, 40]</answer><answer>[1, 2, 30, 40]</answer>", MULTIPLE, False),
    ("<answer>[1, 2, 30, 40]</answer><answer>none</answer>", MULTIPLE, False),
    ("<answer>none</answer><answer>none</answer>", MULTIPLE, False),
    ("<answer>[1, 2, 30, 40] or [2, 2, 30, 40]</answer>", MULTIPLE, False),
    ("<answer>[1, 2, 30, 40] or [2, 2, 30, 40]</answer> [1, 2, 30, 40]", MULTIPLE, False),
    ("[0, 0, 9, 9] <answer>[1, 2, 30, 40]", MULTIPLE, False),
    # Absent.
    ("<answer>none</answer>", ABSENT, True),
    ("\n <answer>none</answer> ", ABSENT, True),
    ("<answer>None</answer>", ABSENT, False),
    ("<answer> none </answer>", ABSENT, False),
    ("It is gone: <answer>none</answer>", ABSENT, False),
    ("It was at [1, 2, 30, 40]. <answer>none</answer>", ABSENT, False),
    ("none", ABSENT, False),
    ("none of them", NO_BOX, False),
    # One box, not in format.
    ("[1, 2, 30, 40]", OK, False),
    ("[1 2 30 40]", OK, False),
    ("(1, 2, 30, 40)", OK, False),
    ("(1,2),(30,40)", OK, False),
    ("<|box_start|>(1,2),(30,40)<|box_end|>", OK, False),
    ("((1, 2), (30, 40))", OK, False),
    ("[[1, 2], [30, 40]]", OK, False),
    ("[[1, 2, 30, 40]]", OK, False),
    ('```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "a [red] cup, left"}]\n```', OK, False),
    ("<answer>[1.0, 2e0, +30, 40.]</answer>", OK, False),
    ("<answer>(1, 2, 30, 40)</answer>", OK, False),
    ("<ANSWER>[1, 2, 30, 40]</ANSWER>", OK, False),
    ("<answer>[1, 2, 30, 40]", OK, False),
    ("<answer>[1, 2, 30, 40]</answer>.", OK, False),
    ("Sure! <answer>[1, 2, 30, 40]</answer>", OK, False),
    ("Supports: [0, 0, 9, 9], [5, 5, 7, 7]. <answer>[1, 2, 30, 40]</answer>", OK, False),
    ("[x, y, x, y] means <answer>[1, 2, 30, 40]</answer>", OK, False),
    ("[1, 2, 30, 40] <answer>see above</answer>", OK, False),
    ("<answer>[x_min, y_min, x_max, y_max]</answer> <answer>[1, 2, 30, 40]</answer>", OK, False),
    ("<answer>[1, 2, 30,\n40]</answer>", OK, False),
    # In format.
    ("<answer>[1, 2, 30, 40]</answer>", OK, True),
    ("<answer>[1,2,30,40]</answer>", OK, True),
    ("<answer>[ 1, 2, 30, 40 ]</answer>", OK, True),
    ("  <answer>[1, 2, 30, 40]</answer>\n", OK, True),
    ("<answer>[001, 2, 30, 40]</answer>", OK, True),
]


@pytest.mark.parametrize(("text", "status", "is_strict"), TABLE, ids=[ascii(row[0])[:60] for row in TABLE])
def test_table(text: str, status: ParseStatus, is_strict: bool) -> None:
    assert parse(text) == ParseResult(status, BOX if status is OK else None, is_strict)


@pytest.mark.parametrize(
    ("frame", "text", "expected", "is_strict"),
    [
        (CoordinateFrame.NORM_1, "<answer>[0.25, 0, 1, 0.5]</answer>", Box(20, 0, 80, 30), True),
        (CoordinateFrame.NORM_1, "<answer>[0, 0, 1, 1]</answer>", Box(0, 0, 80, 60), True),
        (CoordinateFrame.NORM_1, "<answer>[.25, 0, 1, 0.5]</answer>", Box(20, 0, 80, 30), False),
        (CoordinateFrame.NORM_100, "<answer>[25, 0, 100, 50]</answer>", Box(20, 0, 80, 30), True),
        (CoordinateFrame.NORM_100, "<answer>[25.0, 0, 100, 50]</answer>", Box(20, 0, 80, 30), False),
        (CoordinateFrame.NORM_1000, "<answer>[250, 0, 1000, 500]</answer>", Box(20, 0, 80, 30), True),
        (CoordinateFrame.NORM_1000, "<answer>[250.0, 0, 1000, 500]</answer>", Box(20, 0, 80, 30), False),
        (CoordinateFrame.PIXEL, "<answer>[20, 0, 80, 30]</answer>", Box(20, 0, 80, 30), True),
        (CoordinateFrame.PIXEL, "<answer>[20.0, 0, 80, 30]</answer>", Box(20, 0, 80, 30), False),
        (CoordinateFrame.RESIZED_PIXEL, "<answer>[40, 0, 160, 15]</answer>", Box(20, 0, 80, 30), True),
    ],
)
def test_each_frame(frame: CoordinateFrame, text: str, expected: Box, is_strict: bool) -> None:
    result = parse_answer(text, frame=frame, image_wh=(80, 60), input_wh=(160, 30))
    assert result == ParseResult(OK, expected, is_strict)


@pytest.mark.parametrize(
    ("frame", "values", "status"),
    [
        # By 1% of the side, or by one unit where that is more.
        (CoordinateFrame.PIXEL, "0, 0, 80, 61", CLIPPED),
        (CoordinateFrame.PIXEL, "0, 0, 80, 62", OUT_OF_RANGE),
        (CoordinateFrame.PIXEL, "-1, 0, 81, 60", CLIPPED),
        (CoordinateFrame.PIXEL, "-2, 0, 80, 60", OUT_OF_RANGE),
        (CoordinateFrame.NORM_1, "0, 0, 1, 1.001", CLIPPED),
        (CoordinateFrame.NORM_1, "-0.01, -0.01, 1.01, 1.01", CLIPPED),
        (CoordinateFrame.NORM_1, "0, 0, 1, 1.0101", OUT_OF_RANGE),
        (CoordinateFrame.NORM_100, "0, 0, 100, 101", CLIPPED),
        (CoordinateFrame.NORM_100, "0, 0, 102, 100", OUT_OF_RANGE),
        (CoordinateFrame.NORM_1000, "0, 0, 1010, 1001", CLIPPED),
        (CoordinateFrame.NORM_1000, "0, 0, 1011, 1000", OUT_OF_RANGE),
        (CoordinateFrame.RESIZED_PIXEL, "0, 0, 160, 31", CLIPPED),
        (CoordinateFrame.RESIZED_PIXEL, "0, 0, 161, 30", CLIPPED),
        (CoordinateFrame.RESIZED_PIXEL, "0, 0, 160, 32", OUT_OF_RANGE),
    ],
)
def test_a_box_that_leaves_the_picture_by_a_hair_is_cut(
    frame: CoordinateFrame, values: str, status: ParseStatus
) -> None:
    result = parse_answer(f"[{values}]", frame=frame, image_wh=(80, 60), input_wh=(160, 30))
    assert result == ParseResult(status, Box(0, 0, 80, 60) if status is CLIPPED else None, False)


@pytest.mark.parametrize("text", ["", "[1, 2, 30, 40]"])
def test_a_missing_size_is_the_callers_error_whatever_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="needs input_wh"):
        parse_answer(text, frame=CoordinateFrame.RESIZED_PIXEL, image_wh=(4, 4))


FRAGMENTS = st.sampled_from(
    [
        "<answer>",
        "</answer>",
        "[",
        "]",
        "(",
        ")",
        ",",
        " ",
        "none",
        "1",
        "-2",
        "30.5",
        "1e999",
        "nan",
        "ınf",
        "İnfınıty",
        "ſ",
        "K",
        "x1: ",
        "<think>",
        "</think>",
        "<box>",
        "</box>",
        "box_2d:",
        "null",
        '"',
        ";",
        "to",
        "}",
        "{",
        "\x00",
    ]
)


@given(st.one_of(st.text(), st.lists(FRAGMENTS, max_size=40).map("".join)), st.sampled_from(CoordinateFrame))
@example("\ud800", CoordinateFrame.PIXEL)
def test_no_text_makes_it_raise(text: str, frame: CoordinateFrame) -> None:
    result = parse_answer(text, frame=frame, image_wh=(64, 48), input_wh=(56, 28))
    assert (result.box is not None) == (result.status in (OK, CLIPPED))
    if result.box is not None:
        assert 0 <= result.box.x1 < result.box.x2 <= 64
        assert 0 <= result.box.y1 < result.box.y2 <= 48


LONG = 1_000_000
HOSTILE = {
    "open brackets": "[" * LONG,
    "nested brackets": "[" * (LONG // 2) + "]" * (LONG // 2),
    "half boxes": "[1, 2, 3" * (LONG // 8),
    "open tags": "<answer>" * (LONG // 8),
    "an open tag and blanks": "<answer>" + " " * LONG + "none",
    "points far apart": "(1, 2)" + " " * LONG + "x (3, 4)",
    "many points": "(1,2)," * (LONG // 6),
    "a number of a million digits": "[" + "1" * LONG + ", 2, 3, 4]",
    "a number of many parts": "[" + "1." * (LONG // 2) + ", 2, 3, 4]",
    "many exponents": "[" + "1e1" * (LONG // 3) + ", 2, 3, 4]",
    "blanks in an almost strict answer": "<answer>[1, 2, 3, " + " " * LONG + "</answer>",
    "commas": "[" + "," * LONG + "]",
    "open thoughts": "<think>" * (LONG // 7),
    "closed thoughts": "</think>" * (LONG // 8),
    "open boxes": "<box>1" * (LONG // 6),
    "named numbers": "{" + "x1: 1, " * (LONG // 7) + "}",
    "open names": '{"x1' + " _-" * (LONG // 3) + "}",
    "separators": "[" + ";，" * (LONG // 2) + "]",
    "points and corners": "(1, 2), the bottom right" * (LONG // 24),
    "blanks in tags": "<   answer" * (LONG // 10),
    "channels": "<|channel|>analysis" * (LONG // 19),
    "channels without tokens": "analysisW" + "assistant" * (LONG // 18) + "assistantanalysis" * (LONG // 34),
    "names of orders": "xywh " * (LONG // 5) + "[1, 2, 3, 4]",
    "headers": "[y1, x1, y2, x2]" * (LONG // 16),
    "named in a row": "x1: 1 " * (LONG // 6),
    "fences": "<answer>" + "```" * (LONG // 3) + "</answer>",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_million_characters_take_no_time(text: str) -> None:
    start = time.perf_counter()
    assert parse(text).status is not OK
    # Measured below 0.4 s. A quadratic pattern takes hours.
    assert time.perf_counter() - start < 10


@st.composite
def cases(draw: st.DrawFn) -> tuple[Box, CoordinateFrame, tuple[int, int], tuple[int, int]]:
    """A valid box, down to slivers, in an image of any shape; and a frame."""
    width, height = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    x1 = draw(st.floats(0, width, exclude_max=True))
    y1 = draw(st.floats(0, height, exclude_max=True))
    x2 = draw(st.floats(x1, width, exclude_min=True))
    y2 = draw(st.floats(y1, height, exclude_min=True))
    input_wh = (draw(st.integers(1, 5000)), draw(st.integers(1, 5000)))
    return Box(x1, y1, x2, y2), draw(st.sampled_from(CoordinateFrame)), (width, height), input_wh


@given(cases())
@example((Box(1.5, 1.5, 2.5, 2.5), CoordinateFrame.PIXEL, (8, 8), (8, 8)))
@example((Box(0.5, 0.5, 1.5, 1.5), CoordinateFrame.PIXEL, (8, 8), (8, 8)))
@example((Box(7.999, 0, 8, 1e-9), CoordinateFrame.PIXEL, (8, 8), (8, 8)))
@example((Box(3.3, 11.7, 40.4, 63.9), CoordinateFrame.NORM_100, (64, 112), (8, 8)))
def test_what_is_written_is_read_back(
    case: tuple[Box, CoordinateFrame, tuple[int, int], tuple[int, int]],
) -> None:
    box, frame, image_wh, input_wh = case
    result = parse_answer(
        write_answer(box, frame=frame, image_wh=image_wh, input_wh=input_wh),
        frame=frame,
        image_wh=image_wh,
        input_wh=input_wh,
    )
    assert result.status is OK
    assert result.is_strict
    assert result.box is not None
    unit = 10**-NORM_1_DECIMALS if frame is CoordinateFrame.NORM_1 else 1
    wrote = box_to_frame(box, frame, image_wh=image_wh, input_wh=input_wh)
    read = box_to_frame(result.box, frame, image_wh=image_wh, input_wh=input_wh)
    for axis in (0, 1):
        is_thin = wrote[axis + 2] - wrote[axis] < unit * (1 - 1e-9)
        tolerance = unit * (1 if is_thin else 0.5) * (1 + 1e-9)
        assert abs(read[axis] - wrote[axis]) <= tolerance
        assert abs(read[axis + 2] - wrote[axis + 2]) <= tolerance


@pytest.mark.parametrize(
    ("box", "frame", "expected"),
    [
        pytest.param(Box(0, 0, 80, 60), CoordinateFrame.NORM_1000, "[0, 0, 1000, 1000]", id="whole image"),
        pytest.param(Box(-9, -9, 99, 99), CoordinateFrame.PIXEL, "[0, 0, 80, 60]", id="cut to the image"),
        pytest.param(Box(0.5, 1.5, 1.5, 2.5), CoordinateFrame.PIXEL, "[1, 2, 2, 3]", id="halves go up"),
        pytest.param(Box(3.2, 0, 3.4, 9), CoordinateFrame.PIXEL, "[3, 0, 4, 9]", id="a sliver keeps an area"),
        pytest.param(Box(79.9, 0, 80, 9), CoordinateFrame.PIXEL, "[79, 0, 80, 9]", id="a sliver at the edge"),
        pytest.param(Box(math.nextafter(80, 0), 0, 80, 9), CoordinateFrame.PIXEL, "[79, 0, 80, 9]", id="thinnest"),
        pytest.param(Box(20, 0, 80, 15), CoordinateFrame.NORM_1, "[0.250, 0.000, 1.000, 0.250]", id="decimals"),
        pytest.param(Box(20, 0, 80, 15.3), CoordinateFrame.NORM_100, "[25, 0, 100, 26]", id="hundredths: 25.5 goes up"),
        pytest.param(Box(20, 0, 80, 15), CoordinateFrame.RESIZED_PIXEL, "[10, 0, 40, 30]", id="resized"),
    ],
)
def test_write_box(box: Box, frame: CoordinateFrame, expected: str) -> None:
    assert write_box(box, frame=frame, image_wh=(80, 60), input_wh=(40, 120)) == expected


@pytest.mark.parametrize("box", [Box(80, 0, 90, 9), Box(5, 5, 4, 9), Box(0, 0, math.nan, 9)])
def test_write_box_refuses_what_is_no_box_in_the_image(box: Box) -> None:
    with pytest.raises(ValueError, match=r"area inside the image of \(80, 60\)"):
        write_box(box, frame=CoordinateFrame.NORM_1000, image_wh=(80, 60))


def test_judge_names_the_first_defect() -> None:
    def status(*values: float) -> ParseStatus:
        return judge_coordinates(values, frame=CoordinateFrame.NORM_1, image_wh=(8, 8))[0]  # type: ignore[arg-type]

    assert status(math.nan, 2, 0, 0) is BAD_NUMBERS
    assert status(2, 0, 1, 0) is OUT_OF_RANGE
    assert status(1.005, 0, 0.4, 0) is OUT_OF_RANGE
    assert status(0, 0, 1.005, 1) is CLIPPED
    assert status(1, 0, 1.005, 1) is OUT_OF_RANGE
    assert status(0.5, 0, 0.4, 0) is REVERSED
    assert status(0.5, 0, 0.5, 1) is DEGENERATE
    assert status(0, 0, 1, 1) is OK
