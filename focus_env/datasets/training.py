"""Choose the part of a data set that a training sees: a bounded pool of episodes, and a varying number of supports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from focus_env.plain_numbers import require_whole
from focus_env.types import Episode, EpisodeDataset


def with_shots(episodes: EpisodeDataset, index: int, shots: int | None) -> Episode:
    """Return an episode with another number of supports than its data set gives it.

    A data set that cuts episodes by their number of supports says itself what these are, by a method
    ``with_shots(index, shots)``; of any other's the first are taken.

    Args:
        episodes: The data set.
        index: Which episode.
        shots: How many supports, at most as many as the data set gives; None: those that it gives.

    Raises:
        IndexError: If there is no such episode.
    """
    if shots is None:
        return episodes[index]
    if (cut := getattr(episodes, "with_shots", None)) is not None:
        episode: Episode = cut(index, shots)
        return episode
    episode = episodes[index]
    return dataclasses.replace(episode, support=episode.support[:shots])


def shots_at(episodes: EpisodeDataset, step: int) -> int | None:
    """Return how many supports a step of a training shows; None: as many as episodes have.

    Args:
        episodes: What is trained on; only `DrawnShots` say a number.
        step: The optimizer step, or the iteration, from 0.
    """
    draw = getattr(episodes, "shots_at", None)
    return None if draw is None else int(draw(step))


class FirstEpisodes:
    """The first episodes of a data set: a bounded pool, which a training goes through again and again.

    Args:
        episodes: The data set.
        num_episodes: How many of it, at least 1 and at most all.

    Raises:
        ValueError: If there are not so many.
    """

    def __init__(self, episodes: EpisodeDataset, num_episodes: int) -> None:
        require_whole(num_episodes, "num_episodes")
        if not 1 <= num_episodes <= len(episodes):
            raise ValueError(
                f"num_episodes: expected from 1 to {len(episodes)}, as many as the data set has, got {num_episodes}"
            )
        self._episodes = episodes
        self._num_episodes = num_episodes

    @property
    def skipped(self) -> Mapping[str, int]:
        """Counts of all that the data set left out, by reason."""
        return getattr(self._episodes, "skipped", {})

    def __len__(self) -> int:
        return self._num_episodes

    def __getitem__(self, index: int, /) -> Episode:
        return self.with_shots(index, None)

    def with_shots(self, index: int, shots: int | None) -> Episode:
        """See `with_shots` of this module."""
        if not 0 <= index < self._num_episodes:
            raise IndexError(f"episode index must be in 0 .. {self._num_episodes - 1}, got {index}")
        return with_shots(self._episodes, index, shots)


class DrawnShots:
    """Episodes of which each step of a training shows a number of supports that is drawn for it.

    Asked for by index alone, episodes have all of their supports.

    Args:
        episodes: The data set; each episode has at least as many supports as the largest choice.
        choices: Different numbers of supports, each at least 1; all are as likely.
        seed: Of the draws, at least 0.

    Raises:
        ValueError: If there is no choice, one comes twice, is below 1, or is more than the first episode has.
    """

    def __init__(self, episodes: EpisodeDataset, choices: Sequence[int], *, seed: int = 0) -> None:
        for choice in choices:
            require_whole(choice, "choices")
        if not choices or min(choices) < 1 or len(set(choices)) < len(choices):
            raise ValueError(f"choices: expected different numbers of supports, each at least 1, got {tuple(choices)}")
        most = len(episodes[0].support)
        if max(choices) > most:
            raise ValueError(f"choices: expected at most {most}, the supports of an episode, got {max(choices)}")
        self._episodes = episodes
        self._choices = tuple(choices)
        self._seed = seed

    @property
    def skipped(self) -> Mapping[str, int]:
        """Counts of all that the data set left out, by reason."""
        return getattr(self._episodes, "skipped", {})

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int, /) -> Episode:
        return self._episodes[index]

    def with_shots(self, index: int, shots: int | None) -> Episode:
        """See `with_shots` of this module."""
        return with_shots(self._episodes, index, shots)

    def shots_at(self, step: int) -> int:
        """Return the number of supports that a step shows: a pure function of the seed and the step."""
        return self._choices[int(np.random.default_rng((self._seed, step)).integers(len(self._choices)))]
