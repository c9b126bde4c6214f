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
    """Tell whether a support whose box shows the first identity can mean the second."""
    return shown == (identity if shown.part == "whole" else part_of(identity, shown.part))


def candidates(stills: EpisodeStills) -> list[int]:
    """Return the positions of the query's objects that all supports can mean.

    The list is empty where the supports are those of another episode, or where the target is absent.
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
    """Return the position of the query's object that the oracle takes for the target.

    Where the target may be absent and the query has all objects that the supports can mean, the target is one of these.
    Where one of two is missing, the missing one is the target three times as often as the other object is, see
    `stills.draw_missing`. So in parts the answer is that the target is absent. In tracks the ways decide, since the
    newcomer stands where the missing object would.

    Args:
        stills: The episode. Of the roles, that of the target in supports alone is used, which their boxes tell.
        rng: Draws among objects that the supports leave open alike.
        size: Side of the pictures in pixels.
        may_be_absent: Whether the query may lack the target.

    Returns:
        None: the target is absent. If no object fits and the target cannot be absent, one is drawn among all.
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
    """Count the episode's objects that the supports can mean: two in tracks, and in parts if all show one side."""
    return 2 if len({support.objects[0].identity.part for support in stills.supports}) == 1 else 1


def _newcomers(stills: EpisodeStills) -> list[int]:
    """Return the positions of the query's objects of a look that no support shows, in tracks."""
    known = {item.identity for support in stills.supports for item in support.objects}
    return [position for position, item in enumerate(stills.query.objects) if item.identity not in known]


def _on_the_way(stills: EpisodeStills, positions: tuple[int, int], size: int) -> int:
    """Return the one of two objects of the query that is where the target's way leads.

    The other object belongs to the way of the target's twin. Of the two pairings, the one is taken under which both
    have moved the least off their expected ways.
    """
    assert stills.times is not None
    target = expected_last(stills.times, [_places(support, size)[0] for support in stills.supports])
    twin = expected_last(stills.times, [_twin_place(support, size) for support in stills.supports])
    places = _places(stills.query, size)

    def misses(first: int, second: int) -> float:
        return float(np.sum((places[first] - target) ** 2) + np.sum((places[second] - twin) ** 2))

    return min(positions, positions[::-1], key=lambda pair: misses(*pair))[0]


def oracle_box(dataset: SyntheticDataset, index: int, *, shots: int | None = None) -> Box | None:
    """Return the oracle's answer to an episode, to be scored as any policy's.

    Args:
        dataset: Any kind of scenes; in one_look a support shows all of the object, so the answer is the right one.
        index: The episode's index, which also seeds the draw among objects that the supports leave open.
        shots: Number of supports; None: that of the data set.

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
    """Return the objects' centres, [objects, 2] as fractions of the side."""
    return np.array([item.centre for item in still.objects], dtype=np.float64) / size


def _twin_place(support: Still, size: int) -> npt.NDArray[np.float64]:
    """Return the place of the other object of the target's look."""
    look = support.objects[0].identity
    position = next(i for i, item in enumerate(support.objects) if i > 0 and item.identity == look)
    place: npt.NDArray[np.float64] = _places(support, size)[position]
    return place
