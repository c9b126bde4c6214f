"""The oracle: it knows the rule of a kind of scenes and sees all objects, but of the target only what supports say.

Its hit rate is an upper bound of what a policy can reach: of parts exactly, see `parts.best_hit_rate`; of tracks up to
what borders and other objects tell of the motion, which it leaves out of account.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from focus_env.datasets.synthetic.dataset import SyntheticDataset
from focus_env.datasets.synthetic.identities import Identity
from focus_env.datasets.synthetic.parts import part_of
from focus_env.datasets.synthetic.stills import EpisodeStills, Still
from focus_env.datasets.synthetic.tracks import expected_last
from focus_env.types import Box


def shows(shown: Identity, identity: Identity) -> bool:
    """Whether a support that shows the first in its box can mean the second."""
    return shown == (identity if shown.part == "whole" else part_of(identity, shown.part))


def candidates(stills: EpisodeStills) -> list[int]:
    """Positions of the query's objects that all supports can mean; all objects if there is none.

    The latter is so where supports are those of another episode.
    """
    objects = range(len(stills.query.objects))
    boxed = [support.objects[0].identity for support in stills.supports]
    found = [
        position
        for position in objects
        if all(shows(shown, stills.query.objects[position].identity) for shown in boxed)
    ]
    return found or list(objects)


def oracle_choice(stills: EpisodeStills, rng: np.random.Generator, *, size: int) -> int:
    """Which of the query's objects the oracle takes for the target, by its position.

    Args:
        stills: The episode. Of the roles, that of the target in supports alone is used, which their boxes tell.
        rng: Draws among objects that the supports leave open alike.
        size: Side of the pictures in pixels.
    """
    open_ones = [int(position) for position in rng.permutation(candidates(stills))]
    if stills.times is None or len(open_ones) != 2:
        return open_ones[0]
    boxed = stills.supports[0].objects[0].identity
    if boxed != stills.query.objects[open_ones[0]].identity:
        return open_ones[0]
    # Two objects, two tracks: the pairing under which both have moved the least off their expected ways.
    target = expected_last(stills.times, [_places(support, size)[0] for support in stills.supports])
    twin = expected_last(stills.times, [_twin_place(support, size) for support in stills.supports])
    places = _places(stills.query, size)

    def misses(first: int, second: int) -> float:
        return float(np.sum((places[first] - target) ** 2) + np.sum((places[second] - twin) ** 2))

    return min(open_ones, key=lambda first: misses(first, next(other for other in open_ones if other != first)))


def oracle_box(dataset: SyntheticDataset, index: int, *, shots: int | None = None) -> Box | None:
    """The oracle's answer to an episode, to be scored as any policy's.

    Args:
        dataset: Any kind of scenes; of one_look a support shows all, so that the answer is the right one.
        index: Which episode; it also seeds the draw among objects that the supports leave open.
        shots: How many supports; None: those of the data set.

    Returns:
        A box of the query, `xyxy` in pixels; None where the target of a one_look episode is absent.

    Raises:
        IndexError: If there is no such episode.
    """
    if dataset.scenes == "one_look":
        return dataset[index].target_box
    stills, size = dataset.stills(index, shots), dataset.image_size
    return stills.query.box(oracle_choice(stills, np.random.default_rng(index), size=size), size)


def _places(still: Still, size: int) -> npt.NDArray[np.float64]:
    """[objects, 2] centres in shares of the side."""
    return np.array([item.centre for item in still.objects], dtype=np.float64) / size


def _twin_place(support: Still, size: int) -> npt.NDArray[np.float64]:
    """Where the other object of the target's look is."""
    look = support.objects[0].identity
    position = next(i for i, item in enumerate(support.objects) if i > 0 and item.identity == look)
    place: npt.NDArray[np.float64] = _places(support, size)[position]
    return place
