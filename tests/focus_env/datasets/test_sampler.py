"""Episodes out of tracks: which frames become supports and query, and what is left out."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from focus_env.datasets.sampler import DEFAULT_EPISODES_PER_TRACK, TrackEpisodes, focus_frames, iploc_frames
from focus_env.errors import DatasetError
from focus_env.types import Box, Episode, Frame, Track
from tests.contracts import assert_dataset_contract, assert_same_episode


def _track(presence: str, identity: str = "t", video: str = "") -> Track:
    """A track from a text: "1" is a frame with the object, "0" one without a box, "f" one with a box and a flag."""
    frames = tuple(
        Frame(f"{identity}/{position}", (8, 8), np.full((8, 8, 3), position, np.uint8))
        for position in range(len(presence))
    )
    boxes = tuple(
        None if flag == "0" else Box(0.0, 0.0, 1.0 + position / 10, 2.0) for position, flag in enumerate(presence)
    )
    notes = tuple({"1": "", "0": "no_size", "f": "flagged_absent"}[flag] for flag in presence)
    return Track(identity, frames, boxes, category="thing", notes=notes, video=video)  # type: ignore[arg-type]


def _positions(episode: Episode) -> tuple[list[int], int]:
    support = [int(exemplar.frame.name.split("/")[1]) for exemplar in episode.support]
    return support, int(episode.query_frame.name.split("/")[1])


@pytest.mark.parametrize(
    ("num_frames", "shots", "expected"),
    [
        (2, 1, ([0], 1)),
        (5, 4, ([0, 1, 2, 3], 4)),
        (4, 2, ([0, 2], 3)),  # 1.5 rounds to the even neighbour, as the paper's code does
        (6, 2, ([0, 2], 5)),  # and so does 2.5
        (9, 1, ([0], 8)),
        (9, 2, ([0, 4], 8)),
        (9, 4, ([0, 2, 4, 6], 8)),
        (101, 4, ([0, 25, 50, 75], 100)),
    ],
)
def test_focus_frames(num_frames: int, shots: int, expected: tuple[list[int], int]) -> None:
    assert focus_frames(num_frames, shots) == expected


@given(shots=st.integers(1, 40), extra=st.integers(1, 400))
def test_focus_frames_are_distinct_and_before_the_query(shots: int, extra: int) -> None:
    supports, query = focus_frames(shots + extra, shots)
    assert supports == sorted(set(supports))
    assert len(supports) == shots
    assert supports[0] == 0
    assert supports[-1] < query == shots + extra - 1


@pytest.mark.parametrize(
    ("case", "presence", "absent", "expected"),
    [
        ("too short", "11", "skip", None),
        ("too short once absent frames are gone", "1010000", "skip", None),
        ("no frame with a box", "0000", "keep", None),
        ("the query alone would be a support", "011", "skip", None),
        ("too short even with an absent query", "1000", "keep", None),
        ("just long enough", "111", "skip", ([0, 1], 2)),
        ("absent frames do not count", "0101010", "skip", ([1, 3], 5)),
        ("absent last frame is passed over", "111110", "skip", ([0, 2], 4)),
        ("absent last frame is the query", "111110", "keep", ([0, 2], 5)),
        ("absent last frame saves a short track", "110", "keep", ([0, 1], 2)),
        ("an absent frame before the last is no query", "11011", "keep", ([0, 3], 4)),
    ],
)
def test_focus_protocol(case: str, presence: str, absent: str, expected: tuple[list[int], int] | None) -> None:
    episodes = TrackEpisodes([_track(presence)], shots=2, absent=absent)  # type: ignore[arg-type]
    if expected is None:
        assert len(episodes) == 0
        assert episodes.skipped["tracks_too_short"] == 1
        with pytest.raises(IndexError, match="episode index"):
            episodes[0]
        return
    assert len(episodes) == 1
    assert _positions(episodes[0]) == expected
    assert (episodes[0].target_box is None) == (presence[expected[1]] == "0")
    assert episodes[0].target_box == _track(presence).boxes[expected[1]]
    assert (episodes[0].identity, episodes[0].category) == ("t", "thing")


@pytest.mark.parametrize(
    ("num_frames", "shots", "expected"),
    [
        (2, 1, ([0], 1)),
        (5, 4, ([0, 1, 2, 3], 4)),
        (9, 4, ([0, 2, 4, 6], 8)),
        (11, 4, ([0, 2, 4, 6], 10)),  # 11 // 4 is 2: the last stretch is the longest
        (1000, 8, ([0, 125, 250, 375, 500, 625, 750, 875], 999)),
    ],
)
def test_iploc_frames(num_frames: int, shots: int, expected: tuple[list[int], int]) -> None:
    assert iploc_frames(num_frames, shots) == expected


@given(shots=st.integers(1, 40), extra=st.integers(1, 400))
def test_iploc_frames_are_distinct_and_before_the_query(shots: int, extra: int) -> None:
    supports, query = iploc_frames(shots + extra, shots)
    assert len(set(supports)) == shots
    assert sorted(supports)[-1] < query


@pytest.mark.parametrize(
    ("case", "protocol", "presence", "absent", "expected"),
    [
        ("a flag keeps a frame out", "focus", "11111f", "skip", ([0, 2], 4)),
        ("a flagged box stays a box", "focus", "11111f", "keep", ([0, 2], 5)),
        ("the flagged query gives its place", "focus", "11111f", "nearest", ([0, 2], 4)),
        ("flagged frames count", "focus", "1ff1111", "nearest", ([0, 3], 6)),
        ("the frame beside, the earlier of two", "focus", "1110111", "nearest", ([0, 2], 6)),
        ("taken frames are passed over", "focus", "100011", "nearest", ([0, 4], 5)),
        ("not enough frames to go to", "focus", "1000f1", "nearest", None),
        ("all frames count", "iploc", "11111111", "skip", ([0, 4], 7)),
        ("those without the object do not", "iploc", "11110000", "skip", ([0, 2], 3)),
        ("they do if they are kept", "iploc", "1111100", "keep", ([0, 3], 6)),
        ("a support without a box gives its place", "iploc", "1110011", "keep", ([0, 2], 6)),
        ("and counted it was all the same", "iploc", "1010111", "keep", ([0, 2], 6)),
        ("but not one with a flag", "iploc", "111f111", "keep", ([0, 3], 6)),
        ("nor the query", "iploc", "111111f", "keep", ([0, 3], 6)),
        ("unless the nearest is wanted", "iploc", "111f11f", "nearest", ([0, 2], 5)),
        ("too few boxes for the supports", "iploc", "1000000", "keep", None),
    ],
)
def test_odd_frames(
    case: str, protocol: str, presence: str, absent: str, expected: tuple[list[int], int] | None
) -> None:
    track = _track(presence)
    episodes = TrackEpisodes([track], shots=2, protocol=protocol, absent=absent)  # type: ignore[arg-type]
    assert [_positions(episode) for episode in episodes] == ([] if expected is None else [expected])
    for episode in episodes:
        supports, query = _positions(episode)
        assert (episode.target_box, episode.target_note) == (track.boxes[query], track.notes[query])
        assert [exemplar.note for exemplar in episode.support] == [track.notes[position] for position in supports]


@pytest.mark.parametrize("protocol", ["focus", "iploc"])
def test_a_video_gives_its_longest_track(protocol: str) -> None:
    tracks = [
        _track("111", "a1", "a"), _track("11111", "b1", "b"), _track("11101", "a2", "a"), _track("11110", "a3", "a"),
        _track("1", "b2", "b"), _track("1", "c1", "c"), _track("1111", "d"),
    ]  # fmt: skip
    episodes = TrackEpisodes(tracks, shots=2, protocol=protocol)  # type: ignore[arg-type]
    assert [episode.identity for episode in episodes] == ["b1", "a2", "d"]
    assert dict(episodes.skipped) == {"tracks_shorter": 3, "tracks_too_short": 1, "frames_no_size": 1}
    assert len(TrackEpisodes(tracks, shots=2, protocol="random", episodes_per_track=1)) == 5


class TestMinimumGap:
    """Random episodes whose frames are so many usable frames apart."""

    @pytest.mark.parametrize("presence", ["1" * 9, "1" * 14, "11011f110111011"])
    @pytest.mark.parametrize("absent", ["skip", "keep"])
    @pytest.mark.parametrize("gap", [1, 2, 4])
    def test_it_is_kept(self, presence: str, absent: str, gap: int) -> None:
        episodes = TrackEpisodes(
            [_track(presence)],
            shots=2,
            protocol="random",
            absent=absent,  # type: ignore[arg-type]
            episodes_per_track=200,
            min_gap=gap,
        )
        usable = [p for p, flag in enumerate(presence) if flag == "1" or (flag == "f" and absent == "keep")]
        for episode in episodes:
            supports, query = _positions(episode)
            chosen = sorted([*supports, query])
            places = [p for p in range(len(presence)) if p in usable or p == query]
            ranks = [places.index(position) for position in chosen]
            assert min(b - a for a, b in itertools.pairwise(ranks)) >= gap

    def test_every_choice_comes_up(self) -> None:
        episodes = TrackEpisodes([_track("1" * 7)], shots=2, protocol="random", episodes_per_track=600, min_gap=2)
        drawn = {(tuple(supports), query) for supports, query in map(_positions, episodes)}
        triples = [c for c in itertools.combinations(range(7), 3) if c[1] - c[0] >= 2 and c[2] - c[1] >= 2]
        assert drawn == {(tuple(p for p in c if p != query), query) for c in triples for query in c}

    def test_a_track_that_is_too_short_for_it(self) -> None:
        episodes = TrackEpisodes([_track("11111")], shots=2, protocol="random", min_gap=3)
        assert (len(episodes), dict(episodes.skipped)) == (0, {"tracks_too_short": 1})
        # A query in the middle would leave too few.
        episodes = TrackEpisodes([_track("11111")], shots=2, protocol="random", episodes_per_track=50, min_gap=2)
        assert {_positions(episode)[1] for episode in episodes} == {0, 2, 4}


class _Tracks(list[Track]):
    """Tracks of which the second cannot be read."""

    def __getitem__(self, index: Any) -> Any:
        if index == 1:
            raise DatasetError("tracks/1: expected a box, got a fox")
        return super().__getitem__(index)


class TestBadTracks:
    """A track that cannot be read: an error, or left out and counted."""

    tracks = _Tracks([_track("111", "a"), _track("111", "b"), _track("111", "c")])

    def test_they_are_an_error(self) -> None:
        with pytest.raises(DatasetError, match="got a fox"):
            TrackEpisodes(self.tracks, shots=2)

    def test_or_left_out(self) -> None:
        episodes = TrackEpisodes(self.tracks, shots=2, on_bad="skip")
        assert [episode.identity for episode in episodes] == ["a", "c"]
        assert dict(episodes.skipped) == {"tracks_bad": 1}
        assert episodes.bad == ["tracks/1: expected a box, got a fox"]

    def test_pictures_count_too(self, tmp_path: Path) -> None:
        frames = []
        for position in range(3):
            path = tmp_path / f"{position}.jpg"
            Image.new("RGB", (8, 8)).save(path)
            frames.append(Frame(path.name, (8, 8), path))
        track = dataclasses.replace(_track("111"), frames=tuple(frames))
        assert dict(TrackEpisodes([track], shots=2, on_bad="skip").skipped) == {}
        whole = path.read_bytes()
        path.write_bytes(whole[:-2])
        assert len(TrackEpisodes([track], shots=2)) == 1  # nobody has looked
        episodes = TrackEpisodes([track], shots=2, on_bad="skip")
        assert (len(episodes), dict(episodes.skipped)) == (0, {"tracks_bad": 1})
        assert re.search(r"2\.jpg: expected a whole JPEG, got one without an end", episodes.bad[0])


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        ("skip", {"tracks_too_short": 2, "frames_no_size": 3}),
        # The absent last frames of a and c are now queries, which also makes a long enough.
        ("keep", {"tracks_too_short": 1, "frames_no_size": 4}),
    ],
)
def test_skipped_is_counted_by_reason(absent: str, expected: dict[str, int]) -> None:
    tracks = [_track("11000", "a"), _track("", "b"), _track("111010", "c"), _track("1110111", "d")]
    episodes = TrackEpisodes(tracks, shots=2, absent=absent)  # type: ignore[arg-type]
    assert dict(episodes.skipped) == expected
    assert [episode.identity for episode in episodes] == (["c", "d"] if absent == "skip" else ["a", "c", "d"])


@pytest.mark.parametrize("absent", ["skip", "keep"])
@pytest.mark.parametrize("presence", ["111", "1110", "0110101", "1" * 30])
@pytest.mark.parametrize("shots", [1, 2])
def test_random_protocol_keeps_its_rules(presence: str, shots: int, absent: str) -> None:
    episodes = TrackEpisodes(
        [_track(presence)],
        shots=shots,
        protocol="random",
        absent=absent,  # type: ignore[arg-type]
        episodes_per_track=60,
    )
    assert len(episodes) == 60
    for episode in episodes:
        supports, query = _positions(episode)
        assert supports == sorted(set(supports))
        assert len(supports) == shots
        assert query not in supports
        assert all(presence[position] == "1" for position in supports)
        if absent == "skip":
            assert presence[query] == "1"


def test_random_protocol_draws_each_query_and_support_equally_often() -> None:
    num_draws = 3000
    episodes = TrackEpisodes(
        [_track("101111")], shots=2, protocol="random", absent="keep", episodes_per_track=num_draws
    )
    drawn = [_positions(episode) for episode in episodes]
    queries = Counter(query for _, query in drawn)
    supports = Counter(position for chosen, _ in drawn for position in chosen)
    assert set(queries) == set(range(6))
    assert set(supports) == {0, 2, 3, 4, 5}
    # Six standard deviations of a binomial share.
    assert all(abs(count / num_draws - 1 / 6) < 0.041 for count in queries.values())
    assert all(abs(count / num_draws - 2 / 5) < 0.054 for count in supports.values())


def test_random_protocol_uses_an_absent_query_where_only_that_leaves_enough_supports() -> None:
    episodes = TrackEpisodes([_track("1101")], shots=3, protocol="random", absent="keep", episodes_per_track=20)
    assert {_positions(episode)[1] for episode in episodes} == {2}
    assert all(episode.target_box is None for episode in episodes)


def test_random_protocol_spreads_indices_over_tracks_and_obeys_the_seed() -> None:
    tracks = [_track("1" * 20, identity) for identity in "abc"]
    first, second = (
        TrackEpisodes(tracks, shots=3, protocol="random", seed=seed, episodes_per_track=10) for seed in (0, 1)
    )
    assert len(first) == 30
    assert [first[index].identity for index in range(6)] == list("abcabc")
    assert [_positions(episode) for episode in first] != [_positions(episode) for episode in second]
    assert len({tuple(_positions(first[index])[0]) for index in range(0, 30, 3)}) > 5
    assert len(TrackEpisodes(tracks, shots=3, protocol="random")) == 3 * DEFAULT_EPISODES_PER_TRACK


def test_focus_query_does_not_depend_on_shots() -> None:
    tracks = [_track("1101110111")]
    assert {_positions(TrackEpisodes(tracks, shots=shots)[0])[1] for shots in (1, 2, 4, 7)} == {9}


@pytest.mark.parametrize("protocol", ["focus", "random"])
def test_contract(protocol: str) -> None:
    tracks = [_track("1101101110", identity) for identity in "abcd"]
    assert_dataset_contract(TrackEpisodes(tracks, shots=3, protocol=protocol), shots=3)  # type: ignore[arg-type]


def test_items_do_not_depend_on_the_order_in_which_they_are_asked_for() -> None:
    tracks = [_track("1" * 12, identity) for identity in "ab"]
    episodes = TrackEpisodes(tracks, shots=2, protocol="random")
    forwards = [episodes[index] for index in range(8)]
    for index in reversed(range(8)):
        assert_same_episode(episodes[index], forwards[index])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"shots": 0}, r"shots must be at least 1, got 0"),
        ({"protocol": "last"}, r"protocol must be one of \('focus', 'iploc', 'random'\), got 'last'"),
        ({"absent": "drop"}, r"absent must be one of \('skip', 'keep', 'nearest'\), got 'drop'"),
        ({"seed": -1}, r"seed must not be negative, got -1"),
        ({"episodes_per_track": 5}, r"episodes_per_track is for protocol 'random'.*leave it out"),
        ({"min_gap": 2}, r"min_gap must be at least 1, and is for protocol 'random' only, got 2"),
        ({"protocol": "random", "min_gap": 0}, r"min_gap must be at least 1.*got 0"),
        ({"on_bad": "warn"}, r"on_bad must be one of \('raise', 'skip'\), got 'warn'"),
        ({"protocol": "random", "episodes_per_track": 0}, r"episodes_per_track must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TrackEpisodes([_track("111")], **({"shots": 2} | arguments))  # type: ignore[arg-type]
