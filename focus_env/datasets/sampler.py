"""The one place where episodes are built from tracks.

Protocols:
    focus: As the FOCUS paper evaluates. One episode per track; the query is the last of the n annotated
        frames, and support i of k is annotated frame round(i * (n - 1) / k), so that the query does not
        depend on k.
        Source: arXiv:2605.31145 sec. 5.1.
    random: For training. Query and supports are distinct frames of one track, drawn uniformly; supports are
        shown in the order of time. A pure function of (seed, index).

A support always has a box. Frames where the object is absent are left out (``absent="skip"``), or may be the
query (``absent="keep"``), whose `target_box` is then None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import numpy as np

from focus_env.types import Episode, Exemplar, Track

SamplingProtocol: TypeAlias = Literal["focus", "random"]
AbsentPolicy: TypeAlias = Literal["skip", "keep"]

DEFAULT_EPISODES_PER_TRACK = 100
"""How many random episodes a track gives; an epoch of a few thousand tracks is then some hundred thousand."""


def focus_frames(num_frames: int, shots: int) -> tuple[list[int], int]:
    """Which frames the FOCUS paper takes from a track.

    Args:
        num_frames: n, the annotated frames; at least `shots` + 1.
        shots: k, at least 1.

    Returns:
        k distinct, increasing positions of the supports, and the position of the query, all in 0 .. n - 1.

    >>> focus_frames(9, 4)
    ([0, 2, 4, 6], 8)
    """
    last = num_frames - 1
    return [round(support * last / shots) for support in range(shots)], last


class TrackEpisodes:
    """Episodes out of tracks, built when they are asked for.

    All tracks are read once at construction, which also finds malformed ones; after that a track is read
    again for each of its episodes. So `tracks` may be a list, or read files on demand and hold none of them
    in memory.

    Attributes:
        skipped: How much was left out, by reason: ``"tracks_too_short"`` (tracks without enough frames for
            one episode) and ``"frames_absent"`` (frames of the other tracks that can not serve, as the
            object is absent).

    Args:
        tracks: The tracks; a track is the same each time it is asked for.
        shots: k, the supports of an episode; at least 1.
        protocol: How frames are chosen, see the module.
        seed: Seed of ``"random"``, at least 0; ``"focus"`` draws nothing.
        absent: Whether a query may lack the object.
        episodes_per_track: Only for ``"random"``; None is `DEFAULT_EPISODES_PER_TRACK`. Episode i is of
            usable track i modulo their number, so that any run of indices is spread over the tracks.

    Raises:
        ValueError: If an argument is none of the above.
        DatasetError: If a track cannot be read.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        *,
        shots: int,
        protocol: SamplingProtocol = "focus",
        seed: int = 0,
        absent: AbsentPolicy = "skip",
        episodes_per_track: int | None = None,
    ) -> None:
        if shots < 1:
            raise ValueError(f"shots must be at least 1, got {shots!r}; an episode needs an exemplar")
        if protocol not in get_args(SamplingProtocol):
            raise ValueError(f"protocol must be one of {get_args(SamplingProtocol)}, got {protocol!r}")
        if absent not in get_args(AbsentPolicy):
            raise ValueError(f"absent must be one of {get_args(AbsentPolicy)}, got {absent!r}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed!r}")
        if protocol == "focus" and episodes_per_track is not None:
            raise ValueError(
                f"episodes_per_track is for protocol 'random', got {episodes_per_track!r} with 'focus', "
                "which takes one episode of each track; leave it out"
            )
        if episodes_per_track is not None and episodes_per_track < 1:
            raise ValueError(f"episodes_per_track must be at least 1, got {episodes_per_track!r}")
        self._tracks = tracks
        self._shots = shots
        self._protocol = protocol
        self._seed = seed
        self._absent = absent
        self._per_track = 1 if protocol == "focus" else episodes_per_track or DEFAULT_EPISODES_PER_TRACK
        self._usable: list[int] = []
        self._skipped = {"tracks_too_short": 0, "frames_absent": 0}
        for position, track in enumerate(tracks):
            self._consider(position, track)

    @property
    def skipped(self) -> Mapping[str, int]:
        """See the class."""
        return MappingProxyType(self._skipped)

    def __len__(self) -> int:
        return len(self._usable) * self._per_track

    def __getitem__(self, index: int, /) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(f"episode index must be in 0 .. {len(self) - 1}, got {index}")
        track = self._tracks[self._usable[index % len(self._usable)]]
        if self._protocol == "focus":
            supports, query = self._choose_focus(track)
            episode_id = f"{track.identity}/focus"
        else:
            supports, query = self._choose_random(track, index)
            episode_id = f"{track.identity}/random/seed{self._seed}/{index}"
        return Episode(
            episode_id=episode_id,
            support=tuple(_exemplar(track, position) for position in supports),
            query_frame=track.frames[query],
            target_box=track.boxes[query],
            identity=track.identity,
            category=track.category,
        )

    def _consider(self, position: int, track: Track) -> None:
        """Note whether a track is usable, and what of it is not."""
        present, queries = self._candidates(track)
        if not queries:
            self._skipped["tracks_too_short"] += 1
            return
        self._usable.append(position)
        self._skipped["frames_absent"] += len(track.boxes) - len({*present, *queries})

    def _candidates(self, track: Track) -> tuple[list[int], list[int]]:
        """Positions that may be a support, and those that may be the query given enough other supports."""
        present = [position for position, box in enumerate(track.boxes) if box is not None]
        away = [position for position, box in enumerate(track.boxes) if box is None]
        if self._absent == "skip":
            away = []
        elif self._protocol == "focus":
            away = [position for position in away if position == len(track.boxes) - 1]
        queries = away if len(present) >= self._shots else []
        if len(present) > self._shots:
            queries = sorted([*present, *away])
        return present, queries

    def _choose_focus(self, track: Track) -> tuple[list[int], int]:
        present, queries = self._candidates(track)
        annotated = sorted({*present, queries[-1]})
        supports, query = focus_frames(len(annotated), self._shots)
        return [annotated[position] for position in supports], annotated[query]

    def _choose_random(self, track: Track, index: int) -> tuple[list[int], int]:
        present, queries = self._candidates(track)
        rng = np.random.default_rng((self._seed, index))
        query = queries[int(rng.integers(len(queries)))]
        others = [position for position in present if position != query]
        supports = rng.choice(len(others), size=self._shots, replace=False)
        return [others[position] for position in sorted(supports.tolist())], query


def _exemplar(track: Track, position: int) -> Exemplar:
    box = track.boxes[position]
    assert box is not None, f"support {position} of track {track.identity!r} has no box"
    return Exemplar(track.frames[position], box)
