"""Map each image token to the part of a picture that it shows.

Most families cut a picture into one grid of tokens. Others cut it into tiles with a grid each, add the whole picture
once more at a lower resolution, or pad it to a square. `View` describes a grid. The image tokens of a picture are those
of its views, one view after the other, whatever stands between them in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from focus_env.types import Box

ImageSize = tuple[int, int]
"""(width, height) in pixels."""


class View(NamedTuple):
    """A grid of image tokens over a part of a picture, row by row.

    Attributes:
        rows: Rows of tokens.
        columns: Tokens of a row that show something.
        area: x1, y1, x2, y2 of the part, as shares of the picture's width and height. Beyond 0 to 1 lies padding.
        row_end: Tokens at the end of each row that show nothing.
        end: Tokens behind the grid that show nothing.
    """

    rows: int
    columns: int
    area: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    row_end: int = 0
    end: int = 0

    @property
    def num_tokens(self) -> int:
        """All tokens, those included that show nothing."""
        return self.rows * (self.columns + self.row_end) + self.end

    def tokens(self) -> npt.NDArray[np.int64]:
        """Return [rows, columns] int64, the number of each cell's token, counted from the first token of the view."""
        starts = np.arange(self.rows, dtype=np.int64)[:, None] * (self.columns + self.row_end)
        return starts + np.arange(self.columns, dtype=np.int64)


def tile_views(tiles: tuple[int, int], tokens: tuple[int, int]) -> list[View]:
    """Return the views of a picture that is cut into equal tiles, row by row.

    Args:
        tiles: (rows, columns) of tiles.
        tokens: (rows, columns) of a tile's tokens.
    """
    rows, columns = tiles
    return [
        View(*tokens, area=(column / columns, row / rows, (column + 1) / columns, (row + 1) / rows))
        for row in range(rows)
        for column in range(columns)
    ]


def num_image_tokens(views: Sequence[View]) -> int:
    """Return how many image tokens a picture has."""
    return sum(view.num_tokens for view in views)


def box_tokens(box: Box, image_wh: ImageSize, views: Sequence[View]) -> npt.NDArray[np.int64]:
    """Return the image tokens that show what a box holds: in each view, the cells whose centres lie in the box.

    A view with no such cell gives the cell that holds the box's own centre, if the centre lies in the view.

    Args:
        box: `xyxy` in pixels of the picture.
        image_wh: (width, height) of the picture in pixels.
        views: The picture's.

    Returns:
        [tokens] int64 in rising order, counted from the picture's first image token.

    >>> box_tokens(Box(0, 0, 64, 30), (64, 64), [View(4, 4)])
    array([0, 1, 2, 3, 4, 5, 6, 7])
    >>> left_half = View(2, 2, area=(0.0, 0.0, 0.5, 1.0), row_end=1)
    >>> box_tokens(Box(0, 0, 64, 30), (64, 64), [left_half, View(1, 1)])
    array([0, 1, 6])
    """
    found, start = [np.zeros(0, dtype=np.int64)], 0
    for view in views:
        rows = _inside(box.y1, box.y2, image_wh[1], view.area[1], view.area[3], view.rows)
        columns = _inside(box.x1, box.x2, image_wh[0], view.area[0], view.area[2], view.columns)
        found.append(start + view.tokens()[np.ix_(rows, columns)].ravel())
        start += view.num_tokens
    return np.concatenate(found)


def _inside(low: float, high: float, size: int, start: float, stop: float, cells: int) -> npt.NDArray[np.int64]:
    """Return [n] int64, the cells along an axis whose centres lie from `low` to `high`, or the one with the middle.

    Args:
        low: In pixels of the picture, as `high`.
        high: At least `low`.
        size: Of the picture along the axis.
        start: Where the first cell begins, as a share of `size`.
        stop: Where the last one ends.
        cells: How many there are.
    """
    span = size * (stop - start)
    centres = (np.arange(cells) + 0.5) * span / cells + size * start
    inside = np.flatnonzero((centres >= low) & (centres <= high))
    if len(inside):
        return inside
    middle = ((low + high) / 2 - size * start) / span * cells
    # A box may end at the picture's edge, where the last cell ends.
    holds_middle = 0 <= middle <= cells if stop >= 1 else 0 <= middle < cells
    return np.array([min(int(middle), cells - 1)] if holds_middle else [], dtype=np.int64)


def paint(shares: npt.NDArray[np.float32], views: Sequence[View]) -> npt.NDArray[np.float32]:
    """Return a map over a picture of what its image tokens have, summed over its views.

    Args:
        shares: [tokens] float32, of the picture's image tokens.
        views: The picture's.

    Returns:
        [rows, columns] float32: the tokens of one view over the whole picture themselves. Of several views, or one with
        padding, a grid as fine as the finest view's, over which each token's share is spread evenly. The sum is that of
        the tokens that show a part of the picture.
    """
    if len(views) == 1 and views[0].area == (0.0, 0.0, 1.0, 1.0):
        return shares[views[0].tokens()].astype(np.float32)
    # A picture of 200 to 1 that is padded to a square is thinner than a cell of it.
    rows = max(1, *(round(view.rows / (view.area[3] - view.area[1])) for view in views))
    columns = max(1, *(round(view.columns / (view.area[2] - view.area[0])) for view in views))
    painted = np.zeros((rows, columns), dtype=np.float32)
    start = 0
    for view in views:
        at_rows = _cells_under(rows, view.area[1], view.area[3], view.rows)
        at_columns = _cells_under(columns, view.area[0], view.area[2], view.columns)
        shown = np.ix_(at_rows >= 0, at_columns >= 0)
        token = view.tokens()[np.ix_(at_rows[at_rows >= 0], at_columns[at_columns >= 0])]
        count = np.bincount(token.ravel(), minlength=view.num_tokens)
        painted[shown] += shares[start + token] / np.maximum(count, 1)[token]
        start += view.num_tokens
    return painted


def _cells_under(points: int, start: float, stop: float, cells: int) -> npt.NDArray[np.int64]:
    """Return [points] int64, a view's cell along an axis under each of evenly spaced points; -1 outside the view."""
    share = ((np.arange(points) + 0.5) / points - start) / (stop - start)
    return np.where((share >= 0) & (share < 1), np.floor(share * cells), -1).astype(np.int64)
