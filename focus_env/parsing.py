"""The answer format: how a box is written as text, and what a model's text holds.

    <answer>[x_min, y_min, x_max, y_max]</answer>      the object is there
    <answer>none</answer>                              it is not in the picture

Numbers are integers, except decimals in the frame `NORM_1`. A text that is exactly this is *strict*; where a template
asks for thoughts, a text that is `<think>...</think>` and then exactly this (the opening tag may stand in the prompt).
A template may write answers in another form (`focus_env.answer_format`): then a text in that form is strict.
From any other text the answer is recovered only where that takes no guess:

1. Thoughts are no answers: what stands in `<think>` tags, or other tags and channels for thoughts, before a closing one
   whose opening is missing, or behind an opening one that is never closed, is left out. The channels of gpt-oss are
   known without their tokens too: `analysisWe ...assistantfinal`, words that are none. Where a template asks for
   thoughts and none has ended, only complete answer tags count.
2. A box has one of four forms. Four numbers in a pair of brackets of any kind or in box tags, with commas, semicolons
   or blanks between them. Four named numbers, `x1: 1, y1: 2, x2: 30, y2: 40`, `x`, `y`, `width`, `height`, or `cx`,
   `cy`, `w`, `h`, in brackets or alone. Two points in a row, `(x1, y1), (x2, y2)`. Four location tokens,
   `<loc0080><loc0120><loc0400><loc0310>`, which are always y and x in 1024ths. Four bare numbers are a box only if they
   stand alone in answer tags. JSON with `"bbox_2d": [x1, y1, x2, y2]` is thereby a box, too. Where a
   template writes y first, numbers in brackets and `box_2d` are read so, and two points are `AMBIGUOUS`.
3. The object is absent where the text, or what stands in its answer tags, is `none` or another of
   `absent_text.ABSENT_WORDS`, a sentence such as `No object found in the image`, in any case, quotes, brackets or
   punctuation, or JSON that holds no box: `[]`, `{"bbox_2d": null}`; or where it says of its box that this is not of
   the same object, `Do all these boxes have the same object? No.`
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
from collections.abc import Iterator

from focus_env.absent_text import rejects_its_box, says_absent
from focus_env.answer_format import (
    LABEL,
    NORM_1_DECIMALS,
    PLAIN_ANSWER,
    PLAIN_BOX,
    AnswerFormat,
    BoxFormat,
    StrictAnswer,
    round_side,
)
from focus_env.answer_text import (
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
)
from focus_env.boxes import CLIP_TOLERANCE, CoordinateFrame, Coordinates, box_to_frame, clip_box, frame_to_box
from focus_env.types import Box, ParseResult, ParseStatus


def parse_answer(
    text: str,
    *,
    frame: CoordinateFrame,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
    thinking: bool = False,
    form: AnswerFormat = PLAIN_ANSWER,
) -> ParseResult:
    """Read a model's text by the rules of this module.

    No text makes it raise, and its time is linear in the length of the text.

    Args:
        text: Whatever the model wrote.
        frame: The frame in which the model was asked to answer.
        image_wh: (width, height) of the query image in pixels.
        input_wh: (width, height) at which the model saw it; needed by `RESIZED_PIXEL` alone.
        thinking: Whether the model was asked for thoughts before its answer, which the strict format then has.
        form: How it was asked to write its answer.

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
    if (strict := _match_strict(text, frame, form, thinking=thinking)) is not None:  # the common case needs no search
        if strict.values is None:
            return ParseResult(ParseStatus.ABSENT, None, is_strict=True)
        found = FoundBox(strict.values, has_fraction=False, is_share=False, order="named")
        return _judge(found, frame, form, image_wh=image_wh, input_wh=input_wh, is_strict=True)
    boxes, num_absent, is_echo = _search(text, thinking=thinking)
    if len(boxes) + num_absent > 1:
        return ParseResult(ParseStatus.MULTIPLE, None, is_strict=False)
    if num_absent:
        return ParseResult(ParseStatus.ABSENT, None, is_strict=False)
    if not boxes:
        return ParseResult(ParseStatus.BAD_NUMBERS if is_echo else ParseStatus.NO_BOX, None, is_strict=False)
    return _judge(boxes[0], frame, form, image_wh=image_wh, input_wh=input_wh, is_strict=False)


def holds_box(text: str) -> bool:
    """Return whether a text has a box in it by rule 2, one that it takes back left out.

    >>> [holds_box(text) for text in ("<answer>[0, 0, 0, 0]</answer>", "<answer>none</answer>")]
    [True, False]
    """
    boxes, _, _ = _search(text, thinking=False)
    return bool(boxes)


def _match_strict(text: str, frame: CoordinateFrame, form: AnswerFormat, *, thinking: bool) -> StrictAnswer | None:
    """Return the answer of a strict text."""
    answer = text.strip()
    if thinking:
        thought, close, answer = answer.rpartition(THOUGHT_CLOSE)
        thought, answer = thought.removeprefix(THOUGHT_OPEN), answer.strip()
        if not close or THOUGHT_OPEN in thought or THOUGHT_CLOSE in thought:
            return None
    return form.match(answer, frame)


def _judge(
    found: FoundBox,
    frame: CoordinateFrame,
    form: AnswerFormat,
    *,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None,
    is_strict: bool,
) -> ParseResult:
    """Return the result for a text's one box."""
    if (values := _in_order(found, form)) is None:
        return ParseResult(ParseStatus.AMBIGUOUS, None, is_strict)
    own = CoordinateFrame.NORM_1024 if found.order == "tokens" else frame
    status, box = judge_coordinates(values, frame=own, image_wh=image_wh, input_wh=input_wh)
    takes_fractions = frame is CoordinateFrame.NORM_1 or (form.box.has_fractions(frame) and not found.is_share)
    if box is not None and (found.has_fraction or found.is_share) and not takes_fractions:
        status, box = ParseStatus.BAD_NUMBERS, None
    # Numbers in a unit of their own say nothing about the unit that was asked for.
    is_told = own is frame and all(map(math.isfinite, values))
    return ParseResult(status, box, is_strict, values if is_told else None)


def _in_order(found: FoundBox, form: AnswerFormat) -> Coordinates | None:
    """Return a box's numbers with x first; None where their order is not known."""
    a, b, c, d = found.values
    is_y_first = form.box.order == "yxyx"
    if (
        found.order == "other"
        or (found.order == "box_2d" and not is_y_first)
        or (found.order == "points" and is_y_first)
    ):
        return None
    if found.order == "tokens" or (is_y_first and found.order in ("asked", "box_2d")):
        return b, a, d, c
    return a, b, c, d


def _search(text: str, *, thinking: bool) -> tuple[list[FoundBox], int, bool]:
    """Find the boxes of any text, at least two if there are several; how often it says "absent"; whether it echoes."""
    spoken = behind_thoughts(text.translate(PLAIN))
    tags_alone = thinking and not ends_a_thought(text)
    num_absent = 0
    boxes: list[FoundBox] = []
    for span in answer_spans(spoken):
        found = [] if rejects_its_box(span) else _some(find_boxes(span)) or _some(bare_box(span))
        boxes += found
        num_absent += not found and (rejects_its_box(span) or says_absent(span))
    if not boxes and not num_absent and not tags_alone:
        is_rejected = rejects_its_box(spoken)
        boxes = [] if is_rejected else _some(find_boxes(spoken)) or _some(named_numbers(spoken))
        num_absent = int(is_rejected or (not boxes and says_absent(spoken)))
    return boxes, num_absent, not boxes and not tags_alone and has_four_values(spoken)


def _some(boxes: Iterator[FoundBox]) -> list[FoundBox]:
    """Return the first two of these boxes, since a second one settles the status."""
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
    form: BoxFormat = PLAIN_BOX,
) -> str:
    """Write a box as text, by default as `[x_min, y_min, x_max, y_max]`.

    Each coordinate goes to the nearest unit of the frame (1, or 0.001 in `NORM_1`, or what the format says), halves
    upward, so that reading the text gives the box back within half a unit. A side that would round to nothing is
    written as the one unit that holds its middle: what a valid box is written as is always a valid box again.

    Args:
        box: `xyxy` in pixels of the original image. What reaches beyond the image is cut off.
        frame: The frame to write in.
        image_wh: (width, height) of the original image in pixels.
        input_wh: (width, height) as the model sees it; needed by `RESIZED_PIXEL` alone.
        form: How the numbers are written.

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
    values = box_to_frame(inside, frame, image_wh=image_wh, input_wh=input_wh)
    decimals = form.decimals(frame)
    if decimals is None:
        return form.write(values, frame)
    units = 10**decimals
    rest = int(form.has_location_tokens)  # there are 1024, from 0 to 1023
    x1, x2 = round_side(values[0] * units, values[2] * units, (int(max_x) - rest) * units)
    y1, y2 = round_side(values[1] * units, values[3] * units, (int(max_y) - rest) * units)
    return form.write((x1 / units, y1 / units, x2 / units, y2 / units), frame)


def write_answer(
    box: Box | None,
    *,
    frame: CoordinateFrame,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
    thinking: bool = False,
    form: AnswerFormat = PLAIN_ANSWER,
) -> str:
    """Write the strict answer for a box, or for an absent object if it is None; see `write_box`.

    With `thinking` an empty thought stands before it.

    >>> write_answer(None, frame=CoordinateFrame.NORM_1000, image_wh=(64, 48))
    '<answer>none</answer>'
    """
    if box is None:
        answer = form.absent.format(label=LABEL)
    else:
        written = write_box(box, frame=frame, image_wh=image_wh, input_wh=input_wh, form=form.box)
        answer = form.answer.format(box=written, label=LABEL)
    thought = f"{THOUGHT_OPEN}\n\n{THOUGHT_CLOSE}\n\n" if thinking else ""
    return thought + answer
