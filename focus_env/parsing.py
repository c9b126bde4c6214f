"""The answer format: how a box is written as text, and what a model's text holds.

    <answer>[x_min, y_min, x_max, y_max]</answer>      the object is there
    <answer>none</answer>                              it is not in the picture

Numbers are integers, except decimals in the frame `NORM_1`. A text that is exactly this is *strict*. From any
other text the answer is recovered only where that takes no guess:

1. A box is one pair of brackets, square or round, around four numbers; or two points in a row, `(x1, y1),
   (x2, y2)`. JSON with `"bbox_2d": [x1, y1, x2, y2]` is thereby a box, too.
2. If complete answer tags hold an answer (a box, or `none`), only what stands in tags counts, since the tags
   say which is the answer. Otherwise the whole text counts.
3. More than one answer is `MULTIPLE`, even if all are equal.
4. One box is judged in this order: `BAD_NUMBERS` (not finite), `OUT_OF_RANGE`, `REVERSED`, `DEGENERATE`, else
   `OK`. Nothing is clamped, swapped or rounded.
5. Without any box, four other values with commas between them in brackets, such as the echo
   `[x_min, y_min, x_max, y_max]`, are `BAD_NUMBERS`; anything else is `NO_BOX`.

Source: the answer tag and the 0-1000 frame follow FOCUS (arXiv:2605.31145, sec. 5.1 and app. A). The word for
an absent object, the recovery rules and the named failures are ours.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

from focus_env.boxes import CoordinateFrame, Coordinates, box_to_frame, clip_box, frame_to_box
from focus_env.types import Box, ParseResult, ParseStatus

ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
ABSENT_WORD = "none"

NORM_1_DECIMALS = 3
"""Digits after the point in the frame `NORM_1`: as fine as `NORM_1000`."""

# At most six digits: no image is larger, and such a number is finite.
_INTEGER, _DECIMAL = r"[0-9]{1,6}", r"[0-9]{1,6}(?:\.[0-9]{1,9})?"


def _strict_pattern(number: str) -> re.Pattern[str]:
    box = r"\[ *" + r" *, *".join([number] * 4) + r" *\]"
    return re.compile(f"{ANSWER_OPEN}(?:{box}|{ABSENT_WORD}){ANSWER_CLOSE}")


_STRICT = {
    frame: _strict_pattern(_DECIMAL if frame is CoordinateFrame.NORM_1 else _INTEGER) for frame in CoordinateFrame
}

# Every pattern below runs in linear time on any text: the innermost groups cannot overlap, and the possessive
# quantifiers (++) never give back what they took.
_GROUP = re.compile(r"\[([^\[\](){}]*+)\]|\(([^\[\](){}]*+)\)")
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:e[+-]?[0-9]++)?|nan|inf(?:inity)?)", re.IGNORECASE)


def parse_answer(
    text: str,
    *,
    frame: CoordinateFrame,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
) -> ParseResult:
    """Read a model's text by the rules of this module.

    No text makes it raise, and its time is linear in the length of the text.

    Args:
        text: Whatever the model wrote.
        frame: The frame in which the model was asked to answer.
        image_wh: (width, height) of the query image in pixels.
        input_wh: (width, height) at which the model saw it; needed by `RESIZED_PIXEL` alone.

    Returns:
        The status, the box in pixels of the query image if there is one, and whether the format is strict.
        Strictness is about syntax alone: a strict text may hold a box without area.

    Raises:
        ValueError: If a size is missing or not positive, whatever the text.

    >>> text = "<answer>[500, 0, 1000, 500]</answer>"
    >>> parse_answer(text, frame=CoordinateFrame.NORM_1000, image_wh=(64, 48)).box
    Box(x1=32.0, y1=0.0, x2=64.0, y2=24.0)
    """
    # A wrong size must fail on every text, not just on those with a box.
    frame.extent(image_wh=image_wh, input_wh=input_wh)
    is_strict = _STRICT[frame].fullmatch(text.strip()) is not None
    spans = list(_answer_spans(text))
    num_absent = sum(span.strip().lower() == ABSENT_WORD for span in spans)
    boxes = [box for span in spans for box in _find_boxes(span)]
    if not boxes and not num_absent:
        num_absent = int(text.strip().lower() == ABSENT_WORD)
        boxes = list(_find_boxes(text))

    if len(boxes) + num_absent > 1:
        return ParseResult(ParseStatus.MULTIPLE, None, is_strict)
    if num_absent:
        return ParseResult(ParseStatus.ABSENT, None, is_strict)
    if not boxes:
        has_words = any(group[0].count(",") == 3 for group in _GROUP.finditer(text))
        return ParseResult(ParseStatus.BAD_NUMBERS if has_words else ParseStatus.NO_BOX, None, is_strict)
    status, box = judge_coordinates(boxes[0], frame=frame, image_wh=image_wh, input_wh=input_wh)
    return ParseResult(status, box, is_strict)


def judge_coordinates(
    values: Coordinates,
    *,
    frame: CoordinateFrame,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
) -> tuple[ParseStatus, Box | None]:
    """Decide whether four numbers are a box in the image, by rule 4 of this module.

    Args:
        values: Meant as (x_min, y_min, x_max, y_max) in `frame`; any floats.
        frame: The frame of `values`.
        image_wh: (width, height) of the image in pixels.
        input_wh: (width, height) as the model sees it; needed by `RESIZED_PIXEL` alone.

    Returns:
        `OK` with the box in pixels, or the status that names the defect with None.

    Raises:
        ValueError: If a size is missing or not positive.
    """
    max_x, max_y = frame.extent(image_wh=image_wh, input_wh=input_wh)
    if not all(math.isfinite(value) for value in values):
        return ParseStatus.BAD_NUMBERS, None
    x1, y1, x2, y2 = values
    if min(values) < 0 or max(x1, x2) > max_x or max(y1, y2) > max_y:
        return ParseStatus.OUT_OF_RANGE, None
    if x2 < x1 or y2 < y1:
        return ParseStatus.REVERSED, None
    box = frame_to_box(values, frame, image_wh=image_wh, input_wh=input_wh)
    if not (box.x2 - box.x1) * (box.y2 - box.y1) > 0:  # in pixels, where a side of 1e-300 has rounded away
        return ParseStatus.DEGENERATE, None
    return ParseStatus.OK, box


def write_box(
    box: Box,
    *,
    frame: CoordinateFrame,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
) -> str:
    """Write a box as the bracketed text `[x_min, y_min, x_max, y_max]`.

    Each coordinate goes to the nearest unit of the frame (1, or 0.001 in `NORM_1`), halves upward, so that
    reading the text gives the box back within half a unit. A side that would round to nothing is written as
    the one unit that holds its middle: what a valid box is written as is always a valid box again.

    Args:
        box: `xyxy` in pixels of the original image. What reaches beyond the image is cut off.
        frame: The frame to write in.
        image_wh: (width, height) of the original image in pixels.
        input_wh: (width, height) as the model sees it; needed by `RESIZED_PIXEL` alone.

    Raises:
        ValueError: If no part of the box with an area lies in the image, or a size is missing.

    >>> write_box(Box(32, 0, 64, 24), frame=CoordinateFrame.NORM_1000, image_wh=(64, 48))
    '[500, 0, 1000, 500]'
    """
    max_x, max_y = frame.extent(image_wh=image_wh, input_wh=input_wh)
    inside = clip_box(box, image_wh)
    if inside is None:
        raise ValueError(
            "the box to write must be xyxy in pixels with an area inside the image of "
            f"{image_wh} (width, height), got {tuple(box)}"
        )
    x1, y1, x2, y2 = box_to_frame(inside, frame, image_wh=image_wh, input_wh=input_wh)
    decimals = NORM_1_DECIMALS if frame is CoordinateFrame.NORM_1 else 0
    units = 10**decimals
    x1, x2 = _round_side(x1 * units, x2 * units, int(max_x) * units)
    y1, y2 = _round_side(y1 * units, y2 * units, int(max_y) * units)
    return "[" + ", ".join(f"{value / units:.{decimals}f}" for value in (x1, y1, x2, y2)) + "]"


def write_answer(
    box: Box | None,
    *,
    frame: CoordinateFrame,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
) -> str:
    """Write the strict answer for a box, or for an absent object if it is None; see `write_box`.

    >>> write_answer(None, frame=CoordinateFrame.NORM_1000, image_wh=(64, 48))
    '<answer>none</answer>'
    """
    if box is None:
        return f"{ANSWER_OPEN}{ABSENT_WORD}{ANSWER_CLOSE}"
    return f"{ANSWER_OPEN}{write_box(box, frame=frame, image_wh=image_wh, input_wh=input_wh)}{ANSWER_CLOSE}"


def _round_side(low: float, high: float, extent: int) -> tuple[int, int]:
    """Round the two ends of one side to whole units, at least one unit apart, within 0 to `extent`."""
    # floor(v + 0.5) shifts with its argument; round() goes to even and would turn (1.5, 2.5) into (2, 2).
    first, last = math.floor(low + 0.5), math.floor(high + 0.5)
    if first == last:
        first = min(math.floor((low + high) / 2), extent - 1)
        last = first + 1
    return first, last


def _answer_spans(text: str) -> Iterator[str]:
    """What stands between each opening tag and the closing tag that follows it."""
    # Not a regular expression: "<answer>.*?</answer>" takes quadratic time on many opening tags without a
    # closing one.
    end = 0
    while (start := text.find(ANSWER_OPEN, end)) >= 0:
        start += len(ANSWER_OPEN)
        end = text.find(ANSWER_CLOSE, start)
        if end < 0:
            return
        yield text[start:end]


def _find_boxes(text: str) -> Iterator[Coordinates]:
    """All boxes in the text by rule 1, valid or not."""
    points: list[tuple[float, float]] = []
    previous_end = 0
    for group in _GROUP.finditer(text):
        values = _values(group)
        is_numeric = len(values) in (2, 4) and all(_NUMBER.fullmatch(value) for value in values)
        is_adjacent = text[previous_end : group.start()].strip() in ("", ",")
        if points and not (is_numeric and len(values) == 2 and is_adjacent):
            yield from _boxes_of_points(points)
            points = []
        previous_end = group.end()
        if is_numeric and len(values) == 4:
            yield (float(values[0]), float(values[1]), float(values[2]), float(values[3]))
        elif is_numeric:
            points.append((float(values[0]), float(values[1])))
    yield from _boxes_of_points(points)


def _boxes_of_points(points: list[tuple[float, float]]) -> Iterator[Coordinates]:
    # Any two of three points could be meant: every neighbouring pair is a box, and so the answer is
    # ambiguous.
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        yield (x1, y1, x2, y2)


def _values(group: re.Match[str]) -> list[str]:
    """The values in one pair of brackets, divided by commas or, where there is none, by blanks."""
    content: str = group[1] if group[1] is not None else group[2]
    return [value.strip() for value in content.split(",")] if "," in content else content.split()
