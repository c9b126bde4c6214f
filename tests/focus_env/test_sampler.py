"""Episodes out of tracks: which frames become supports and query, and what is left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus_env.datasets.sampler import DEFAULT_EPISODES_PER_TRACK, TrackEpisodes, focus_frames
from focus_env.types import Box, Episode, Frame, Track
from tests.contracts import assert_dataset_contract, assert_same_episode


def _track(presence: str, identity: str = "t") -> Track:
    """A track from a text: "1" is a frame with the object, "0" one without."""
    frames = tuple(
        Frame(f"{identity}/{position}", (8, 8), np.full((8, 8, 3), position, np.uint8))
        for position in range(len(presence))
    )
    boxes = tuple(
        Box(0.0, 0.0, 1.0 + position / 10, 2.0) if flag == "1" else None for position, flag in enumerate(presence)
    )
    return Track(identity, frames, boxes, category="thing")


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
    ("absent", "expected"),
    [
        ("skip", {"tracks_too_short": 2, "frames_absent": 3}),
        # The absent last frames of a and c are now queries, which also makes a long enough.
        ("keep", {"tracks_too_short": 1, "frames_absent": 4}),
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
        ({"protocol": "last"}, r"protocol must be one of \('focus', 'random'\), got 'last'"),
        ({"absent": "drop"}, r"absent must be one of \('skip', 'keep'\), got 'drop'"),
        ({"seed": -1}, r"seed must not be negative, got -1"),
        ({"episodes_per_track": 5}, r"episodes_per_track is for protocol 'random'.*leave it out"),
        ({"protocol": "random", "episodes_per_track": 0}, r"episodes_per_track must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TrackEpisodes([_track("111")], **({"shots": 2} | arguments))  # type: ignore[arg-type]
