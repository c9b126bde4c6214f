"""The answer format: how a box is written as text, and what a model's text holds.

    <answer>[x_min, y_min, x_max, y_max]</answer>      the object is there
    <answer>none</answer>                              it is not in the picture

Numbers are integers, except decimals in the frame `NORM_1`. A text that is exactly this is *strict*; where a template
asks for thoughts, a text that is `<think>...</think>` and then exactly this (the opening tag may stand in the prompt).
From any other text the answer is recovered only where that takes no guess:

1. Thoughts are no answers: what stands in `<think>` tags, or other tags and channels for thoughts, before a closing one
   whose opening is missing, or behind an opening one that is never closed, is left out. The channels of gpt-oss are
   known without their tokens too: `analysisWe ...assistantfinal`, words that are none. Where a template asks for
   thoughts and none has ended, only complete answer tags count.
2. A box is four numbers in a pair of brackets of any kind or in box tags, with commas, semicolons or blanks between
   them; four numbers whose names say which they are, `x1: 1, y1: 2, x2: 30, y2: 40`, `x`, `y`, `width`, `height`, or
   `cx`, `cy`, `w`, `h`, in brackets or alone; or two points in a row, `(x1, y1), (x2, y2)`. Four bare numbers are one
   where they stand alone in answer tags. JSON with `"bbox_2d": [x1, y1, x2, y2]` is thereby a box, too.
3. The object is absent where the text, or what stands in its answer tags, is `none` or another of
   `answer_text.ABSENT_WORDS`, a sentence such as `No object found in the image`, in any case, quotes, brackets or
   punctuation, or JSON that holds no box: `[]`, `{"bbox_2d": null}`.
4. If complete answer tags hold an answer, only what stands in tags counts, since the tags say which is the answer.
   Otherwise the whole text counts.
5. More than one answer is `MULTIPLE`, even if all are equal.
6. One box is judged in this order: `AMBIGUOUS` (Gemini's `box_2d`, which may have y first, and boxes whose order is
   named and is another: `yxyx`, `xywh:`, `[x, y, w, h] = `), `BAD_NUMBERS` (not finite),
   `OUT_OF_RANGE`, `REVERSED`, `DEGENERATE`, `BAD_NUMBERS` again (decimals in a frame of integers, which are another
   unit), else `OK`. A box with no other defect that leaves the picture by at most `boxes.CLIP_TOLERANCE` of its width
   or height, or by one unit of the frame, is cut there and `CLIPPED`. Nothing else is clamped, swapped or rounded.
7. Without any box, four other values with commas between them in brackets, such as the echo
   `[x_min, y_min, x_max, y_max]`, are `BAD_NUMBERS`; anything else is `NO_BOX`.

Source: the answer tag and the 0-1000 frame follow FOCUS (arXiv:2605.31145, sec. 5.1 and app. A). The word for
an absent object, the recovery rules and the named failures are ours.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

from focus_env.answer_text import (
    ABSENT_WORD,
    ANSWER_CLOSE,
    ANSWER_OPEN,
    PLAIN,
    THOUGHT_CLOSE,
    THOUGHT_OPEN,
    FoundBox,
    answer_spans,
    bare_box,
    behind_thoughts,
    ends_a_thought,
    find_boxes,
    has_four_values,
    named_numbers,
    read_box,
    says_absent,
)
from focus_env.boxes import CLIP_TOLERANCE, CoordinateFrame, Coordinates, box_to_frame, clip_box, frame_to_box
from focus_env.types import Box, ParseResult, ParseStatus

NORM_1_DECIMALS = 3
"""Digits after the point in the frame `NORM_1`: as fine as `NORM_1000`."""

# At most six digits: no image is larger, and such a number is finite.
_INTEGER, _DECIMAL = r"[0-9]{1,6}", r"[0-9]{1,6}(?:\.[0-9]{1,9})?"


def _strict_pattern(number: str) -> re.Pattern[str]:
    box = r"\[ *" + r" *, *".join([f"({number})"] * 4) + r" *\]"
    return re.compile(f"{ANSWER_OPEN}(?:{box}|{ABSENT_WORD}){ANSWER_CLOSE}")


_STRICT = {
    frame: _strict_pattern(_DECIMAL if frame is CoordinateFrame.NORM_1 else _INTEGER) for frame in CoordinateFrame
}


def parse_answer(
    text: str,
    *,
    frame: CoordinateFrame,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
    thinking: bool = False,
) -> ParseResult:
    """Read a model's text by the rules of this module.

    No text makes it raise, and its time is linear in the length of the text.

    Args:
        text: Whatever the model wrote.
        frame: The frame in which the model was asked to answer.
        image_wh: (width, height) of the query image in pixels.
        input_wh: (width, height) at which the model saw it; needed by `RESIZED_PIXEL` alone.
        thinking: Whether the model was asked for thoughts before its answer, which the strict format then has.

    Returns:
        The status, the box in pixels of the query image if there is one, and whether the format is strict.
        Strictness is about syntax alone: a strict text may hold a box without area.

    Raises:
        ValueError: If a size is missing or not positive, whatever the text, or there is no such frame.
        TypeError: If the text is none.

    >>> text = "<answer>[500, 0, 1000, 500]</answer>"
    >>> parse_answer(text, frame=CoordinateFrame.NORM_1000, image_wh=(64, 48)).box
    Box(x1=32.0, y1=0.0, x2=64.0, y2=24.0)
    """
    if not isinstance(text, str):
        raise TypeError(f"an answer must be a str, got {type(text).__name__}: {text!r:.80}")
    frame = CoordinateFrame(frame)
    # A wrong size must fail on every text, not just on those with a box.
    frame.extent(image_wh=image_wh, input_wh=input_wh)
    strict = _match_strict(text, frame, thinking=thinking)
    if strict is not None:  # the common case, which needs no search
        boxes = [read_box(strict.groups())] if strict[1] else []
        num_absent, is_echo = 1 - len(boxes), False
    else:
        boxes, num_absent, is_echo = _search(text, thinking=thinking)
    is_strict = strict is not None

    if len(boxes) + num_absent > 1:
        return ParseResult(ParseStatus.MULTIPLE, None, is_strict)
    if num_absent:
        return ParseResult(ParseStatus.ABSENT, None, is_strict)
    if not boxes:
        return ParseResult(ParseStatus.BAD_NUMBERS if is_echo else ParseStatus.NO_BOX, None, is_strict)
    (found_box,) = boxes
    if not found_box.is_ordered:
        return ParseResult(ParseStatus.AMBIGUOUS, None, is_strict)
    status, box = judge_coordinates(found_box.values, frame=frame, image_wh=image_wh, input_wh=input_wh)
    if box is not None and not found_box.is_whole and frame is not CoordinateFrame.NORM_1:
        status, box = ParseStatus.BAD_NUMBERS, None
    numbers = found_box.values if all(map(math.isfinite, found_box.values)) else None
    return ParseResult(status, box, is_strict, numbers)


def _match_strict(text: str, frame: CoordinateFrame, *, thinking: bool) -> re.Match[str] | None:
    """The answer of a strict text, with its four numbers as groups."""
    answer = text.strip()
    if thinking:
        thought, close, answer = answer.rpartition(THOUGHT_CLOSE)
        thought, answer = thought.removeprefix(THOUGHT_OPEN), answer.strip()
        if not close or THOUGHT_OPEN in thought or THOUGHT_CLOSE in thought:
            return None
    return _STRICT[frame].fullmatch(answer)


def _search(text: str, *, thinking: bool) -> tuple[list[FoundBox], int, bool]:
    """Find the boxes of any text, at least two if there are several; how often it says "absent"; whether it echoes."""
    spoken = behind_thoughts(text.translate(PLAIN))
    tags_alone = thinking and not ends_a_thought(text)
    num_absent = 0
    boxes: list[FoundBox] = []
    for span in answer_spans(spoken):
        found = _some(find_boxes(span)) or _some(bare_box(span))
        boxes += found
        num_absent += not found and says_absent(span)
    if not boxes and not num_absent and not tags_alone:
        boxes = _some(find_boxes(spoken)) or _some(named_numbers(spoken))
        num_absent = int(not boxes and says_absent(spoken))
    return boxes, num_absent, not boxes and not tags_alone and has_four_values(spoken)


def _some(boxes: Iterator[FoundBox]) -> list[FoundBox]:
    """The first two of these boxes, since a second one settles the status."""
    return list(itertools.islice(boxes, 2))


def judge_coordinates(
    values: Coordinates,
    *,
    frame: CoordinateFrame,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
) -> tuple[ParseStatus, Box | None]:
    """Decide whether four numbers are a box in the image, by rule 6 of this module.

    Args:
        values: Meant as (x_min, y_min, x_max, y_max) in `frame`; any floats.
        frame: The frame of `values`.
        image_wh: (width, height) of the image in pixels.
        input_wh: (width, height) as the model sees it; needed by `RESIZED_PIXEL` alone.

    Returns:
        `OK` or `CLIPPED` with the box in pixels, or the status that names the defect with None.

    Raises:
        ValueError: If a size is missing or not positive.
    """
    max_x, max_y = frame.extent(image_wh=image_wh, input_wh=input_wh)
    if not all(math.isfinite(value) for value in values):
        return ParseStatus.BAD_NUMBERS, None
    x1, y1, x2, y2 = values
    unit = 10**-NORM_1_DECIMALS if frame is CoordinateFrame.NORM_1 else 1
    room_x, room_y = max(unit, CLIP_TOLERANCE * max_x), max(unit, CLIP_TOLERANCE * max_y)
    # A float just below the limit, such as 1.01 in shares, is not to be lost to rounding.
    over_x, over_y = max(-min(x1, x2), max(x1, x2) - max_x), max(-min(y1, y2), max(y1, y2) - max_y)
    leaves = over_x > 0 or over_y > 0
    inside = clip_box(frame_to_box(values, frame, image_wh=image_wh, input_wh=input_wh), image_wh)
    # The product, in pixels: a side of 1e-300 has rounded away.
    is_box = inside is not None and (inside.x2 - inside.x1) * (inside.y2 - inside.y1) > 0
    if leaves and (not is_box or over_x > room_x * (1 + 1e-9) or over_y > room_y * (1 + 1e-9)):
        return ParseStatus.OUT_OF_RANGE, None
    if x2 < x1 or y2 < y1:
        return ParseStatus.REVERSED, None
    if not is_box:
        return ParseStatus.DEGENERATE, None
    return ParseStatus.CLIPPED if leaves else ParseStatus.OK, inside


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
    thinking: bool = False,
) -> str:
    """Write the strict answer for a box, or for an absent object if it is None; see `write_box`.

    With `thinking` an empty thought stands before it.

    >>> write_answer(None, frame=CoordinateFrame.NORM_1000, image_wh=(64, 48))
    '<answer>none</answer>'
    """
    written = ABSENT_WORD if box is None else write_box(box, frame=frame, image_wh=image_wh, input_wh=input_wh)
    thought = f"{THOUGHT_OPEN}\n\n{THOUGHT_CLOSE}\n\n" if thinking else ""
    return f"{thought}{ANSWER_OPEN}{written}{ANSWER_CLOSE}"


def _round_side(low: float, high: float, extent: int) -> tuple[int, int]:
    """Round the two ends of one side to whole units, at least one unit apart, within 0 to `extent`."""
    # floor(v + 0.5) shifts with its argument; round() goes to even and would turn (1.5, 2.5) into (2, 2).
    first, last = math.floor(low + 0.5), math.floor(high + 0.5)
    if first == last:
        first = min(math.floor((low + high) / 2), extent - 1)
        last = first + 1
    return first, last
