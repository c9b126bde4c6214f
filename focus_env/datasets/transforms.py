"""Several data sets as one, in fixed proportions."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from focus_env.datasets.order import shuffled_indices
from focus_env.datasets.training import with_shots
from focus_env.plain_numbers import is_plain
from focus_env.types import Box, Episode, EpisodeDataset, Exemplar, Frame

NUM_SLOTS = 1000
"""Any stretch of so many episodes, from a multiple of it on, has the proportions exactly."""


def parse_weights(text: str) -> dict[str, float]:
    """Read the names and weights of data sets.

    >>> parse_weights("tao:0.5,got10k:0.3,lasot:0.2")
    {'tao': 0.5, 'got10k': 0.3, 'lasot': 0.2}

    Raises:
        ValueError: If a part is not ``name:weight``, a weight is not a positive number, or a name comes twice.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition(":"))
        try:
            weight = float(number) if is_plain(number) else math.nan
        except ValueError:
            weight = math.nan
        if not name or name in weights or not 0 < weight < math.inf:
            raise ValueError(
                f"data sets: expected name:weight,name:weight with different names and positive weights, got {part!r} "
                f"in {text!r}"
            )
        weights[name] = weight
    return weights


class JointEpisodes:
    """Episodes of several data sets, mixed.

    The data set of an index, and the episode of that data set, are pure functions of the seed and the index. Each data
    set is shuffled again in each of its own epochs. Episode ids begin with the name of their data set, and repeat in
    each epoch of the data set.

    Attributes:
        skipped: Number of items that the data sets left out, by ``name/reason``.

    Args:
        datasets: By name, each with at least one episode.
        weights: By the same names; their proportions count, to a thousandth.
        seed: Of all orders, at least 0.
        num_episodes: Length; None: as many as the data sets have together.

    Raises:
        ValueError: If the names differ, a data set is empty, or a weight is not positive or so small that it rounds to
            no episode.
    """

    def __init__(
        self,
        datasets: Mapping[str, EpisodeDataset],
        weights: Mapping[str, float],
        *,
        seed: int = 0,
        num_episodes: int | None = None,
    ) -> None:
        if not datasets or set(datasets) != set(weights):
            raise ValueError(f"weights: expected one for each of {sorted(datasets)}, got {sorted(weights)}")
        if empty := sorted(name for name, dataset in datasets.items() if len(dataset) == 0):
            raise ValueError(f"data set {empty[0]!r}: expected at least one episode, got none")
        self._datasets = dict(datasets)
        self._counts = _slot_counts({name: weights[name] for name in datasets})
        self._seed = seed
        self._num_episodes = sum(map(len, datasets.values())) if num_episodes is None else num_episodes

    @property
    def skipped(self) -> Mapping[str, int]:
        """See the class."""
        return {
            f"{name}/{reason}": count
            for name, dataset in self._datasets.items()
            for reason, count in getattr(dataset, "skipped", {}).items()
        }

    def __len__(self) -> int:
        return self._num_episodes

    def __getitem__(self, index: int, /) -> Episode:
        return self.with_shots(index, None)

    def with_shots(self, index: int, shots: int | None) -> Episode:
        """See `focus_env.datasets.training.with_shots`."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode index must be in 0 .. {len(self) - 1}, got {index}")
        block, slot = divmod(index, NUM_SLOTS)
        owners, ranks = _slots(tuple(self._counts.values()), self._seed)
        part = int(owners[slot])
        name = list(self._datasets)[part]
        position = block * self._counts[name] + int(ranks[slot])
        dataset = self._datasets[name]
        (chosen,) = shuffled_indices(position, 1, num_episodes=len(dataset), seed=self._seed + part)
        episode = with_shots(dataset, chosen, shots)
        return dataclasses.replace(episode, episode_id=f"{name}/{episode.episode_id}")


def _slot_counts(weights: Mapping[str, float]) -> dict[str, int]:
    """Count the slots of a block that each data set gets: in proportion, the largest remainders first."""
    total = sum(weights.values())
    shares = {name: NUM_SLOTS * weight / total for name, weight in weights.items()}
    counts = {name: math.floor(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: NUM_SLOTS - sum(counts.values())]:
        counts[name] += 1
    if small := [name for name, count in counts.items() if count < 1]:
        raise ValueError(
            f"weights: expected each to be at least a thousandth of their sum, got {weights[small[0]]} of {total} "
            f"for {small[0]!r}"
        )
    return counts


@functools.lru_cache(maxsize=8)
def _slots(counts: tuple[int, ...], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return [NUM_SLOTS] which part each slot of a block belongs to, and which of that part's slots it is."""
    owners = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    ranks = np.empty_like(owners)
    for part, count in enumerate(counts):
        ranks[owners == part] = np.arange(count)
    return owners, ranks


class ShuffledSupports:
    """Each episode with the supports of the next one, the last with those of the first.

    Who learns from these, or answers them, can at best guess which object of the query is meant; so what a policy earns
    here is chance, and what it earns beyond this on the true episodes comes from the supports.

    Args:
        episodes: The true episodes, at least two, of different objects next to each other.

    Raises:
        ValueError: If there are fewer than two.
    """

    def __init__(self, episodes: EpisodeDataset) -> None:
        if len(episodes) < 2:
            raise ValueError(f"episodes: expected two or more to take supports from each other, got {len(episodes)}")
        self._episodes = episodes

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int, /) -> Episode:
        return self.with_shots(index, None)

    def with_shots(self, index: int, shots: int | None) -> Episode:
        """See `focus_env.datasets.training.with_shots`."""
        episode = with_shots(self._episodes, index, shots)
        other = with_shots(self._episodes, (index + 1) % len(self._episodes), shots)
        return dataclasses.replace(episode, episode_id=f"{episode.episode_id}/shuffled", support=other.support)


class ResizedPictures(abc.ABC):
    """Episodes whose pictures are shown in another size. Boxes are in pixels of that size, which changes no IoU.

    Args:
        episodes: The episodes as they are.
        bound: What bounds the size, for messages.
        num_pixels: Pixels of a picture, at least 1.

    Raises:
        ValueError: If `num_pixels` is not positive.
    """

    def __init__(self, episodes: EpisodeDataset, bound: str, num_pixels: int) -> None:
        if num_pixels < 1:
            raise ValueError(f"{bound} must be at least 1, got {num_pixels!r}")
        self._episodes, self._num_pixels = episodes, num_pixels

    @abc.abstractmethod
    def _shown(self, frame: Frame) -> Frame:
        """Return a frame in the size at which it is shown."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """Counts of all that the data set left out, by reason."""
        return getattr(self._episodes, "skipped", {})

    @property
    def described(self) -> str:
        """How the data set came by its episodes, in words, if it says so."""
        return getattr(self._episodes, "described", "")

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int, /) -> Episode:
        return self.with_shots(index, None)

    def with_shots(self, index: int, shots: int | None) -> Episode:
        """See `focus_env.datasets.training.with_shots`."""
        episode = with_shots(self._episodes, index, shots)
        target = episode.target_box
        return dataclasses.replace(
            episode,
            support=tuple(
                Exemplar(self._shown(e.frame), self._scaled(e.box, e.frame), e.note) for e in episode.support
            ),
            query_frame=self._shown(episode.query_frame),
            target_box=None if target is None else self._scaled(target, episode.query_frame),
        )

    def _scaled(self, box: Box, frame: Frame) -> Box:
        """Return a box of a frame, in pixels of the frame as it is shown."""
        (width, height), (shown_width, shown_height) = frame.image_wh, self._shown(frame).image_wh
        x_scale, y_scale = shown_width / width, shown_height / height
        # The products can pass the border by a rounding.
        return Box(
            box.x1 * x_scale,
            box.y1 * y_scale,
            min(box.x2 * x_scale, float(shown_width)),
            min(box.y2 * y_scale, float(shown_height)),
        )


class ShrunkPictures(ResizedPictures):
    """Episodes whose pictures have at most so many pixels, decoded at that size; see `focus_env.images.shown_wh`.

    Args:
        episodes: The episodes as they are.
        max_pixels: Most pixels of a picture, at least 1.

    Raises:
        ValueError: If `max_pixels` is not positive.
    """

    def __init__(self, episodes: EpisodeDataset, max_pixels: int) -> None:
        super().__init__(episodes, "max_pixels", max_pixels)

    def _shown(self, frame: Frame) -> Frame:
        return frame.shrunk(self._num_pixels)


class EnlargedPictures(ResizedPictures):
    """Episodes whose pictures have at least so many pixels; see `focus_env.images.enlarged_wh`.

    Args:
        episodes: The episodes as they are.
        min_pixels: Least pixels of a picture, at least 1.

    Raises:
        ValueError: If `min_pixels` is not positive.
    """

    def __init__(self, episodes: EpisodeDataset, min_pixels: int) -> None:
        super().__init__(episodes, "min_pixels", min_pixels)

    def _shown(self, frame: Frame) -> Frame:
        return frame.enlarged(self._num_pixels)
