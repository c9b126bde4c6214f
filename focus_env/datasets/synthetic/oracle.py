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
    """Positions of the query's objects that all supports can mean.

    There is none where supports are those of another episode, or the target is absent.
    """
    boxed = [support.objects[0].identity for support in stills.supports]
    return [
        position
        for position, item in enumerate(stills.query.objects)
        if all(shows(shown, item.identity) for shown in boxed)
    ]


def oracle_choice(
    stills: EpisodeStills, rng: np.random.Generator, *, size: int, may_be_absent: bool = False
) -> int | None:
    """Which of the query's objects the oracle takes for the target, by its position.

    Where the target may be absent and all objects that the supports can mean are there, it is one of these. Where one
    of two is missing, it is the target three times as often as the other is, see `stills.draw_missing`: in parts the
    answer is that the target is absent. In tracks the ways decide, since the newcomer stands where the missing one
    would.

    Args:
        stills: The episode. Of the roles, that of the target in supports alone is used, which their boxes tell.
        rng: Draws among objects that the supports leave open alike.
        size: Side of the pictures in pixels.
        may_be_absent: Whether the query may lack the target.

    Returns:
        None: it is absent. All objects are alike if none fits and it cannot be absent.
    """
    found = candidates(stills)
    if may_be_absent and len(found) < _num_meant(stills):
        newcomers = _newcomers(stills)
        if stills.times is None or len(found) != 1 or not newcomers:
            return None
        return found[0] if _on_the_way(stills, (found[0], newcomers[0]), size) == found[0] else None
    open_ones = [int(position) for position in rng.permutation(found or range(len(stills.query.objects)))]
    if stills.times is None or len(open_ones) != 2:
        return open_ones[0]
    boxed = stills.supports[0].objects[0].identity
    if boxed != stills.query.objects[open_ones[0]].identity:
        return open_ones[0]
    return _on_the_way(stills, (open_ones[0], open_ones[1]), size)


def _num_meant(stills: EpisodeStills) -> int:
    """How many objects of the episode the supports can mean: two of tracks, and of parts if all show one side."""
    return 2 if len({support.objects[0].identity.part for support in stills.supports}) == 1 else 1


def _newcomers(stills: EpisodeStills) -> list[int]:
    """Positions of the query's objects of a look that no support shows; of tracks."""
    known = {item.identity for support in stills.supports for item in support.objects}
    return [position for position, item in enumerate(stills.query.objects) if item.identity not in known]


def _on_the_way(stills: EpisodeStills, positions: tuple[int, int], size: int) -> int:
    """Which of two objects of the query is where the target's way leads, the other being where its twin's does.

    Two objects, two tracks: the pairing under which both have moved the least off their expected ways.
    """
    assert stills.times is not None
    target = expected_last(stills.times, [_places(support, size)[0] for support in stills.supports])
    twin = expected_last(stills.times, [_twin_place(support, size) for support in stills.supports])
    places = _places(stills.query, size)

    def misses(first: int, second: int) -> float:
        return float(np.sum((places[first] - target) ** 2) + np.sum((places[second] - twin) ** 2))

    return min(positions, positions[::-1], key=lambda pair: misses(*pair))[0]


def oracle_box(dataset: SyntheticDataset, index: int, *, shots: int | None = None) -> Box | None:
    """The oracle's answer to an episode, to be scored as any policy's.

    Args:
        dataset: Any kind of scenes; of one_look a support shows all, so that the answer is the right one.
        index: Which episode; it also seeds the draw among objects that the supports leave open.
        shots: How many supports; None: those of the data set.

    Returns:
        A box of the query, `xyxy` in pixels; None: the target is absent.

    Raises:
        IndexError: If there is no such episode.
    """
    if dataset.kind_of(index) == "one_look":
        return dataset[index].target_box
    stills, size = dataset.stills(index, shots), dataset.image_size
    may_be_absent = dataset.absent_fraction > 0
    choice = oracle_choice(stills, np.random.default_rng(index), size=size, may_be_absent=may_be_absent)
    return None if choice is None else stills.query.box(choice, size)


def _places(still: Still, size: int) -> npt.NDArray[np.float64]:
    """[objects, 2] centres in shares of the side."""
    return np.array([item.centre for item in still.objects], dtype=np.float64) / size


def _twin_place(support: Still, size: int) -> npt.NDArray[np.float64]:
    """Where the other object of the target's look is."""
    look = support.objects[0].identity
    position = next(i for i, item in enumerate(support.objects) if i > 0 and item.identity == look)
    place: npt.NDArray[np.float64] = _places(support, size)[position]
    return place
