"""Find answers in a text: thoughts, answer tags, boxes in the forms that models write, and words for "not there".

`focus_env.parsing` states the rules and judges the numbers that are found here. Each function takes linear time on any
text: the innermost groups of the patterns cannot overlap, the possessive quantifiers (++) never give back what they
took, and the rest looks at a bounded number of characters.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
ABSENT_WORD = "none"
THOUGHT_OPEN, THOUGHT_CLOSE = "<think>", "</think>"

ABSENT_WORDS = frozenset(
    {
        "none",
        "null",
        "nil",
        "absent",
        "nothing",
        "n/a",
        "not applicable",
        "no object",
        "no objects",
        "no box",
        "no boxes",
        "no bounding box",
        "no bounding boxes",
        "no match",
        "no matches",
        "no target",
        "no detection",
        "no detections",
        "none found",
        "not found",
        "not present",
        "not visible",
        "not there",
        "not in the image",
        "not in the picture",
        "object not found",
        "there are none",
        "there is none",
    }
)
"""Texts that say that the object is not there, in lower case, where nothing else stands in the text or its tags."""

_MAX_BARE = 200
"""Characters of a text that can be a word for "not there", or four numbers and nothing else."""
_MAX_BETWEEN = 60
"""Characters between two points that make up a box."""


class FoundBox(NamedTuple):
    """Four numbers that a text gives for a box.

    Attributes:
        values: (x_min, y_min, x_max, y_max) in the unit of the text; any floats, NaN and infinity included.
        is_whole: Whether they can be coordinates in a unit of whole numbers: none has a fraction, and they are not
            shares such as `[0.0, 0.0, 1.0, 1.0]`.
        is_ordered: Whether the order is known. Gemini's `box_2d` has y first, by its documentation, and x first where
            a prompt asks for that.
    """

    values: tuple[float, float, float, float]
    is_whole: bool
    is_ordered: bool = True


_THOUGHT_TAG = re.compile(
    r"</?(?:seed:)?(?:think|thinking|thought|reasoning)>|\[/?THINK\]|◁/?think▷", re.IGNORECASE | re.ASCII
)
_GROUP = re.compile(
    r"\[([^\[\](){}]*+)\]|\(([^\[\](){}]*+)\)|\{([^\[\](){}]*+)\}|<b?box>([^<>\[\](){}]*+)</b?box>", re.ASCII
)
# Without re.ASCII, re.IGNORECASE takes the dotless i for an i, and float does not.
_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:e[+-]?[0-9]++)?|nan|inf(?:inity)?)", re.IGNORECASE | re.ASCII
)
_SEPARATOR = re.compile("[;,，；、]")
_NAMED = re.compile(r"""["']?([A-Za-z][A-Za-z0-9_ -]{0,15}?)["']?\s*[:=]\s*(\S{1,40})""", re.ASCII)
_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("minx", "miny", "maxx", "maxy"),
    ("left", "top", "right", "bottom"),
)
_SIZES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"))
_BETWEEN_POINTS = re.compile(
    r"""\s*(?:[,;:，；、]|to|--?>?|–|—|→)?\s*(?:["']?(?:and\s+)?(?:the\s+)?(?:bottom|lower)[ _-]?right(?:\s+corner)?"""
    r"""["']?\s*(?:is\s+)?(?:at\s*)?[:=]?)?\s*""",
    re.IGNORECASE | re.ASCII,
)
_Y_FIRST = re.compile(r"""(?<![A-Za-z])box_2d["']?\s*[:=]\s*\[?\s*$""", re.IGNORECASE | re.ASCII)
_FENCED = re.compile(r"```[a-z]*\s*(.*?)\s*```", re.IGNORECASE | re.DOTALL | re.ASCII)
_ANSWER_IS = re.compile(r"(?:the |my )?(?:final )?answer(?: is)?\s*[:=]?\s*", re.ASCII)
_NO_BOXES = re.compile(
    r"""\[\]|\[\[\]\]|\{\}|\[\{\}\]|\[(?:null|none)(?:,(?:null|none)){0,3}\]"""
    r"""|\[?\{(?:"label":"[^"]*",)?"(?:bbox_2d|bbox|box_2d|box|bounding_box|bboxes|boxes|objects|detections|answer)":"""
    r"""(?:null|\[\]|\[(?:null,?){4}\]|"none"|"null"|"")(?:,"label":"[^"]*")?\}\]?""",
    re.ASCII,
)


def behind_thoughts(text: str) -> str:
    """Return a text without its thoughts.

    A closing tag without an opening one ends a thought that began with the text, as the openings of some models stand
    in the prompt. A thought that does not end runs to the end of the text.
    """
    kept: list[str] = []
    position, is_thought = 0, False
    for tag in _THOUGHT_TAG.finditer(text):
        if "/" in tag[0]:
            if not is_thought:
                kept.clear()
            is_thought = False
        else:
            if not is_thought:
                kept.append(text[position : tag.start()])
            is_thought = True
        position = tag.end()
    if not is_thought:
        kept.append(text[position:])
    return "".join(kept)


def ends_a_thought(text: str) -> bool:
    """Return whether a text holds the end of a thought."""
    return any("/" in tag[0] for tag in _THOUGHT_TAG.finditer(text))


def answer_spans(text: str) -> Iterator[str]:
    """Yield what stands between each opening answer tag and the closing tag that follows."""
    # Not a regular expression: "<answer>.*?</answer>" takes quadratic time on many opening tags without a
    # closing one.
    end = 0
    while (start := text.find(ANSWER_OPEN, end)) >= 0:
        start += len(ANSWER_OPEN)
        end = text.find(ANSWER_CLOSE, start)
        if end < 0:
            return
        yield text[start:end]


def says_absent(text: str) -> bool:
    r"""Return whether a text says that the object is not there, and nothing else.

    >>> [says_absent(text) for text in ("None.", '```json\n[]\n```', "none of them")]
    [True, True, False]
    """
    text = text.strip()
    if len(text) > _MAX_BARE:
        return False
    fenced = _FENCED.fullmatch(text)
    text = (fenced[1] if fenced else text).strip().lower()
    if _NO_BOXES.fullmatch("".join(text.split()).replace("'", '"')):
        return True
    words = text.strip("\"'`*_.! \t\n")
    prefix = _ANSWER_IS.match(words)
    words = words[prefix.end() if prefix else 0 :].strip("\"'`*_.! \t\n")
    return " ".join(words.split()) in ABSENT_WORDS


def find_boxes(text: str) -> Iterator[FoundBox]:
    """Yield all boxes in a text, valid or not."""
    points: list[tuple[str, str]] = []
    previous_end = 0
    for group in _GROUP.finditer(text):
        values = _values(_content(group))
        is_numeric = len(values) in (2, 4) and all(_NUMBER.fullmatch(value) for value in values)
        if points and not (is_numeric and len(values) == 2 and _is_between(text, previous_end, group.start())):
            yield from _boxes_of_points(points)
            points = []
        previous_end = group.end()
        if is_numeric and len(values) == 2:
            points.append((values[0], values[1]))
        elif is_numeric:
            before = text[max(0, group.start() - _MAX_BETWEEN) : group.start()]
            yield read_box(values, is_ordered=_Y_FIRST.search(before) is None)
        elif (named := _named_box(values)) is not None:
            yield named
    yield from _boxes_of_points(points)


def bare_box(text: str) -> Iterator[FoundBox]:
    """Yield the box of a text that is four numbers without brackets, as may stand in answer tags."""
    if len(text) <= _MAX_BARE:
        values = _values(text)
        if len(values) == 4 and all(_NUMBER.fullmatch(value) for value in values):
            yield read_box(values)


def read_box(values: Sequence[str], *, is_ordered: bool = True) -> FoundBox:
    """Return the box of four numbers in text."""
    x1, y1, x2, y2 = numbers = [float(value) for value in values]
    is_decimal = not all(map(str.isdigit, values))
    is_share = is_decimal and any("." in value for value in values) and all(0 <= number <= 1 for number in numbers)
    # A number that is not finite gets its own status.
    has_fraction = is_decimal and any(number % 1 != 0 for number in numbers if math.isfinite(number))
    return FoundBox((x1, y1, x2, y2), is_whole=not (is_share or has_fraction), is_ordered=is_ordered)


def has_four_values(text: str) -> bool:
    """Return whether some square or round brackets hold four values with commas between them, whatever they are."""
    return any(group[0][0] in "[(" and group[0].count(",") == 3 for group in _GROUP.finditer(text))


def _is_between(text: str, start: int, end: int) -> bool:
    """Whether a text between two points says that they are the two corners of a box."""
    between = text[start:end].strip()
    return len(between) <= _MAX_BETWEEN and _BETWEEN_POINTS.fullmatch(between) is not None


def _boxes_of_points(points: list[tuple[str, str]]) -> Iterator[FoundBox]:
    # Any two of three points could be meant: every neighbouring pair is a box, and so the answer is
    # ambiguous.
    for first, second in itertools.pairwise(points):
        yield read_box([*first, *second])


def _content(group: re.Match[str]) -> str:
    return next(content for content in group.groups() if content is not None)


def _values(content: str) -> list[str]:
    """The values in one pair of brackets, divided by commas or semicolons or, where there is none, by blanks."""
    content = content.strip().removesuffix("\\")  # "\[1, 2, 30, 40\]", as in LaTeX
    if _SEPARATOR.search(content) is None:
        return content.split()
    values = [value.strip().strip("\"'") for value in _SEPARATOR.split(content)]
    if len(values) == 5 and not values[4]:
        values.pop()  # "[1, 2, 30, 40,]"
    return values


def _named_box(values: list[str]) -> FoundBox | None:
    """The box of values such as `"x1": 1`, by their names; None where these are not just those of a box."""
    if not 4 <= len(values) <= 12:
        return None
    named: dict[str, str] = {}
    for value in values:
        match = _NAMED.fullmatch(value)
        if match is not None and _NUMBER.fullmatch(number := match[2].strip("\"'")):
            name = re.sub("[ _-]", "", match[1].lower())
            if name in named:
                return None
            named[name] = number
    found = [*_by_names(named, _CORNERS), *_by_names(named, _SIZES)]
    return found[0] if len(found) == 1 else None


def _by_names(named: Mapping[str, str], conventions: tuple[tuple[str, ...], ...]) -> Iterator[FoundBox]:
    """The boxes of named numbers, for each convention whose four names are all there."""
    for names in conventions:
        if all(name in named for name in names):
            box = read_box([named[name] for name in names])
            if conventions is _SIZES:
                x, y, width, height = box.values
                box = box._replace(values=(x, y, x + width, y + height))
            yield box
