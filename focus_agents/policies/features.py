"""Find a flat patterned object that is turned or of another size: local features and one transformation.

SIFT features of the support are paired with those of the query by the ratio test (Lowe 2004), and RANSAC (Fischler &
Bolles 1981) fits an affine transformation to the pairs; both are OpenCV's. Brown & Lowe (2007) say how many pairs must
agree. Ours is the surroundings' part: a box also holds what is behind the object, and where that alone was found again,
its place is not the object's. So what moves as the surroundings do does not count as the object's.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from focus_agents.policies.localizers import picture_wh
from focus_agents.policies.template_match import load_opencv, shrink
from focus_env.boxes import Coordinates
from focus_env.types import Box, ImageArray

Points = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]

MAX_PIXELS = 640 * 480
"""Larger pictures are shrunk to so many: features take time in proportion."""
RATIO = 0.8
"""A pair counts if its descriptors are nearer by this than the second nearest; Lowe's value."""
TOLERANCE = 3.0
"""Pixels of the shrunken query by which a pair may miss the transformation."""
INLIERS_IF_RIGHT = 0.7
INLIERS_IF_WRONG = 0.01
"""Probability that a pair agrees with a right transformation and with a wrong one; Brown & Lowe's."""
WEIGHT = math.log(INLIERS_IF_RIGHT / INLIERS_IF_WRONG) + math.log((1 - INLIERS_IF_WRONG) / (1 - INLIERS_IF_RIGHT))
"""Of an inlier in place of an outlier, in the log of the odds that a transformation is right."""
LEAST_INLIERS = 5.9
"""Pairs that have to agree, besides a share of all (`excess`); theirs."""
MAX_LAYERS = 3
"""Transformations of the surroundings that are looked for: things at different distances move differently."""
MAX_STRETCH = 3.0
"""A transformation that stretches one direction so much more than another is none of a thing seen again."""
MAX_SCALE = 10.0
"""Likewise one that makes it so many times larger or smaller."""
MAX_INSIDE = 2000
MAX_AROUND = 1000
"""Features of the box and of its surroundings that are paired; time goes with their number."""
MIN_TURN = 30.0
"""Degrees up to which an object counts as upright."""
MAX_FACTOR = 2.0
"""So many times larger or smaller, as a part of the picture, an object still has about the size of before."""
NUM_KEPT = 32
"""Pictures whose features are kept, since supports are asked for again and again."""


class Features(NamedTuple):
    """Places in a picture that can be told again.

    Attributes:
        places: [n, 2], x and y in pixels.
        descriptors: [n, 128] float32.
    """

    places: Points
    descriptors: npt.NDArray[np.float32]

    def some(self, which: npt.NDArray[np.bool_], most: int) -> Features:
        """Return those that are marked, evenly thinned to at most so many."""
        chosen = np.flatnonzero(which)
        chosen = chosen[:: max(1, math.ceil(len(chosen) / most))]
        return Features(self.places[chosen], self.descriptors[chosen])


class Pairs(NamedTuple):
    """Features of two pictures that look alike.

    Attributes:
        starts: [n, 2], places in the support.
        ends: [n, 2], those of their partners in the query.
    """

    starts: Points
    ends: Points

    def some(self, which: npt.NDArray[np.bool_]) -> Pairs:
        """Return those that are marked."""
        return Pairs(self.starts[which], self.ends[which])


class Fit(NamedTuple):
    """A transformation that enough pairs agree with.

    Attributes:
        matrix: [2, 3], from pixels of the support to those of the query.
        num_inliers: Pairs that agree.
    """

    matrix: Matrix
    num_inliers: int


class Sighting(NamedTuple):
    """The object as its features are seen again.

    Attributes:
        matrix: [2, 3], from pixels of the support to those of the query.
        log_odds: That the transformation is right, by its inliers; 0 if the surroundings moved alike, so that these may
            be of what is behind.
    """

    matrix: Matrix
    log_odds: float


def see_again(support: ImageArray, box: Coordinates, query: ImageArray) -> Sighting | None:
    """Return where the box's features are in the query; None if too few agree.

    Args:
        support: [H, W, 3] uint8.
        box: `xyxy` in its pixels.
        query: [H, W, 3] uint8.
    """
    known = find_features(support)
    inside = is_central(known.places, box)
    if not is_enough(int(inside.sum())):
        return None
    seen = find_features(query)
    objects = pair_features(known.some(inside, MAX_INSIDE), seen)
    if not is_enough(len(objects.starts)):
        return None
    tolerance = TOLERANCE * math.sqrt(max(1.0, math.prod(picture_wh(query)) / MAX_PIXELS))
    around, own = pair_features(known.some(~is_inside(known.places, box), MAX_AROUND), seen), objects
    for _ in range(MAX_LAYERS):
        layer = fit_transformation(around, tolerance)
        if layer is None:
            break
        around, own = (pairs.some(misses(layer.matrix, pairs) > 2 * tolerance) for pairs in (around, own))
    if (found := fit_transformation(own, tolerance)) is not None:
        return Sighting(found.matrix, WEIGHT * excess(found.num_inliers, len(own.starts)))
    if (found := fit_transformation(objects, tolerance)) is not None:
        return Sighting(found.matrix, 0.0)
    return None


def find_features(image: ImageArray) -> Features:
    """Return a picture's SIFT features; none of them where it is one colour."""
    cv2 = load_opencv()
    small = shrink(image, MAX_PIXELS)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    found = _find_features(grey.tobytes(), grey.shape)
    return found._replace(places=found.places * np.divide(picture_wh(image), picture_wh(small)))


@functools.lru_cache(maxsize=NUM_KEPT)
def _find_features(grey: bytes, shape: tuple[int, int]) -> Features:
    cv2 = load_opencv()
    points, descriptors = cv2.SIFT_create().detectAndCompute(np.frombuffer(grey, np.uint8).reshape(shape), None)
    if not points:
        return Features(np.empty((0, 2)), np.empty((0, 128), np.float32))
    middle = 0.5  # OpenCV has whole numbers there
    return Features(np.array([point.pt for point in points]) + middle, descriptors)


def pair_features(known: Features, seen: Features) -> Pairs:
    """Return the pairs that pass the ratio test, each feature in one at most: that of the nearest."""
    best: dict[int, tuple[float, int]] = {}
    if len(known.places) and len(seen.places) > 1:
        cv2 = load_opencv()
        for first, second in cv2.BFMatcher(cv2.NORM_L2).knnMatch(known.descriptors, seen.descriptors, k=2):
            if first.distance < RATIO * second.distance:
                rival = best.get(first.trainIdx, (math.inf, -1))
                best[first.trainIdx] = min(rival, (first.distance, first.queryIdx))
    return Pairs(known.places[[start for _, start in best.values()]], seen.places[list(best)])


def fit_transformation(pairs: Pairs, tolerance: float) -> Fit | None:
    """Return the affine transformation that most pairs agree with; None if it is not believed.

    Args:
        pairs: From the support to the query.
        tolerance: Distance in pixels up to which a pair agrees.
    """
    if not is_enough(len(pairs.starts)):
        return None
    cv2 = load_opencv()
    matrix, inliers = cv2.estimateAffine2D(*pairs, method=cv2.RANSAC, ransacReprojThreshold=tolerance)
    if matrix is None or not is_plausible(matrix) or excess(int(inliers.sum()), len(inliers)) <= 0:
        return None
    return Fit(matrix, int(inliers.sum()))


def is_inside(points: Points, box: Coordinates) -> npt.NDArray[np.bool_]:
    """Return which points [n, 2] lie in a box."""
    (x, y), (x1, y1, x2, y2) = points.T, box
    return (x1 < x) & (x < x2) & (y1 < y) & (y < y2)


def is_central(points: Points, box: Coordinates) -> npt.NDArray[np.bool_]:
    """Return which points [n, 2] lie in the ellipse in a box: the corners often show what is behind."""
    (x, y), (x1, y1, x2, y2) = points.T, box
    return ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1


def is_plausible(matrix: Matrix) -> bool:
    """Return whether a transformation can be that of a thing seen again: no mirror, no flattening, no huge factor."""
    linear = matrix[:, :2]
    if not np.isfinite(matrix).all() or np.linalg.det(linear) <= 0:
        return False
    most, least = np.linalg.svd(linear, compute_uv=False)
    return bool(most < MAX_STRETCH * least and 1 / MAX_SCALE < math.sqrt(most * least) < MAX_SCALE)


def is_upright(matrix: Matrix, support_wh: tuple[int, int], query_wh: tuple[int, int]) -> bool:
    """Return whether a transformation leaves things upright and about as large a part of the picture.

    Args:
        matrix: [2, 3], from pixels of the support to those of the query.
        support_wh: (width, height) of the support.
        query_wh: Those of the query.
    """
    left, stretches, right = np.linalg.svd(matrix[:, :2])
    turn = left @ right
    angle = math.degrees(abs(math.atan2(turn[1, 0], turn[0, 0])))
    factor = math.sqrt(math.prod(stretches) * math.prod(support_wh) / math.prod(query_wh))
    return angle <= MIN_TURN and 1 / MAX_FACTOR <= factor <= MAX_FACTOR


def excess(num_inliers: int, num_pairs: int) -> float:
    """Return the inliers above the least number with which a transformation is believed, 5.9 and 0.22 of all pairs.

    By the rule of Brown & Lowe (2003, section 3.2). Its share is what the odds leave of inliers and outliers.

    >>> round(excess(12, 20), 1), round(excess(10, 20), 1)
    (1.7, -0.3)
    """
    share = math.log((1 - INLIERS_IF_WRONG) / (1 - INLIERS_IF_RIGHT)) / WEIGHT
    return num_inliers - LEAST_INLIERS - share * num_pairs


def is_enough(num_pairs: int) -> bool:
    """Return whether so many pairs are enough, if all agree."""
    return excess(num_pairs, num_pairs) > 0


def misses(matrix: Matrix, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Return how far each pair misses a transformation, [n]."""
    return np.hypot(*(transform(matrix, pairs.starts) - pairs.ends).T)


def transform(matrix: Matrix, points: Points) -> Points:
    """Return points [n, 2] where a transformation puts them."""
    moved: Points = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def box_around(matrix: Matrix, box: Coordinates) -> Box:
    """Return the box around a transformed one."""
    corners = transform(matrix, np.array([(x, y) for x in box[::2] for y in box[1::2]]))
    return Box(*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())


def turn_back(query: ImageArray, matrix: Matrix, support_wh: tuple[int, int], small_wh: tuple[int, int]) -> ImageArray:
    """Return the query as the support's picture would show it at another size.

    Args:
        query: [h, w, 3] uint8.
        matrix: [2, 3], from pixels of the support to those of the query.
        support_wh: (width, height) of the support.
        small_wh: That of the picture to return, in the same shape.
    """
    cv2 = load_opencv()
    small = shrink(query, MAX_PIXELS)
    before, behind = np.divide(support_wh, small_wh), np.divide(picture_wh(small), picture_wh(query))
    linear = matrix[:, :2] * before * behind[:, None]
    middle = np.full(2, 0.5)  # of the first pixel, where OpenCV has 0
    steps = np.column_stack([linear, linear @ middle + matrix[:, 2] * behind - middle])
    factor = math.sqrt(float(np.linalg.det(steps[:, :2])))
    if factor > 1.1:  # smoothed first, as by `appearance.cut_out`
        small = cv2.GaussianBlur(small, (0, 0), factor / 2.5 - 0.3)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    back: ImageArray = cv2.warpAffine(small, steps, small_wh, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return back
