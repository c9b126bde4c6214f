"""A control: episodes whose supports say nothing about their query."""

from __future__ import annotations

import dataclasses

from focus_env.types import Episode, EpisodeDataset


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
        episode = self._episodes[index]
        other = self._episodes[(index + 1) % len(self._episodes)]
        return dataclasses.replace(episode, episode_id=f"{episode.episode_id}/shuffled", support=other.support)
