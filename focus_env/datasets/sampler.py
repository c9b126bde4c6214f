"""The one place where episodes are built from tracks.

Protocols:
    focus: As the FOCUS paper evaluates. One episode per video, of the track with most annotations, the first of them
        where several have as many; other objects are distractors. The query is the last of the n annotated frames, and
        support i of k is annotated frame round(i * (n - 1) / k), so that the query does not depend on k.
        Source: arXiv:2605.31145 sec. 5.1.
    iploc: As IPLoc's published episodes are cut. One episode per video; of its n frames, counted from 1, support i is
        frame 1 + i * (n // k) and the query frame n. Source: arXiv:2411.13317 and its JSON files.
    random: For training. Query and supports are distinct frames of one track, drawn uniformly; supports are
        shown in the order of time. A pure function of (seed, index).

A support always has a box. What becomes of frames that lack the object, or are said to (`Track.note`):
    skip: They are left out before anything is counted or drawn.
    keep: What the file says is served, and the note with it. A box stays a box even where a flag says absent. A query
        without a box is one whose `target_box` is None; for focus that is the last frame alone. A support without one
        gives its place to the nearest frame that has a box (the published episodes show an empty box there).
    nearest: Frames are counted as if nothing were odd; then each odd one gives its place to the nearest that is not,
        the query too, as in IPLoc-ID (arXiv:2607.00357).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import numpy as np

from focus_env.errors import DatasetError
from focus_env.plain_numbers import require_whole
from focus_env.types import Episode, Exemplar, Track

SamplingProtocol: TypeAlias = Literal["focus", "iploc", "random"]
AbsentPolicy: TypeAlias = Literal["skip", "keep", "nearest"]
BadPolicy: TypeAlias = Literal["raise", "skip"]

DEFAULT_EPISODES_PER_TRACK = 100
"""How many random episodes a track gives; an epoch of a few thousand tracks is then some hundred thousand."""

MAX_BAD_SHOWN = 20


def focus_frames(num_frames: int, shots: int) -> tuple[list[int], int]:
    """Choose the frames that the FOCUS paper takes from a track.

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


def iploc_frames(num_frames: int, shots: int) -> tuple[list[int], int]:
    """Choose the frames that IPLoc takes; arguments and result as for `focus_frames`.

    >>> iploc_frames(9, 4)
    ([0, 2, 4, 6], 8)
    >>> iploc_frames(11, 4)
    ([0, 2, 4, 6], 10)
    """
    return [support * (num_frames // shots) for support in range(shots)], num_frames - 1


class TrackEpisodes:
    """Episodes out of tracks, built when they are asked for.

    All tracks are read once at construction, which also finds malformed ones; after that a track is read
    again for each of its episodes. So `tracks` may be a list, or read files on demand and hold none of them
    in memory.

    Attributes:
        skipped: How much was left out, by reason: ``"tracks_bad"`` (could not be read), ``"tracks_shorter"`` (beside a
            longer one of the same video; focus and iploc only), ``"tracks_too_short"`` (not enough frames for one
            episode), and of the other tracks the frames that cannot serve, ``"frames_"`` and their note.
        bad: What was wrong with the first bad tracks.

    Args:
        tracks: The tracks; a track is the same each time it is asked for.
        shots: k, the supports of an episode; at least 1.
        protocol: How frames are chosen, see the module.
        seed: Seed of ``"random"``, at least 0; the others draw nothing.
        absent: What becomes of frames without the object, see the module.
        episodes_per_track: Only for ``"random"``; None is `DEFAULT_EPISODES_PER_TRACK`. Episode i is of
            usable track i modulo their number, so that any run of indices is spread over the tracks.
        min_gap: Only for ``"random"``: least distance of any two frames of an episode, in frames that can serve.
        on_bad: Whether a track that cannot be read, or a picture without a readable head or end, is an error or is
            left out. To leave it out, all pictures have to be looked at once.

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
        min_gap: int = 1,
        on_bad: BadPolicy = "raise",
    ) -> None:
        for name, number in (("shots", shots), ("seed", seed), ("min_gap", min_gap)):
            require_whole(number, name)
        if episodes_per_track is not None:
            require_whole(episodes_per_track, "episodes_per_track")
        if shots < 1:
            raise ValueError(f"shots must be at least 1, got {shots!r}; an episode needs an exemplar")
        for name, value, kind in (
            ("protocol", protocol, SamplingProtocol),
            ("absent", absent, AbsentPolicy),
            ("on_bad", on_bad, BadPolicy),
        ):
            if value not in get_args(kind):
                raise ValueError(f"{name} must be one of {get_args(kind)}, got {value!r}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed!r}")
        if protocol != "random" and episodes_per_track is not None:
            raise ValueError(
                f"episodes_per_track is for protocol 'random', got {episodes_per_track!r} with {protocol!r}, "
                "which takes one episode of each video; leave it out"
            )
        if episodes_per_track is not None and episodes_per_track < 1:
            raise ValueError(f"episodes_per_track must be at least 1, got {episodes_per_track!r}")
        if min_gap < 1 or (protocol != "random" and min_gap > 1):
            raise ValueError(f"min_gap must be at least 1, and is for protocol 'random' only, got {min_gap!r}")
        self._tracks = tracks
        self._shots = shots
        self._protocol = protocol
        self._seed = seed
        self._absent = absent
        self._min_gap = min_gap
        self._per_track = episodes_per_track or DEFAULT_EPISODES_PER_TRACK if protocol == "random" else 1
        self._skipped: dict[str, int] = {}
        self.bad: list[str] = []
        self._usable = self._find_usable(on_bad)

    @property
    def skipped(self) -> Mapping[str, int]:
        """See the class."""
        return MappingProxyType(self._skipped)

    def __len__(self) -> int:
        return len(self._usable) * self._per_track

    def __getitem__(self, index: int, /) -> Episode:
        return self.with_shots(index, self._shots)

    def with_shots(self, index: int, shots: int) -> Episode:
        """Return the episode of an index with fewer supports: those of focus or iploc then, or the first random ones.

        Raises:
            IndexError: If there is no such episode.
            ValueError: If the episode has fewer.
        """
        if not 1 <= shots <= self._shots:
            raise ValueError(f"shots: expected from 1 to {self._shots}, the supports of an episode, got {shots}")
        if not 0 <= index < len(self):
            raise IndexError(f"episode index must be in 0 .. {len(self) - 1}, got {index}")
        track = self._tracks[self._usable[index % len(self._usable)]]
        if self._protocol == "random":
            drawn, query = self._draw(track, index)
            supports = drawn[:shots]
            episode_id = f"{track.identity}/random/seed{self._seed}/{index}"
        else:
            supports, query = self._choose(track, shots)
            episode_id = f"{track.identity}/{self._protocol}"
        return Episode(
            episode_id=episode_id,
            support=tuple(_exemplar(track, position) for position in supports),
            query_frame=track.frames[query],
            target_box=track.boxes[query],
            identity=track.identity,
            category=track.category,
            target_note=track.note(query),
        )

    def _find_usable(self, on_bad: BadPolicy) -> list[int]:
        """Return positions of the tracks that give episodes, in their order; counts what is left out."""
        usable: list[int] = []
        longest: dict[str, tuple[int, int]] = {}  # by video: number of frames, and position
        for position in range(len(self._tracks)):
            try:
                track = self._tracks[position]
                if on_bad == "skip":
                    for frame in track.frames:
                        frame.check()
            except DatasetError as error:
                if on_bad == "raise":
                    raise
                self._count("tracks_bad")
                self.bad += [str(error)] if len(self.bad) < MAX_BAD_SHOWN else []
                continue
            if self._protocol != "random" and track.video:
                if longest.get(track.video, (0, 0))[0] >= len(track.frames):
                    self._count("tracks_shorter")
                    continue
                if track.video in longest:
                    self._count("tracks_shorter")
                longest[track.video] = len(track.frames), position
            else:
                usable.append(position)
        candidates = sorted([*usable, *(position for _, position in longest.values())])
        return [position for position in candidates if self._is_usable(self._tracks[position])]

    def _is_usable(self, track: Track) -> bool:
        if self._protocol == "random":
            served = {*self._clean_or_boxed(track), *self._queries(track)}
            is_usable = bool(self._queries(track))
        else:
            served = set(self._counted(track))
            is_usable = self._is_long_enough(track)
        if not is_usable:
            self._count("tracks_too_short")
            return False
        for position in set(range(len(track.frames))) - served:
            self._count(f"frames_{track.note(position)}")
        return True

    def _count(self, reason: str) -> None:
        self._skipped[reason] = self._skipped.get(reason, 0) + 1

    def _clean_or_boxed(self, track: Track) -> list[int]:
        """Return positions that may be a support: with a box, and unless it is kept, without a note."""
        return [
            position
            for position, box in enumerate(track.boxes)
            if box is not None and (self._absent == "keep" or not track.note(position))
        ]

    def _counted(self, track: Track) -> list[int]:
        """Return positions among which focus and iploc count."""
        everything = list(range(len(track.frames)))
        if self._absent == "nearest" or (self._absent == "keep" and self._protocol == "iploc"):
            return everything
        served = self._clean_or_boxed(track)
        return sorted({*served, *everything[-1:]}) if self._absent == "keep" else served

    def _is_long_enough(self, track: Track) -> bool:
        counted, servable = self._counted(track), self._clean_or_boxed(track)
        has_absent_query = self._absent == "keep" and track.boxes[-1:] == (None,)
        return len(counted) > self._shots and len(servable) >= self._shots + (not has_absent_query)

    def _choose(self, track: Track, shots: int) -> tuple[list[int], int]:
        """Return supports and query of focus and iploc."""
        counted, servable = self._counted(track), self._clean_or_boxed(track)
        choose = focus_frames if self._protocol == "focus" else iploc_frames
        chosen, last = choose(len(counted), shots)
        supports, query = [counted[position] for position in chosen], counted[last]
        stays = {position for position in (*supports, query) if position in servable}
        if query not in stays and self._absent == "keep":
            stays.add(query)
        free = [position for position in servable if position not in stays]
        moved = [position if position in stays else _take_nearest(free, position) for position in (query, *supports)]
        return sorted(moved[1:]), moved[0]

    def _queries(self, track: Track) -> list[int]:
        """Return positions that may be the query of a random episode: enough supports remain at their distance."""
        boxed = self._clean_or_boxed(track)
        away = [p for p, box in enumerate(track.boxes) if box is None] if self._absent == "keep" else []
        return [query for query in sorted([*boxed, *away]) if sum(self._ways(*self._sides(boxed, query)))]

    def _sides(self, boxed: list[int], query: int) -> tuple[list[int], list[int]]:
        """Return positions with a box, before and after the query, that are far enough from it."""
        rank = bisect.bisect_left(boxed, query)
        is_boxed = rank < len(boxed) and boxed[rank] == query
        return boxed[: max(0, rank - self._min_gap + 1)], boxed[rank + self._min_gap - (not is_boxed) :]

    def _ways(self, before: list[int], after: list[int]) -> list[int]:
        """Count the ways in which 0, 1, … k supports can lie before the query, and the others after it."""
        gap, k = self._min_gap, self._shots
        return [num_spaced(len(before), first, gap) * num_spaced(len(after), k - first, gap) for first in range(k + 1)]

    def _draw(self, track: Track, index: int) -> tuple[list[int], int]:
        """Return supports and query of a random episode."""
        queries = self._queries(track)
        rng = np.random.default_rng((self._seed, index))
        query = queries[int(rng.integers(len(queries)))]
        before, after = self._sides(self._clean_or_boxed(track), query)
        ways = self._ways(before, after)
        num_before = int(rng.choice(len(ways), p=[count / sum(ways) for count in ways]))
        supports = _spaced(rng, before, num_before, self._min_gap)
        return supports + _spaced(rng, after, self._shots - num_before, self._min_gap), query


def num_spaced(num_items: int, num_chosen: int, gap: int) -> int:
    """Count the ways to choose from a row so that any two are at least `gap` apart.

    >>> num_spaced(5, 2, 1), num_spaced(5, 2, 3), num_spaced(0, 0, 3)
    (10, 3, 1)
    """
    if num_chosen == 0:
        return 1
    return math.comb(max(0, num_items - (num_chosen - 1) * (gap - 1)), num_chosen)


def _spaced(rng: np.random.Generator, items: list[int], num_chosen: int, gap: int) -> list[int]:
    """Return one of those choices, each as likely: a choice from a shorter row, spread."""
    if num_chosen == 0:
        return []
    spread = gap - 1
    chosen = rng.choice(len(items) - (num_chosen - 1) * spread, size=num_chosen, replace=False)
    return [items[rank + place * spread] for place, rank in enumerate(sorted(chosen.tolist()))]


def _take_nearest(free: list[int], position: int) -> int:
    """Take the free position that is nearest, the earlier of two, away from those that are free."""
    nearest = min(free, key=lambda candidate: (abs(candidate - position), candidate))
    free.remove(nearest)
    return nearest


def _exemplar(track: Track, position: int) -> Exemplar:
    box = track.boxes[position]
    assert box is not None, f"support {position} of track {track.identity!r} has no box"
    return Exemplar(track.frames[position], box, track.note(position))
