"""Check that the right answers of a template are read back as they were written.

A format may be sound in itself and still be read as another box: behind a label that may be any text, the numbers of
`{label} {box}` begin wherever the label ends. So some answers are written and read when a template is made.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from focus_env.answer_format import LABEL, AnswerFormat
from focus_env.answer_text import ANSWER_CLOSE, ANSWER_OPEN, THOUGHT_CLOSE, THOUGHT_OPEN
from focus_env.boxes import CoordinateFrame, box_to_frame
from focus_env.parsing import parse_answer, write_box
from focus_env.types import Box, ParseResult, ParseStatus

_WH = (1000, 1000)  # no size changes how a text is read
_BOXES = (
    Box(100.0, 80.0, 500.0, 500.0),
    Box(0.0, 0.0, 1000.0, 1000.0),
    Box(1.0, 2.0, 3.0, 4.0),
    Box(12.0, 7.0, 345.0, 89.0),
    Box(998.0, 990.0, 1000.0, 999.0),
    Box(0.03, 5.5, 100 / 7, 0.1 * 3 * 100),  # numbers with many digits, where they are not rounded
    Box(5.500000000000001, 0.2, 555.0, 505.0),
)
_LABELS = (LABEL, "cup 10", "7 up", "10")
"""Labels whose digits may run into the numbers."""


@functools.cache
def misread(form: AnswerFormat, frame: CoordinateFrame, *, thinking: bool) -> str | None:
    """Return the field of a template by which a right answer is misread, and how; None: all are read as written.

    Args:
        form: How the template writes answers.
        frame: A unit in which the format can write boxes.
        thinking: Whether an empty thought stands before the answer.
    """
    for box in _BOXES:
        written = write_box(box, frame=frame, image_wh=_WH, input_wh=_WH, form=form.box)
        for label in _LABELS if "{label" in form.answer else (LABEL,):
            answer = form.answer.format(box=written, label=label)
            for text in _as_decoded(answer, form):
                found = _read(text, form, frame, thinking=thinking)
                if not _is_box(found, box, form, frame):
                    is_cut = text != answer
                    field = "optional_tokens" if is_cut else _field_of_box(box, form, frame)
                    return f"{field} {_in_words(text, found, frame, f'the box {written}', 'that box')}"
        rejected = form.rejected.format(box=written, label=LABEL)
        found = _read(rejected, form, frame, thinking=thinking)
        if form.rejected and found.status is not ParseStatus.ABSENT:
            return f"rejected_answer_text {_in_words(rejected, found, frame, 'no box', 'absent')}"
    absent = form.absent.format(label=LABEL)
    for text in _as_decoded(absent, form):
        found = _read(text, form, frame, thinking=thinking)
        if found.status is not ParseStatus.ABSENT or not found.is_strict:
            field = "absent_answer_text" if text == absent else "optional_tokens"
            return f"{field} {_in_words(text, found, frame, 'no box', 'absent')}"
    return None


def _as_decoded(answer: str, form: AnswerFormat) -> Iterator[str]:
    """Yield an answer as it is written, and without the tokens that decoding leaves out."""
    yield answer
    cut = answer
    for token in form.optional_tokens:
        cut = cut.replace(token, "")
    if cut != answer:
        yield cut


def _read(text: str, form: AnswerFormat, frame: CoordinateFrame, *, thinking: bool) -> ParseResult:
    thought = f"{THOUGHT_OPEN}\n\n{THOUGHT_CLOSE}\n\n" if thinking else ""
    return parse_answer(thought + text, frame=frame, image_wh=_WH, input_wh=_WH, thinking=thinking, form=form)


def _is_box(found: ParseResult, box: Box, form: AnswerFormat, frame: CoordinateFrame) -> bool:
    """Return whether what was read is a box, to half a unit; a side of less than a unit is written as one."""
    if found.box is None or found.status is not ParseStatus.OK or not found.is_strict:
        return False
    meant, read = (box_to_frame(each, frame, image_wh=_WH, input_wh=_WH) for each in (box, found.box))
    decimals = form.box.decimals(frame)
    unit = 1e-9 if decimals is None else 10.0**-decimals
    is_thin = min(meant[2] - meant[0], meant[3] - meant[1]) < unit
    # The last location token is one short of the edge.
    room = unit if is_thin or form.box.has_location_tokens else unit / 2
    return all(abs(a - b) <= room * (1 + 1e-6) for a, b in zip(meant, read, strict=True))


def _field_of_box(box: Box, form: AnswerFormat, frame: CoordinateFrame) -> str:
    """Return the field by which a box is misread: that of boxes, if it is so in plain tags as well."""
    plain = dataclasses.replace(
        form, answer=ANSWER_OPEN + "{box}" + ANSWER_CLOSE, rejected="", absent="", optional_tokens=()
    )
    written = write_box(box, frame=frame, image_wh=_WH, input_wh=_WH, form=form.box)
    found = _read(plain.answer.format(box=written), plain, frame, thinking=False)
    return "answer_text" if _is_box(found, box, form, frame) else "box_text"


def _in_words(text: str, found: ParseResult, frame: CoordinateFrame, meant: str, expected: str) -> str:
    if found.box is not None:
        values = box_to_frame(found.box, frame, image_wh=_WH, input_wh=_WH)
        read = "the box [" + ", ".join(f"{value:g}" for value in values) + "]"
    else:
        read = str(found.status)
    strict = "" if found.is_strict else ", in no strict format"
    return (
        f"must let right answers be read as they are written: in {frame} {text!r} says {meant} and is read as {read}"
        f"{strict}, expected {expected}; set numbers off from digits and from texts of any kind, such as by brackets"
    )
