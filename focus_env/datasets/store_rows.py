"""Rows of a store's tables: their schemas, and what a row has to hold to be an episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import pyarrow as pa

from focus_env.boxes import validate_box
from focus_env.errors import DatasetError
from focus_env.images import LARGEST_PICTURE
from focus_env.types import Box, Episode, Exemplar, Frame, Note

_WH = pa.list_(pa.int32(), 2)
_BOX = pa.list_(pa.float64(), 4)
EPISODES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("identity", pa.string()),
        ("category", pa.string()),
        ("support_frame", pa.list_(pa.int32())),
        ("support_name", pa.list_(pa.string())),
        ("support_wh", pa.list_(_WH)),
        ("support_box", pa.list_(_BOX)),
        ("support_note", pa.list_(pa.string())),
        ("query_frame", pa.int32()),
        ("query_name", pa.string()),
        ("query_wh", _WH),
        ("target_box", _BOX),
        ("target_note", pa.string()),
    ]
)
"""Boxes are `xyxy` in pixels of the picture as it is shown, null where the object is absent; sizes: (width, height)."""
FRAMES = pa.schema([("name", pa.string()), ("image", pa.binary()), ("path", pa.string())])
"""`image` is an encoded picture, or null where `path` names its file."""

SUPPORTS = ("support_frame", "support_name", "support_wh", "support_box", "support_note")
"""Columns that have a value for each support."""
ADVICE = "write the store again from its data set, or correct the row"


def episode_of(
    row: Mapping[str, Any], *, where: str, make_frame: Callable[[str, tuple[int, int], int], Frame]
) -> Episode:
    """Return the episode of a row, whose values are checked.

    Args:
        row: A row of `EPISODES`, as Python has it.
        where: Names the row in errors.
        make_frame: Gives the frame of a name, a (width, height) and a row of the frames' table.

    Raises:
        DatasetError: If a value is missing, of another kind, or a box is none inside its picture.
    """
    lengths = {column: len(row[column]) if isinstance(row[column], list) else None for column in SUPPORTS}
    for column, length in lengths.items():
        if not length or length != lengths["support_frame"]:
            raise DatasetError(
                f"{where}, column {column!r}: expected a value for each support, at least one and as many as in "
                f"'support_frame', got {_brief(row[column])}; {ADVICE}"
            )
    support = []
    for position in range(len(row["support_frame"])):
        number, name, wh, box, note = (_Value(where, column, row[column][position], position) for column in SUPPORTS)
        image_wh = wh.size()
        support.append(Exemplar(make_frame(name.text(), image_wh, number.row()), box.box(image_wh), note.note()))
    value = {column: _Value(where, column, row[column]) for column in row}
    query_wh = value["query_wh"].size()
    return Episode(
        episode_id=value["episode_id"].text(),
        support=tuple(support),
        query_frame=make_frame(value["query_name"].text(), query_wh, value["query_frame"].row()),
        target_box=None if row["target_box"] is None else value["target_box"].box(query_wh),
        identity=value["identity"].text(),
        category=None if row["category"] is None else value["category"].text(),
        target_note=value["target_note"].note(),
    )


class _Value:
    """A value of a row; each method gives it as one kind, or raises `DatasetError`."""

    def __init__(self, where: str, column: str, value: Any, position: int | None = None) -> None:
        of_support = "" if position is None else f", support {position}"
        self._where = f"{where}, column {column!r}{of_support}"
        self._value = value

    def text(self) -> str:
        if not isinstance(self._value, str):
            raise self._error("a text")
        return self._value

    def note(self) -> Note:
        if self._value not in get_args(Note):
            raise self._error(f"one of {get_args(Note)}")
        note: Note = self._value
        return note

    def row(self) -> int:
        if type(self._value) is not int or self._value < 0:
            raise self._error("a row of the frames' table, from 0")
        return self._value

    def size(self) -> tuple[int, int]:
        wh = self._value
        is_size = isinstance(wh, list) and len(wh) == 2 and all(type(side) is int and side > 0 for side in wh)
        if not is_size or wh[0] * wh[1] > LARGEST_PICTURE:
            raise self._error(f"a width and height from 1, and at most {LARGEST_PICTURE} pixels")
        return wh[0], wh[1]

    def box(self, image_wh: tuple[int, int]) -> Box:
        box = self._value
        if not isinstance(box, list) or len(box) != 4 or not all(type(side) in (int, float) for side in box):
            raise self._error("four numbers x1, y1, x2, y2 in pixels")
        try:
            validate_box((box[0], box[1], box[2], box[3]), image_wh, "the box")
        except ValueError as error:
            raise DatasetError(f"{self._where}: {error}; {ADVICE}") from None
        return Box(*box)

    def _error(self, expected: str) -> DatasetError:
        return DatasetError(f"{self._where}: expected {expected}, got {_brief(self._value)}; {ADVICE}")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
