"""Record the episodes that an evaluation has asked, so that labels or pictures that change below a name are noticed.

Labels are those of all episodes: ids, objects, names and sizes of pictures, boxes and notes. Pictures are decoded of a
sample alone, `is_sampled`: the first eight episodes and then every 64th, sixteen in all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focus_env.types import Episode, EpisodeDataset, Frame

NUM_FIRST, EVERY, NUM_SAMPLED = 8, 64, 16
UNREAD = "unread"
"""In place of a digest where an episode or its pictures cannot be read."""
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class EpisodeDigests:
    """Digests of the first episodes of a data set with a number of supports.

    Attributes:
        labels: Of each episode, in order.
        pictures: By index of an episode, of the pictures of those that are sampled.
        identities: The object of each episode; empty where they come from a file.
    """

    labels: tuple[str, ...]
    pictures: Mapping[int, str]
    identities: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"labels": list(self.labels), "pictures": {str(index): text for index, text in self.pictures.items()}}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> EpisodeDigests:
        """Back from `to_json`.

        Raises:
            ValueError: If it is something else.
        """
        labels, pictures = found.get("labels"), found.get("pictures")
        if not isinstance(labels, list) or not isinstance(pictures, dict):
            raise ValueError("expected digests of labels and pictures")
        return cls(tuple(labels), {int(index): text for index, text in pictures.items()})

    def first_change(self, now: EpisodeDigests, indices: Sequence[int]) -> tuple[int, str] | None:
        """Return the first of some episodes that is another now, and whether its labels or its pictures are.

        Args:
            now: What there is now.
            indices: The episodes that count; those that either side does not have are left out.
        """
        for index in indices:
            if index < min(len(self.labels), len(now.labels)) and self.labels[index] != now.labels[index]:
                return index, "labels"
            if {index} <= self.pictures.keys() & now.pictures.keys() and self.pictures[index] != now.pictures[index]:
                return index, "pictures"
        return None


def is_sampled(index: int) -> bool:
    """Return whether the pictures of an episode are looked at, too."""
    return index < NUM_FIRST or (index % EVERY == 0 and index // EVERY <= NUM_SAMPLED - NUM_FIRST)


def digest_episodes(episodes: EpisodeDataset, num_episodes: int, *, shots: int, name: str) -> EpisodeDigests:
    """Read the first episodes of a data set.

    Args:
        episodes: The data set.
        num_episodes: How many.
        shots: Supports that each must have.
        name: Of the data set, for messages.

    Raises:
        ValueError: If an episode has another number of supports.
    """
    labels, pictures, identities = [], {}, []
    for index in range(num_episodes):
        episode = read_episode(episodes, index)
        if episode is not None:
            check_shots(episode, shots, name=name)
        identities.append("" if episode is None else episode.identity)
        labels.append(UNREAD if episode is None else _digest(json.dumps(_labels(episode)).encode()))
        if is_sampled(index):
            pictures[index] = _pictures(episode)
    return EpisodeDigests(tuple(labels), pictures, tuple(identities))


def read_episode(episodes: EpisodeDataset, index: int) -> Episode | None:
    """Return an episode; None where it cannot be read, which whoever asks it says and counts."""
    try:
        return episodes[index]
    except Exception:  # of any data set
        return None


def _pictures(episode: Episode | None) -> str:
    """Return the digest of an episode's pictures."""
    try:
        return UNREAD if episode is None else _digest(*(frame.image().tobytes() for frame in _frames(episode)))
    except Exception:  # as in `read_episode`
        return UNREAD


def check_shots(episode: Episode, shots: int, *, name: str) -> None:
    """See that an episode has as many supports as is asked for.

    Raises:
        ValueError: If not.
    """
    if len(episode.support) != shots:
        raise ValueError(
            f"data set {name!r}: expected episodes of {shots} supports, as `shots` asks for, got one of "
            f"{len(episode.support)}, {episode.episode_id!r}; ask for so many, or choose other episodes"
        )


def supports_per_episode(episodes: EpisodeDataset, num_episodes: int) -> tuple[int, ...]:
    """Return the numbers of supports that the first episodes of a data set have, in ascending order.

    Episodes that cannot be read have none.
    """
    found = (read_episode(episodes, index) for index in range(min(num_episodes, len(episodes))))
    return tuple(sorted({len(episode.support) for episode in found if episode is not None}))


def _labels(episode: Episode) -> list[Any]:
    return [
        [episode.episode_id, episode.identity, episode.category, episode.target_box, episode.target_note],
        [[exemplar.box, exemplar.note] for exemplar in episode.support],
        [[frame.name, frame.image_wh] for frame in _frames(episode)],
    ]


def _frames(episode: Episode) -> list[Frame]:
    return [*(exemplar.frame for exemplar in episode.support), episode.query_frame]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:_DIGITS]
