"""Values as files of annotations have them: names, attributes, numbers, sizes, boxes before a turn."""

from __future__ import annotations

import json
from collections.abc import Mapping

from focus_env.images import LARGEST_PICTURE
from focus_env.text_files import as_name, finite_number
from focus_env.types import Box


def upright(image_wh: tuple[int, int], turn: int) -> tuple[int, int]:
    """Return a size after the turn that EXIF asks for."""
    return image_wh if turn < 5 else (image_wh[1], image_wh[0])


def turned_box(box: Box, image_wh: tuple[int, int], turn: int) -> Box:
    """Return a box after the turn that EXIF asks for.

    Args:
        box: `xyxy` in pixels before the turn.
        image_wh: (width, height) before the turn.
        turn: EXIF orientation, 1 to 8.
    """
    width, height = image_wh
    x1, y1, x2, y2 = box
    if turn in (2, 3, 7, 8):
        x1, x2 = width - x2, width - x1
    if turn in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    return Box(y1, x1, y2, x2) if turn >= 5 else Box(x1, y1, x2, y2)


def whole_size(stated: tuple[object, object] | None) -> tuple[int, int] | None:
    """Return a size as annotations state it; None where they state none, or 0, as some tools do."""
    sides = [finite_number(side) for side in stated or ()]
    if len(sides) != 2 or any(side is None or side < 1 or side != int(side) for side in sides):
        return None
    width, height = (int(side or 0) for side in sides)
    return (width, height) if width * height <= LARGEST_PICTURE else None


def as_label(value: object) -> str:
    """Return the name of an object, without blanks around it; empty if it is none."""
    return as_name(value).strip() if isinstance(value, str) else ""


def as_track(value: object) -> str:
    """Return a track's id as a text; empty for what says that there is none."""
    if isinstance(value, str):
        return as_name(value).strip()
    return str(value) if type(value) is int and value >= 0 else ""


def as_attribute(value: object) -> str | None:
    """Return the value of an attribute as a text; None if it says nothing."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return as_name(text)


def as_attributes(found: object) -> dict[str, str]:
    """Return attributes of a JSON object as texts; none if it is no object."""
    pairs = found.items() if isinstance(found, dict) else ()
    texts = {as_name(name).strip(): as_attribute(value) for name, value in pairs}
    return {name: text for name, text in texts.items() if name and text is not None}


def plain_attributes(attributes: Mapping[str, str]) -> dict[str, str | bool]:
    """Return attributes for JSON, with truth values as such."""
    return {name: {"true": True, "false": False}.get(text, text) for name, text in attributes.items()}


def as_written(number: float) -> float:
    """Return a number of pixels to a millionth, so that files are short."""
    return round(number, 6)


def plain_number(number: float) -> str:
    """Return a number of pixels as a text, to a millionth.

    >>> plain_number(12.0), plain_number(0.1 + 0.2)
    ('12', '0.3')
    """
    return f"{number:.6f}".rstrip("0").rstrip(".")
