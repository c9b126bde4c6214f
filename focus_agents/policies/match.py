"""Matching by edges, pixels, colours and features together: the best localizer that needs no download."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from focus_agents.policies.appearance import Appearance, Map, colour_evidence, cut_out, fine_enough, grid_wh, look
from focus_agents.policies.features import MAX_PIXELS, box_around, is_upright, see_again, turn_back
from focus_agents.policies.localizers import copy_last_support, picture_wh
from focus_agents.policies.template_match import MAX_SCORE, MIN_SPREAD, load_opencv, shrink
from focus_env.boxes import Coordinates, clip_box, iou
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray

MIN_SIDE = 2
"""Cells: smaller templates have no pattern."""
OCTAVES = tuple(step / 3 for step in range(-3, 4))
"""Sizes that are looked for, as powers of two of the support's box, both sides alike."""
STRETCHES = (-0.5, 0.0, 0.5)
"""Shapes likewise: width to height."""
RING = 0.2
"""Width of what is looked at around a box, in its sides."""
NUM_CANDIDATES = 200
"""Boxes that each support proposes."""
MAX_LOG_ODDS = 14.0
"""Of a transformation: more inliers do not say more surely that they are the object's. Ten to one, where each of some
100,000 places and sizes that `score_boxes` looks at counts as one."""
TIGHTNESS = 0.88
"""Mean IoU of boxes around transformed ones, upright ones included, on eight real clips."""


class Weights(NamedTuple):
    """Of what makes up the log of a box's odds, chosen on eight real clips.

    Attributes:
        edges: Of the evidence of edges.
        pixels: Of that of pixels.
        colours: Of the contrast of likely colours.
        size: Of squared octaves between the sizes of the box and of the support's.
    """

    edges: float = 1.6
    pixels: float = 1.2
    colours: float = 0.7
    size: float = 1.2


DEFAULT_WEIGHTS = Weights()


class Candidates(NamedTuple):
    """Boxes that may hold the object.

    Attributes:
        boxes: [n, 4], `xyxy` in pixels of the query.
        log_odds: [n], up to a constant.
    """

    boxes: npt.NDArray[np.float64]
    log_odds: npt.NDArray[np.float64]


NOTHING = Candidates(np.empty((0, 4)), np.empty(0))


@dataclass(frozen=True)
class AppearanceMatcher:
    """Finds the box that looks most like the supports' boxes, by edges, pixels, colours and features; a `Localizer`.

    Each support looks for its crop at several sizes and shapes and proposes its best boxes, with odds (`score_boxes`).
    The answer is the box of the largest expected IoU, if one of all that are proposed is right, by these odds
    (`expected_ious`). Where the object lay in the supports plays no part.

    These boxes are upright and of about the same share of the picture. A patterned object that is turned or of another
    size is found by its features (`propose_turned`): if the boxes around them have better odds than all upright ones
    together, they take part. A turned object without a pattern is found by its colours, if by anything.

    Without any candidate the answer is the last support's box at its place (`copy_last_support`).

    Args:
        weights: Of the parts of the odds.

    Raises:
        MissingDependencyError: If OpenCV is not installed.
    """

    weights: Weights = DEFAULT_WEIGHTS

    def __post_init__(self) -> None:
        load_opencv()

    def __call__(self, question: Observation, rng: np.random.Generator) -> Box:
        """Return the best box, `xyxy` in pixels of the query."""
        return self.scored(question, rng)[0]

    def scored(self, question: Observation, rng: np.random.Generator) -> tuple[Box, float]:
        """Return the best box, and its expected IoU if the object is there; 0 where there is nothing to match."""
        query = question["query_image"]
        see = functools.cache(lambda num_cells: look(query, num_cells))
        supports = list(zip(question["support_images"], question["support_boxes"].tolist(), strict=True))
        upright = join(propose(image, box, picture_wh(query), see, self.weights) for image, box in supports)
        turned = join(propose_turned(image, box, query, see, self.weights) for image, box in supports)
        found, trust = upright, 1.0
        if odds_together(turned) > odds_together(upright):
            found, trust = join([upright, turned]), TIGHTNESS
        if not len(found.boxes):
            return copy_last_support(question, rng), 0.0
        expected = expected_ious(found.boxes, found.log_odds)
        best = int(np.argmax(expected))
        return Box(*found.boxes[best].tolist()), float(expected[best]) * trust


def join(parts: Iterable[Candidates]) -> Candidates:
    """Return the candidates of all parts, at least one."""
    boxes, log_odds = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Candidates(boxes, log_odds)


def odds_together(candidates: Candidates) -> float:
    """Return the log of the sum of the odds."""
    return float(np.logaddexp.reduce(candidates.log_odds, initial=-np.inf))


def propose(
    image: ImageArray,
    box: Coordinates,
    query_wh: tuple[int, int],
    see: Callable[[int], Appearance],
    weights: Weights,
) -> Candidates:
    """Return the likeliest boxes by one support; none if its box lies outside or is too small or large.

    Args:
        image: The support, [H, W, 3] uint8.
        box: `xyxy` in its pixels.
        query_wh: (width, height) of the query in pixels.
        see: Gives the query on a grid of so many cells.
        weights: Of the parts of the odds.
    """
    inside = clip_box(box, picture_wh(image))
    if inside is None:
        return NOTHING
    num_cells = fine_enough(inside, picture_wh(image))
    support, seen = look(image, num_cells), see(num_cells)
    to_cells = np.tile(np.divide(grid_wh(support.colours), picture_wh(image)), 2)
    found = score_boxes(support, tuple((np.array(inside) * to_cells).tolist()), seen, weights)
    to_pixels = np.tile(np.divide(query_wh, grid_wh(seen.colours)), 2)
    return found._replace(boxes=found.boxes * to_pixels)


def propose_turned(
    image: ImageArray, box: Coordinates, query: ImageArray, see: Callable[[int], Appearance], weights: Weights
) -> Candidates:
    """Return the box where the features of one support's are; none where they are not found, or are upright.

    Of upright objects, boxes that are searched for are better: on real clips, features are often those of what is
    behind, which has not turned either. The odds are those that `score_boxes` gives, of the query turned back, times
    those that the transformation is right, up to `MAX_LOG_ODDS`.

    Args:
        image: The support, [H, W, 3] uint8.
        box: `xyxy` in its pixels.
        query: [h, w, 3] uint8.
        see: Gives the query on a grid of so many cells.
        weights: Of the parts of the odds.
    """
    inside = clip_box(box, picture_wh(image))
    if inside is None or (sighting := see_again(image, inside, query)) is None:
        return NOTHING
    if is_upright(sighting.matrix, picture_wh(image), picture_wh(query)):
        return NOTHING
    if (there := clip_box(box_around(sighting.matrix, inside), picture_wh(query))) is None:
        return NOTHING
    num_cells = fine_enough(inside, picture_wh(image))
    small = shrink(image, MAX_PIXELS)
    back = turn_back(query, sighting.matrix, picture_wh(image), picture_wh(small))
    support, seen = look(small, num_cells), look(back, num_cells)
    to_cells = np.tile(np.divide(grid_wh(support.colours), picture_wh(image)), 2)
    query_cells = math.prod(grid_wh(see(num_cells).colours)) / math.prod(picture_wh(query))
    covered = (inside.x2 - inside.x1) * (inside.y2 - inside.y1) * float(np.linalg.det(sighting.matrix[:, :2]))
    log_odds = score_place(support, tuple((np.array(inside) * to_cells).tolist()), seen, covered * query_cells, weights)
    return Candidates(np.array([there]), np.array([log_odds + min(sighting.log_odds, MAX_LOG_ODDS)]))


def score_place(support: Appearance, box: Coordinates, seen: Appearance, num_cells: float, weights: Weights) -> float:
    """Return the log of the odds, as in `score_boxes`, that the support's box is the same in another picture.

    Args:
        support: The support on a grid.
        box: `xyxy` in its cells.
        seen: The other picture on a grid of the same shape.
        num_cells: What the object covers where it was found.
        weights: Of the parts of the odds.
    """
    size = (max(1, round(box[2] - box[0])), max(1, round(box[3] - box[1])))
    mean_edges = seen.edges.mean(axis=(0, 1))
    template, place = (cut_out(one.edges - mean_edges, box, size) for one in (support, seen))
    alike = cosines(place, (place**2).sum(axis=2), template)
    same = correlations(*(cut_out(one.colours, box, size) for one in (seen, support)))
    colours = colour_evidence(support.colours, box, seen.colours)
    left, upper = (min(round(box[axis]), colours.shape[1 - axis] - size[axis]) for axis in (0, 1))
    root = num_cells**0.25
    log_odds = (
        weights.edges * evidence(alike, root)
        + weights.pixels * evidence(same, root)
        + weights.colours * contrast(colours, size)[upper, left] * root
    )
    return float(log_odds[0, 0])


def score_boxes(support: Appearance, box: Coordinates, query: Appearance, weights: Weights) -> Candidates:
    """Return the `NUM_CANDIDATES` likeliest boxes of all places, sizes and shapes, in cells of the query.

    The log of a box's odds is the weighted sum of the `evidence` of its edges and of its pixels and of the contrast of
    its colours, less the weighted square of its octaves.

    Args:
        support: The support on a grid.
        box: `xyxy` in its cells.
        query: The query on a grid.
        weights: Of these parts.
    """
    mean_edges = query.edges.mean(axis=(0, 1))
    there, here = query.edges - mean_edges, support.edges - mean_edges  # what is everywhere tells nothing apart
    power = (there**2).sum(axis=2)
    colours = colour_evidence(support.colours, box, query.colours)
    parts: list[Candidates] = []
    query_wh = grid_wh(query.colours)
    same_share = math.sqrt(math.prod(query_wh) / math.prod(grid_wh(support.colours)))
    for (width, height), octaves in sizes(box, query_wh, same_share):
        alike = cosines(there, power, cut_out(here, box, (width, height)))
        same = correlations(query.colours, cut_out(support.colours, box, (width, height)))
        root = (width * height) ** 0.25
        log_odds = (
            weights.edges * evidence(alike, root)
            + weights.pixels * evidence(same, root)
            + weights.colours * contrast(colours, (width, height)) * root
            - weights.size * octaves**2
        )
        best = top(log_odds.ravel())
        y, x = np.unravel_index(best, log_odds.shape)
        boxes = np.stack([x, y, x + width, y + height], axis=1).astype(np.float64)
        parts.append(Candidates(boxes, log_odds.ravel()[best].astype(np.float64)))
    if not parts:
        return NOTHING
    joined = join(parts)
    return Candidates(*(part[top(joined.log_odds)] for part in joined))


def top(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return the places of the `NUM_CANDIDATES` largest values."""
    return np.argpartition(-values, min(NUM_CANDIDATES, len(values)) - 1)[:NUM_CANDIDATES]


def sizes(box: Coordinates, query_wh: tuple[int, int], same_share: float) -> Iterator[tuple[tuple[int, int], float]]:
    """Yield the sizes that are looked for, in cells, each once, with its octaves; those left out that do not fit.

    Args:
        box: `xyxy` in cells of the support.
        query_wh: (width, height) of the query's grid.
        same_share: Factor at which a template fills as large a share of the query as the box does of its support.
    """
    seen = set()
    for octaves, stretch in sorted(itertools.product(OCTAVES, STRETCHES), key=lambda pair: abs(pair[0])):
        width = round((box[2] - box[0]) * same_share * 2 ** (octaves + stretch / 2))
        height = round((box[3] - box[1]) * same_share * 2 ** (octaves - stretch / 2))
        fits = MIN_SIDE <= width <= query_wh[0] and MIN_SIDE <= height <= query_wh[1]
        if fits and (width, height) not in seen:
            seen.add((width, height))
            yield (width, height), octaves


def cosines(cells: Map, power: Map, template: Map) -> Map:
    """Return the cosine between a template and each place, -1 to 1; 0 where either is nothing.

    Args:
        cells: [h, w, d].
        power: [h, w], their squared lengths.
        template: [height, width, d], nowhere larger.
    """
    cv2 = load_opencv()
    product = cv2.matchTemplate(cells, template, cv2.TM_CCORR)
    width, height = grid_wh(template)
    squares = windows(power, (width, height)) * (width * height * float((template**2).sum()))
    alike: Map = np.clip(product / np.sqrt(np.maximum(squares, 1e-6)), -1, 1)
    return alike


def correlations(cells: Map, template: Map) -> Map:
    """Return the correlation coefficient of a template of three channels with each place; 0 where either is flat."""
    cv2 = load_opencv()
    if math.sqrt(template.var(axis=(0, 1)).sum()) < MIN_SPREAD:  # OpenCV rates a flat template 1 everywhere
        return np.zeros((cells.shape[0] - template.shape[0] + 1, cells.shape[1] - template.shape[1] + 1), np.float32)
    scores: Map = cv2.matchTemplate(cells, template, cv2.TM_CCOEFF_NORMED)
    scores[~np.isfinite(scores)] = 0
    return scores.clip(-1, 1)


def contrast(values: Map, size_wh: tuple[int, int]) -> Map:
    """Return the mean of each window minus that of the ring around it; beyond the picture its edge goes on."""
    width, height = size_wh
    margins = [max(1, round(side * RING)) for side in size_wh]
    outer_wh = (width + 2 * margins[0], height + 2 * margins[1])
    # Of the ring's mean r, the window's i and that of both o: o is the mean of r and i, weighted by their areas.
    share_of_ring = np.float32(1 - width * height / math.prod(outer_wh))
    difference: Map = (windows(values, size_wh) - windows(values, size_wh, outer_wh)) / share_of_ring
    return difference


def windows(values: Map, size_wh: tuple[int, int], outer_wh: tuple[int, int] | None = None) -> Map:
    """Return the mean of each window of a size that lies in the picture, or of a larger one around it.

    Args:
        values: [h, w].
        size_wh: (width, height) of the windows.
        outer_wh: (width, height) of the larger ones; they reach beyond by as much on either side.
    """
    cv2 = load_opencv()
    width, height = size_wh
    means: Map = cv2.blur(values, outer_wh or size_wh, borderType=cv2.BORDER_REPLICATE)
    rows, columns = values.shape[0] - height + 1, values.shape[1] - width + 1
    return means[height // 2 :][:rows, width // 2 :][:, :columns]


def evidence(scores: Map, root: float) -> Map:
    """Weigh a map of scores as `template_match.evidence` does; `root` is the fourth root of the number of cells."""
    return np.arctanh(np.clip(scores, -MAX_SCORE, MAX_SCORE)).astype(np.float32) * np.float32(root)


def expected_ious(boxes: npt.NDArray[np.float64], log_odds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each box's expected IoU with the right one, if that is one of them, by their odds.

    >>> expected_ious(np.array([[0, 0, 4, 4], [0, 0, 4, 2], [9, 9, 10, 10.0]]), np.log([1, 1, 2])).tolist()
    [0.375, 0.375, 0.5]
    """
    odds = np.exp(log_odds - log_odds.max())
    return iou(boxes[:, None], boxes[None]) @ (odds / odds.sum())
