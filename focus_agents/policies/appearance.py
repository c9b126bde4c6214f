"""Describe a picture on a grid of cells, without anything learned: directions of edges, colours, likely colours.

Axis letters: h, w rows and columns of cells, d features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from focus_agents.policies.localizers import picture_wh
from focus_agents.policies.template_match import load_opencv, resize
from focus_env.boxes import Coordinates
from focus_env.types import Box, ImageArray

Map = npt.NDArray[np.float32]

NUM_CELLS = 96 * 96
"""Of a picture's grid, if the object is not small."""
OBJECT_CELLS = 64
"""An object has at least so many cells, if `MAX_CELLS` allows."""
MAX_CELLS = 4 * NUM_CELLS
PIXELS_PER_CELL = 3
"""Along a side: edges are looked at so much finer than cells."""
NUM_DIRECTIONS = 9
"""Bins of half a turn: an edge from dark to light counts as one from light to dark."""
EDGE_NOISE = 8.0
"""Grey levels: contrasts well below are not raised to full strength."""
MAX_SHARE = 0.4
"""Of one direction in the strength of a neighbourhood, as in HOG."""
COLOUR_BINS = (8, 16, 16)
"""Of lightness, and of OpenCV's a and b between `CHROMA_RANGE`."""
CHROMA_RANGE = (96.0, 160.0)
RARE = 2e-4
"""Added to shares of colours: what was hardly seen says little."""
MAX_LOG_RATIO = 3.0
CORE = 0.25
"""Standard deviation, in sides of the box, of the weights with which its pixels count as the object's: corners of a box
often show what is behind."""


class Appearance(NamedTuple):
    """A picture on a grid of cells.

    Attributes:
        colours: [h, w, 3], OpenCV's Lab of 8 bits.
        edges: [h, w, NUM_DIRECTIONS], strength by direction, relative to the neighbourhood.
    """

    colours: Map
    edges: Map


def look(image: ImageArray, max_cells: int) -> Appearance:
    """Return a picture on a grid of at most `max_cells`, up to rounding, and of no more than its pixels.

    Args:
        image: [H, W, 3] uint8.
        max_cells: Cells have nearly the shape of a pixel.
    """
    cv2 = load_opencv()
    cells_wh = shrunken_wh(picture_wh(image), max_cells)
    fine = resize(image, shrunken_wh(picture_wh(image), max_cells * PIXELS_PER_CELL**2))
    colours = cv2.cvtColor(resize(image, cells_wh), cv2.COLOR_RGB2LAB).astype(np.float32)
    edges = np.moveaxis(directions(fine), 2, 0)  # OpenCV takes the mean over areas of at most four channels together
    pooled = np.stack([cv2.resize(bin_, cells_wh, interpolation=cv2.INTER_AREA) for bin_ in edges], axis=2)
    pooled = cv2.GaussianBlur(pooled, (0, 0), 0.7)
    strength = np.sqrt(cv2.GaussianBlur((pooled**2).sum(axis=2), (0, 0), 2.0))
    return Appearance(colours, np.minimum(pooled / (strength[..., None] + EDGE_NOISE), MAX_SHARE))


def fine_enough(box: Box, image_wh: tuple[int, int]) -> int:
    """Return of how many cells a picture is looked at for the object in a box."""
    share = (box.x2 - box.x1) * (box.y2 - box.y1) / math.prod(image_wh)
    return round(min(max(NUM_CELLS, OBJECT_CELLS / share), MAX_CELLS))


def shrunken_wh(image_wh: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """Return (width, height) in nearly the same shape with at most `max_pixels`, up to rounding; never larger."""
    factor = min(1.0, math.sqrt(max_pixels / math.prod(image_wh)))
    width, height = (max(1, round(side * factor)) for side in image_wh)
    return width, height


def grid_wh(cells: Map) -> tuple[int, int]:
    """Return (width, height) of a grid [h, w] or [h, w, d]."""
    return cells.shape[1], cells.shape[0]


def directions(image: ImageArray) -> Map:
    """Return the strength of edges by their direction, [H, W, NUM_DIRECTIONS], each shared by the two nearest bins.

    A pixel's edge is that of the colour channel in which it is strongest.
    """
    cv2 = load_opencv()
    pixels = image.astype(np.float32)
    slopes = np.stack([cv2.Sobel(pixels, -1, 1, 0, ksize=1), cv2.Sobel(pixels, -1, 0, 1, ksize=1)])
    strongest = (slopes**2).sum(axis=0).argmax(axis=2)[None, ..., None]
    x, y = np.take_along_axis(slopes, strongest, axis=3)[..., 0]
    strength, place = np.hypot(x, y), (np.arctan2(y, x) / np.pi % 1) * NUM_DIRECTIONS
    lower = np.floor(place)
    upper_share = place - lower
    bins = lower.astype(np.int64)[..., None] % NUM_DIRECTIONS
    histogram = np.zeros((*strength.shape, NUM_DIRECTIONS), np.float32)
    np.put_along_axis(histogram, bins, (strength * (1 - upper_share))[..., None], axis=2)
    np.put_along_axis(histogram, (bins + 1) % NUM_DIRECTIONS, (strength * upper_share)[..., None], axis=2)
    return histogram


def cut_out(cells: Map, box: Coordinates, size_wh: tuple[int, int]) -> Map:
    """Return what lies in a box at another size, [height, width, d].

    Args:
        cells: [h, w, d].
        box: `xyxy` in cells, anywhere between them.
        size_wh: (width, height).
    """
    cv2 = load_opencv()
    x_step, y_step = (box[2] - box[0]) / size_wh[0], (box[3] - box[1]) / size_wh[1]
    if max(x_step, y_step) > 1.1:  # what gets smaller is smoothed first, or it would be sampled here and there
        sigmas = [max(step / 2.5 - 0.3, 0.01) for step in (x_step, y_step)]
        cells = cv2.GaussianBlur(cells, (0, 0), sigmaX=sigmas[0], sigmaY=sigmas[1])
    start = (box[0] + x_step / 2 - 0.5, box[1] + y_step / 2 - 0.5)
    matrix = np.array([[x_step, 0, start[0]], [0, y_step, start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut: Map = cv2.warpAffine(cells, matrix, size_wh, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cut.reshape(size_wh[1], size_wh[0], -1)


def colour_evidence(support: Map, box: Coordinates, query: Map) -> Map:
    """Return how much likelier each cell's colour is in the support's box than around it, the log of the ratio, [h, w].

    Args:
        support: Colours of the support.
        box: `xyxy` in its cells.
        query: Colours of the query.
    """
    bins = colour_bins(support)
    core, outside = box_weights(box, grid_wh(support))
    ratio = np.log((colour_shares(bins, core) + RARE) / (colour_shares(bins, outside) + RARE))
    return np.clip(ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO).astype(np.float32)[colour_bins(query)]


def colour_bins(colours: Map) -> npt.NDArray[np.int64]:
    """Return the number of each cell's colour, [h, w]."""
    least, most = CHROMA_RANGE
    shares = np.concatenate([colours[..., :1] / 256, (colours[..., 1:] - least) / (most - least)], axis=2)
    places = np.clip(np.floor(shares * COLOUR_BINS), 0, np.subtract(COLOUR_BINS, 1)).astype(np.int64)
    return np.ravel_multi_index(tuple(np.moveaxis(places, 2, 0)), COLOUR_BINS)


def colour_shares(bins: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the share of each colour, smoothed with its neighbours by 1/4, 1/2, 1/4; zero where nothing has weight."""
    counts = np.bincount(bins.ravel(), weights.ravel(), minlength=math.prod(COLOUR_BINS)).astype(np.float64)
    counts = counts.reshape(COLOUR_BINS)
    for axis in range(3):
        padded = np.pad(counts, [(int(axis == other),) * 2 for other in range(3)], mode="edge")
        before, here, after = (padded.take(range(k, k + COLOUR_BINS[axis]), axis) for k in range(3))
        counts = before / 4 + here / 2 + after / 4
    return (counts / max(counts.sum(), 1e-9)).ravel()


def box_weights(box: Coordinates, cells_wh: tuple[int, int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how much each cell counts as the object's and as what is around it, [h, w] each."""
    inside, core = [], []
    for start, end, count in ((box[1], box[3], cells_wh[1]), (box[0], box[2], cells_wh[0])):
        places = np.arange(count) + 0.5
        inside.append(np.clip(np.minimum(places - start, end - places) + 0.5, 0, 1))
        core.append(inside[-1] * np.exp(-(((places - (start + end) / 2) / max(end - start, 1) / CORE) ** 2) / 2))
    return np.outer(*core), 1 - np.outer(*inside)
