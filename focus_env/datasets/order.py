"""In what order episodes are used: shuffled anew in each epoch, and a pure function of where one is.

So the cursor that a checkpoint has to save is one number, how many episodes were used so far.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt


@functools.lru_cache(maxsize=16)
def _shuffled_epoch(num_episodes: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of one epoch; kept, since to shuffle a million episodes takes longer than to ask for a few."""
    return np.random.default_rng([seed, epoch]).permutation(num_episodes)


def shuffled_indices(start: int, count: int, *, num_episodes: int, seed: int) -> list[int]:
    """Return positions `start` to `start + count` of an endless run through the episodes, shuffled anew in each epoch.

    A pure function, so that a resumed run needs to know its position only.

    >>> sorted(shuffled_indices(0, 3, num_episodes=3, seed=0))
    [0, 1, 2]
    """
    indices: list[int] = []
    while len(indices) < count:
        epoch, offset = divmod(start + len(indices), num_episodes)
        order = _shuffled_epoch(num_episodes, seed, epoch)
        indices += order[offset : offset + count - len(indices)].tolist()
    return indices
