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
from typing import Literal, NamedTuple

ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
ABSENT_WORD = "none"
THOUGHT_OPEN, THOUGHT_CLOSE = "<think>", "</think>"

Order = Literal["asked", "named", "points", "tokens", "box_2d", "other"]

_MAX_BARE = 200
"""Characters of a text that can be a word for "not there", or four numbers and nothing else."""
_MAX_BETWEEN = 60
"""Characters between two points that make up a box."""


class FoundBox(NamedTuple):
    """Four numbers that a text gives for a box.

    Attributes:
        values: (x_min, y_min, x_max, y_max) in the unit of the text; any floats, NaN and infinity included.
        has_fraction: Whether one has a fraction, so that they are no coordinates in a unit of whole numbers.
        is_share: Whether they are shares such as `[0.0, 0.0, 1.0, 1.0]`, likewise.
        order: Where their order is from: "asked", the one that was asked for; "named", by their names, x first;
            "points", two of them; "tokens", location tokens, y first and in 1024ths; "box_2d", Gemini's, which has y
            first by its documentation, and x first where a prompt asks for that; "other", named as another one.
    """

    values: tuple[float, float, float, float]
    has_fraction: bool
    is_share: bool
    order: Order = "asked"


PLAIN = str.maketrans("［］【】（）｛｝＜＞−", "[][](){}<>-")
"""Brackets and the minus sign as some models write them, with those that the patterns know."""

# Closing tags alone have a group that matches.
_THOUGHT_TAG = re.compile(
    r"<\s{0,3}(/)?\s{0,3}(?:seed:)?(?:think|thinking|thoughts?|reason|reasoning|rationale|analysis|reflection"
    r"|scratchpad)\s{0,3}>"
    r"|\[(/)?THINK\]|◁(/)?think▷|<\|(/)?think\|>"
    r"|<\|(?:begin|start|(end))(?:_of)?_(?:thought|thinking)\|>"  # Command A, Sky-T1
    r"|<\|channel\|>(?:analysis|commentary|(final))[^<>]{0,40}<\|message\|>"  # gpt-oss
    # The same where a server has taken the tokens out, which leaves the names of role and channel in one word.
    r"|(?-i:\A\s{0,3}(?:analysis|commentary)(?=[A-Z])|assistant(?:analysis|commentary|(final)))"
    r"|<\|channel>thought|(<channel\|>)",  # Gemma
    re.IGNORECASE | re.ASCII,
)
_ANSWER_TAG = re.compile(r"<\s{0,3}(/?)\s{0,3}answer\s{0,3}>", re.IGNORECASE | re.ASCII)
_BOX_OPEN = r"<(?:b?box|bounding_box|\|box_start\||\|begin_of_box\|)>"
_BOX_CLOSE = r"<(?:/b?box|/bounding_box|\|box_end\||\|end_of_box\|)>"
_GROUP = re.compile(
    r"\[([^\[\](){}]*+)\]|\(([^\[\](){}]*+)\)|\{([^\[\](){}]*+)\}"
    rf"|{_BOX_OPEN}([^<>\[\](){{}}]*+){_BOX_CLOSE}"
    r"|((?:<loc[0-9]{1,4}>\s{0,3}+)++)",
    re.ASCII,
)
# Without re.ASCII, re.IGNORECASE takes the dotless i for an i, and float does not.
_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:e[+-]?[0-9]++)?|nan|inf(?:inity)?)", re.IGNORECASE | re.ASCII
)
_SEPARATOR = re.compile("[;,，；、]")
_NAMED = re.compile(r"""["']?([A-Za-z][A-Za-z0-9_ -]{0,15}?)["']?\s*[:=]\s*(\S{1,40})""", re.ASCII)
_NAMED_IN_ROW = re.compile(r"""["']?[A-Za-z][A-Za-z0-9_-]{0,15}+["']?\s{0,3}+[:=]\s{0,3}+[0-9.eE+-]{1,20}+""", re.ASCII)
_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("minx", "miny", "maxx", "maxy"),
    ("left", "top", "right", "bottom"),
)
_SIZES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"))
_CENTRES = (
    ("cx", "cy", "w", "h"),
    ("cx", "cy", "width", "height"),
    ("xcenter", "ycenter", "width", "height"),
    ("centerx", "centery", "width", "height"),
)
_POINTS = (("x", "y"), *(pair for names in _CORNERS for pair in (names[:2], names[2:])))
_BETWEEN_POINTS = re.compile(
    r"""\s*(?:[,;:，；、]|to|--?>?|–|—|→)?\s*(?:["']?(?:and\s+)?(?:the\s+)?(?:bottom|lower)[ _-]?right(?:\s+corner)?"""
    r"""["']?\s*(?:is\s+)?(?:at\s*)?[:=]?)?\s*""",
    re.IGNORECASE | re.ASCII,
)
_OTHER_ORDER = r"(?:yxyx|xywh|yxhw|[tl]{2}wh|cxcywh|xyxyxyxy)"
_OTHER_BEFORE = re.compile(
    r"""(?<![A-Za-z])(?:(box_?2d["']?\s*[:=])"""
    rf"""|{_OTHER_ORDER}(?![A-Za-z])["')]*+\s*(?:format|order|coordinates|box|is|are)?\s*[:=]?)\s*\[?\s*$""",
    re.IGNORECASE | re.ASCII,
)
_OTHER_BEHIND = re.compile(rf"[\]\s]{{0,3}}\(?(?:in |as )?{_OTHER_ORDER}(?![A-Za-z])", re.IGNORECASE | re.ASCII)
_OTHER_NAMES = re.compile(r"(?:y|top|c|w|h)|(?:x|left)[a-z0-9]*,(?:y|top)[a-z0-9]*,(?:w|h)|xcent")
"""How the names of four values begin, in a row with commas, where they are not x and y of two corners."""
_DIGITS = re.compile(r"[0-9]+", re.ASCII)


def behind_thoughts(text: str) -> str:
    """Return a text without its thoughts.

    A closing tag without an opening one ends a thought that began with the text, as the openings of some models stand
    in the prompt. A thought that does not end runs to the end of the text.
    """
    kept: list[str] = []
    position, is_thought = 0, False
    for tag in _THOUGHT_TAG.finditer(text):
        if any(tag.groups()):
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
    return any(any(tag.groups()) for tag in _THOUGHT_TAG.finditer(text))


def answer_spans(text: str) -> Iterator[str]:
    """Yield what stands between each opening answer tag and the closing tag that follows."""
    # Not a regular expression for both tags: "<answer>.*?</answer>" takes quadratic time on many opening tags without
    # a closing one.
    start = None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            start = tag.end() if start is None else start
        elif start is not None:
            yield text[start : tag.start()]
            start = None


def find_boxes(text: str) -> Iterator[FoundBox]:
    """Yield all boxes in a text, valid or not."""
    points: list[tuple[str, str]] = []
    previous_end, names_other = 0, False
    for group in _GROUP.finditer(text):
        values = _values(_content(group))
        is_numeric = len(values) in (2, 4) and all(_NUMBER.fullmatch(value) for value in values)
        point = tuple(values) if is_numeric and len(values) == 2 else _named_point(values)
        if points and not (point and _is_between(text, previous_end, group.start())):
            yield from _boxes_of_points(points)
            points = []
        gap = group.start() - previous_end
        previous_end = group.end()
        if point:
            points.append((point[0], point[1]))
        elif is_numeric:
            before = text[max(0, group.start() - _MAX_BETWEEN) : group.start()]
            names_other = names_other and gap <= _MAX_BETWEEN
            other = _OTHER_BEFORE.search(before)
            if names_other or _OTHER_BEHIND.match(text, group.end()):
                yield read_box(values, order="other")
            else:
                yield read_box(values, order="asked" if other is None else "box_2d" if other[1] else "other")
        elif group[5]:
            yield from _boxes_of_tokens(_DIGITS.findall(group[5]))
        elif (named := _named_box(values)) is not None:
            yield named
        names_other = not is_numeric and len(values) == 4 and _names_other_order(values)
    yield from _boxes_of_points(points)


def named_numbers(text: str) -> Iterator[FoundBox]:
    """Yield the box of a text that is four named numbers without brackets, and nothing else."""
    values = _NAMED_IN_ROW.findall(text) if len(text) <= _MAX_BARE else []
    rest = _NAMED_IN_ROW.sub("", text).strip(" \t\r\n,;.") if values else "."
    named = None if rest.strip(" \t\r\n,;") else _named_box([value.rstrip(".") for value in values])
    if named is not None:
        yield named


def bare_box(text: str) -> Iterator[FoundBox]:
    """Yield the box of a text that is four numbers without brackets, as may stand in answer tags."""
    if len(text) <= _MAX_BARE:
        values = _values(text)
        if len(values) == 4 and all(_NUMBER.fullmatch(value) for value in values):
            yield read_box(values)
        else:
            yield from named_numbers(text)


def read_box(values: Sequence[str], *, order: Order = "asked") -> FoundBox:
    """Return the box of four numbers in text."""
    x1, y1, x2, y2 = numbers = [float(value) for value in values]
    is_decimal = not all(map(str.isdigit, values))
    is_share = is_decimal and any("." in value for value in values) and all(0 <= number <= 1 for number in numbers)
    # A number that is not finite gets its own status.
    has_fraction = is_decimal and any(number % 1 != 0 for number in numbers if math.isfinite(number))
    return FoundBox((x1, y1, x2, y2), has_fraction, is_share, order)


def has_four_values(text: str) -> bool:
    """Return whether some square or round brackets hold four values with commas between them, whatever they are."""
    return any(group[0][0] in "[(" and group[0].count(",") == 3 for group in _GROUP.finditer(text))


def _is_between(text: str, start: int, end: int) -> bool:
    """Return whether a text between two points says that they are the two corners of a box."""
    between = text[start:end].strip()
    return len(between) <= _MAX_BETWEEN and _BETWEEN_POINTS.fullmatch(between) is not None


def _boxes_of_points(points: list[tuple[str, str]]) -> Iterator[FoundBox]:
    # Any two of three points could be meant: every neighbouring pair is a box, and so the answer is
    # ambiguous.
    for first, second in itertools.pairwise(points):
        yield read_box([*first, *second], order="points")


def _boxes_of_tokens(numbers: Sequence[str]) -> Iterator[FoundBox]:
    """Yield the boxes of location tokens in a row; none if their number is none of whole boxes."""
    if len(numbers) % 4 == 0:
        for start in range(0, len(numbers), 4):
            yield read_box(numbers[start : start + 4], order="tokens")


def _content(group: re.Match[str]) -> str:
    return next(content for content in group.groups() if content is not None)


def _values(content: str) -> list[str]:
    """Return the values in one pair of brackets, divided by commas or semicolons or, where there is none, by blanks."""
    content = content.strip().removesuffix("\\")  # "\[1, 2, 30, 40\]", as in LaTeX
    if _SEPARATOR.search(content) is None:
        return content.split()
    values = [value.strip().strip("\"'") for value in _SEPARATOR.split(content)]
    if len(values) == 5 and not values[4]:
        values.pop()  # "[1, 2, 30, 40,]"
    return values


def _names_other_order(values: Sequence[str]) -> bool:
    """Return whether four words are the names of a box's numbers, in another order than corners with x first."""
    names = [re.sub("[^a-z0-9]", "", value.lower()) for value in values]
    known = {name for convention in (*_CORNERS, *_SIZES, *_CENTRES) for name in convention}
    return all(name in known for name in names) and _OTHER_NAMES.match(",".join(names)) is not None


def _named_point(values: Sequence[str]) -> tuple[str, ...] | None:
    """Return the numbers of values such as `"x": 1, "y": 2`; None where these are no point."""
    named = (_by_name(values) if len(values) == 2 else None) or {}
    return next((tuple(named[name] for name in names) for names in _POINTS if set(names) == set(named)), None)


def _named_box(values: Sequence[str]) -> FoundBox | None:
    """Return the box of values such as `"x1": 1`, by their names; None where these are not just those of a box."""
    named = _by_name(values) if 4 <= len(values) <= 12 else None
    found = [box for conventions in (_CORNERS, _SIZES, _CENTRES) for box in _by_names(named or {}, conventions)]
    return found[0] if len(found) == 1 else None


def _by_name(values: Sequence[str]) -> dict[str, str] | None:
    """Return the numbers among named values, by their names in small letters; None if a name stands twice."""
    named: dict[str, str] = {}
    for value in values:
        match = _NAMED.fullmatch(value)
        if match is not None and _NUMBER.fullmatch(number := match[2].strip("\"'")):
            name = re.sub("[ _-]", "", match[1].lower())
            if name in named:
                return None
            named[name] = number
    return named


def _by_names(named: Mapping[str, str], conventions: tuple[tuple[str, ...], ...]) -> Iterator[FoundBox]:
    """Yield the boxes of named numbers, for each convention whose four names are all there."""
    for names in conventions:
        if all(name in named for name in names):
            box = read_box([named[name] for name in names], order="named")
            if conventions is not _CORNERS:
                x, y, width, height = box.values
                if conventions is _CENTRES:
                    x, y = x - width / 2, y - height / 2
                box = box._replace(values=(x, y, x + width, y + height))
            yield box
