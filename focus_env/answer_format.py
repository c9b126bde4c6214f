"""The way in which a template writes boxes and answers, as data, and the strict format that follows from it.

    box      "[{x1}, {y1}, {x2}, {y2}]"          four numbers, x first or y first
    answer   "<answer>{box}</answer>"            the box and what stands around it
    absent   "<answer>none</answer>"             the object is not there

`{x1}` is written in the unit's own precision: whole numbers, three decimals in shares. `{x1:.1f}` has decimals,
`{x1:04}` leading zeros, and `{x1!r}` is not rounded at all. In an answer `{label}` is written as `LABEL` and read as
any short text, for formats that name what they box.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from focus_env.answer_text import ABSENT_WORD, ANSWER_CLOSE, ANSWER_OPEN
from focus_env.boxes import CoordinateFrame, Coordinates

NORM_1_DECIMALS = 3
"""Digits after the point in the frame `NORM_1` where a format says nothing else: as fine as `NORM_1000`."""
LABEL = "object"
"""The `{label}` of the answers that we write."""

Order = Literal["xyxy", "yxyx"]

_ORDERS: dict[tuple[str, ...], Order] = {("x1", "y1", "x2", "y2"): "xyxy", ("y1", "x1", "y2", "x2"): "yxyx"}
_NAMES = {"x1": "x_min", "y1": "y_min", "x2": "x_max", "y2": "y_max"}
_SPEC = re.compile(r"(?:\.([1-9])f|0([1-6])d?)?", re.ASCII)
# At most six digits: no image is larger, and such a number is finite.
_WHOLE, _DECIMAL = r"[0-9]{1,6}", r"[0-9]{1,6}(?:\.[0-9]{1,9})?"
_MOST_DECIMALS = 20
"""Of a number that is not rounded: 17 digits behind three zeros, since smaller ones are cut."""
_UNROUNDED = rf"[0-9]{{1,6}}(?:\.[0-9]{{1,{_MOST_DECIMALS}}})?"
_ANY_LABEL = r"[^\"'<>\[\](){}\n]{0,100}"
_LOCATION_TOKEN = "<loc{"


class _Number(NamedTuple):
    """A coordinate's place in a box.

    Attributes:
        name: `x1`, `y1`, `x2` or `y2`.
        decimals: Digits after the point; None: the unit's own.
        width: Least number of digits, by leading zeros.
        is_rounded: Whether it is rounded at all.
    """

    name: str
    decimals: int | None
    width: int
    is_rounded: bool


@functools.cache
def _pieces(text: str) -> tuple[str | _Number, ...]:
    """Return a box's format as literal texts and numbers, checked."""
    try:
        pieces = tuple(_read_pieces(text))
    except ValueError as error:
        raise ValueError(f"box format {text!r}: {error}; write a literal brace twice") from error
    numbers = [piece for piece in pieces if isinstance(piece, _Number)]
    if tuple(number.name for number in numbers) not in _ORDERS:
        raise ValueError(
            f"box format {text!r}: expected {{x1}}, {{y1}}, {{x2}} and {{y2}} once each, in this order or with y "
            f"first, got {[number.name for number in numbers]}"
        )
    if len({number[1:] for number in numbers}) != 1:
        raise ValueError(f"box format {text!r}: expected the same precision of all four numbers")
    if any(isinstance(a, _Number) and isinstance(b, _Number) for a, b in itertools.pairwise(pieces)):
        raise ValueError(f"box format {text!r}: expected something between the numbers, such as a comma")
    return pieces


def _read_pieces(text: str) -> Iterator[str | _Number]:
    for literal, name, spec, conversion in string.Formatter().parse(text):
        if literal:
            yield literal
        if name is None:
            continue
        found = _SPEC.fullmatch(spec or "")
        if name not in _NAMES or found is None or conversion not in (None, "r") or (conversion and spec):
            raise ValueError(
                f"expected the placeholders x1, y1, x2 and y2, each plain or with :.1f, :04 or !r, got {name!r} with "
                f"{spec or conversion!r}"
            )
        decimals, width = found.groups()
        yield _Number(name, None if decimals is None else int(decimals), int(width or 0), is_rounded=conversion is None)


@dataclass(frozen=True, slots=True)
class BoxFormat:
    """The way in which four coordinates are written.

    Attributes:
        text: The format; see this module.

    Raises:
        ValueError: If it has not each coordinate once, x before y or y before x throughout, in one of these precisions.
    """

    text: str = "[{x1}, {y1}, {x2}, {y2}]"

    def __post_init__(self) -> None:
        _pieces(self.text)

    @property
    def order(self) -> Order:
        """Whether x or y comes first."""
        return _ORDERS[tuple(piece.name for piece in _pieces(self.text) if isinstance(piece, _Number))]

    @property
    def in_words(self) -> str:
        """The format with names in place of numbers, `[x_min, y_min, x_max, y_max]`."""
        return "".join(piece if isinstance(piece, str) else _NAMES[piece.name] for piece in _pieces(self.text))

    @property
    def has_location_tokens(self) -> bool:
        """Whether it writes PaliGemma's tokens, of which each axis has 1024."""
        return _LOCATION_TOKEN in self.text

    def decimals(self, frame: CoordinateFrame) -> int | None:
        """Return how many digits stand behind the point in a frame; None: as many as it takes."""
        number = self._number
        if not number.is_rounded:
            return None
        if number.decimals is not None:
            return number.decimals
        return NORM_1_DECIMALS if frame is CoordinateFrame.NORM_1 else 0

    def has_fractions(self, frame: CoordinateFrame) -> bool:
        """Return whether numbers with a fraction are right in a frame."""
        return self.decimals(frame) != 0

    def check_frame(self, frame: CoordinateFrame) -> None:
        """Refuse a unit that the format cannot write.

        Raises:
            ValueError: If it has leading zeros and the unit has decimals, or it writes location tokens, which count in
                1024ths, and the unit is another.
        """
        if self.has_location_tokens and frame is not CoordinateFrame.NORM_1024:
            raise ValueError(
                f"box format {self.text!r}: expected the unit norm_1024, in which location tokens count, got {frame}; "
                "choose that `frame`, or another `template`"
            )
        if self._number.width and frame is CoordinateFrame.NORM_1:
            raise ValueError(f"box format {self.text!r}: expected a unit of whole numbers, got {frame}")

    def write(self, values: Coordinates, frame: CoordinateFrame) -> str:
        """Write four numbers in a frame's unit, already rounded."""
        decimals = self.decimals(frame)
        by_name = dict(zip(("x1", "y1", "x2", "y2"), values, strict=True))
        parts = []
        for piece in _pieces(self.text):
            if isinstance(piece, str):
                parts.append(piece)
            elif decimals is None:
                parts.append(_unrounded(float(by_name[piece.name])))
            else:
                parts.append(f"{by_name[piece.name]:0{piece.width}.{decimals}f}")
        return "".join(parts)

    def pattern(self, frame: CoordinateFrame) -> str:
        """Return a regular expression of boxes in this format, with a group for each coordinate."""
        pieces = _pieces(self.text)
        decimals = self.decimals(frame)
        parts = []
        for place, piece in enumerate(pieces):
            if isinstance(piece, str):
                parts.append(_between_numbers(piece, is_first=place == 0, is_last=place == len(pieces) - 1))
                continue
            number = _UNROUNDED if decimals is None else _DECIMAL if decimals else _WHOLE
            number = f"[0-9]{{{piece.width},6}}" if piece.width else number
            parts.append(f"(?P<{piece.name}>{number})")
        return "".join(parts)

    @property
    def _number(self) -> _Number:
        return next(piece for piece in _pieces(self.text) if isinstance(piece, _Number))


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFormat:
    """The way in which answers are written, and the texts that are strict.

    Attributes:
        box: How a box is written.
        answer: An answer for an object that is there; has `{box}` once and may have `{label}`.
        absent: The answer for one that is not.
        rejected: Another answer that says so, read and never written: it may hold a `{box}`, which is then that of
            another object. "": there is none.
        optional_tokens: What may be missing in a strict text, since decoding leaves special tokens out.
    """

    box: BoxFormat = BoxFormat()
    answer: str = ANSWER_OPEN + "{box}" + ANSWER_CLOSE
    absent: str = ANSWER_OPEN + ABSENT_WORD + ANSWER_CLOSE
    rejected: str = ""
    optional_tokens: tuple[str, ...] = ()

    @property
    def in_words(self) -> str:
        """The answer with names in place of numbers."""
        return self.answer.format(box=self.box.in_words, label=LABEL)

    def match(self, text: str, frame: CoordinateFrame) -> StrictAnswer | None:
        """Return what a strict text says; None for any other text.

        Args:
            text: Without blanks around it.
            frame: The unit of its numbers.
        """
        found = _strict_pattern(self, frame).fullmatch(text)
        if found is None:
            return None
        numbers = found.group("x1", "y1", "x2", "y2")
        if numbers[0] is None:
            return StrictAnswer(None)
        x1, y1, x2, y2 = (float(number) for number in numbers)
        return StrictAnswer((x1, y1, x2, y2))


class StrictAnswer(NamedTuple):
    """The content of a strict text: (x_min, y_min, x_max, y_max) in its unit, or None for an absent object."""

    values: Coordinates | None


PLAIN_BOX = BoxFormat()
PLAIN_ANSWER = AnswerFormat()
"""`<answer>[x_min, y_min, x_max, y_max]</answer>`, that of FOCUS (arXiv:2605.31145, sec. 5.1), or `none`."""


def fields_of(text: str) -> list[str]:
    """Return the names of the placeholders of a format text, in their order.

    Raises:
        ValueError: If its braces do not match.
    """
    return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]


def formats_of(text: str) -> list[str]:
    """Return what stands behind the colons and exclamation marks of a text's placeholders."""
    parts = list(string.Formatter().parse(text))
    return [spec for _, name, spec, _ in parts if name is not None and spec] + [how for *_, how in parts if how]


def _unrounded(value: float) -> str:
    """Return a number with all its digits and no exponent, which no model is taught to write."""
    text = repr(value)
    return np.format_float_positional(value, precision=_MOST_DECIMALS, trim="0") if "e" in text else text


def _between_numbers(literal: str, *, is_first: bool, is_last: bool) -> str:
    """Return a pattern of the text before, between or behind numbers, with any blanks beside these.

    Line ends and tabs are blanks where the format has some.
    """
    if "<" in literal or ">" in literal:
        return re.escape(literal)  # of tokens, which hold no blanks
    blank = r"\s" if re.search(r"[^\S ]", literal) else " "
    middle = f"{blank}*".join(re.escape(part) for part in re.findall(r"\w+|[^\w\s]", literal))
    if not middle:
        return f"{blank}*" if is_first or is_last else f"{blank}+"  # numbers that blanks alone divide
    before = not is_first or literal[0].isspace()
    behind = not is_last or literal[-1].isspace()
    return (f"{blank}*" if before else "") + middle + (f"{blank}*" if behind else "")


@functools.cache
def _strict_pattern(form: AnswerFormat, frame: CoordinateFrame) -> re.Pattern[str]:
    """Return a pattern of the strict texts in a frame. Its groups are empty where the object is not there."""
    box = form.box.pattern(frame)
    nameless = re.sub(r"\?P<[xy][12]>", "?:", box)
    kinds = [_surroundings(form.answer, box, form.optional_tokens)]
    kinds += [_surroundings(text, nameless, form.optional_tokens) for text in (form.absent, form.rejected) if text]
    return re.compile("|".join(kinds))


def _surroundings(text: str, box: str, optional_tokens: Sequence[str]) -> str:
    parts = []
    for literal, name, _, _ in string.Formatter().parse(text):
        parts.append(_loose_blanks(literal, optional_tokens))
        if name is not None:
            parts.append(box if name == "box" else _ANY_LABEL)
    return "".join(parts)


def _loose_blanks(literal: str, optional_tokens: Sequence[str]) -> str:
    """Return a pattern of a literal text in which any blanks stand where it has some, and tokens may be missing."""
    if optional_tokens:
        tokens = "|".join(re.escape(token) for token in sorted(optional_tokens, key=len, reverse=True))
        pieces = re.split(f"({tokens})", literal)
        return "".join(
            f"(?:{re.escape(piece)})?" if piece in optional_tokens else _loose_blanks(piece, ()) for piece in pieces
        )
    words = re.split(r"(\s+)", literal)
    parts = []
    for place, word in enumerate(words):
        if place % 2 == 0:
            parts.append(re.escape(word))
            continue
        before, behind = words[place - 1][-1:], words[place + 1][:1]
        parts.append(r"\s+" if before.isalnum() and behind.isalnum() else r"\s*")
    return "".join(parts)


def round_side(low: float, high: float, largest: int) -> tuple[int, int]:
    """Round the two ends of one side to whole units, at least one unit apart, within 0 to `largest`.

    >>> round_side(1.5, 2.5, 10), round_side(9.9, 10.0, 10)
    ((2, 3), (9, 10))
    """
    # floor(v + 0.5) shifts with its argument; round() goes to even and would turn (1.5, 2.5) into (2, 2).
    first, last = math.floor(low + 0.5), min(math.floor(high + 0.5), largest)
    if first >= last:
        first = min(math.floor((low + high) / 2), largest - 1)
        last = first + 1
    return first, last
