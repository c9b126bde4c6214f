"""Several data sets as one: proportions, order, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from focus_env.datasets.transforms import NUM_SLOTS, JointEpisodes, parse_weights
from tests.contracts import assert_dataset_contract
from tests.fakes import FakeDataset


def _names(episodes: JointEpisodes, indices: range) -> Counter[str]:
    return Counter(episodes[index].episode_id.split("/")[0] for index in indices)


def test_proportions_are_exact_in_every_block() -> None:
    parts = {"a": FakeDataset(4), "b": FakeDataset(9), "c": FakeDataset(2)}
    episodes = JointEpisodes(parts, {"a": 5, "b": 3, "c": 2}, num_episodes=3 * NUM_SLOTS)
    for block in range(3):
        counts = _names(episodes, range(block * NUM_SLOTS, (block + 1) * NUM_SLOTS))
        assert counts == {"a": 500, "b": 300, "c": 200}
    # Well mixed: no stretch of 100 is far from it (five standard deviations of a binomial share).
    assert all(25 < _names(episodes, range(start, start + 100))["a"] < 75 for start in range(0, 1000, 100))


def test_weights_that_do_not_divide() -> None:
    parts = {"a": FakeDataset(), "b": FakeDataset(), "c": FakeDataset()}
    episodes = JointEpisodes(parts, dict.fromkeys(parts, 1.0), num_episodes=NUM_SLOTS)
    assert sorted(_names(episodes, range(NUM_SLOTS)).values()) == [333, 333, 334]


def test_each_data_set_is_gone_through_in_its_own_epochs() -> None:
    parts = {"a": FakeDataset(7), "b": FakeDataset(20)}
    episodes = JointEpisodes(parts, {"a": 1, "b": 3}, seed=4, num_episodes=56)
    order = [episodes[index].episode_id for index in range(56)]
    first = [name for name in order if name.startswith("a/")]
    assert len(first) > 7
    assert len(set(first[:7])) == 7
    assert sorted(set(first)) == sorted(set(first[:7]))


def test_epochs_go_on_from_one_block_to_the_next() -> None:
    episodes = JointEpisodes({"a": FakeDataset(3000), "b": FakeDataset(9)}, {"a": 9, "b": 1}, num_episodes=2200)
    seen = [name for name in (episodes[index].episode_id for index in range(0, 2200, 2)) if name.startswith("a/")]
    assert len(seen) == len(set(seen)) > 900


def test_it_is_a_function_of_seed_and_index() -> None:
    parts = {"a": FakeDataset(7), "b": FakeDataset(20)}
    one, two, other = (JointEpisodes(parts, {"a": 1, "b": 3}, seed=seed, num_episodes=40) for seed in (1, 1, 2))
    order = [one[index].episode_id for index in range(40)]
    assert [two[index].episode_id for index in reversed(range(40))] == order[::-1]
    assert [other[index].episode_id for index in range(40)] != order


def test_contract() -> None:
    parts = {"a": FakeDataset(7), "b": FakeDataset(9)}
    episodes = JointEpisodes(parts, {"a": 7, "b": 9})
    assert len(episodes) == 16
    assert_dataset_contract(episodes, shots=2, num_checked=5)


def test_what_was_skipped_says_where() -> None:
    part = FakeDataset()
    part.skipped = {"tracks_bad": 2}  # type: ignore[attr-defined]
    assert JointEpisodes({"a": part, "b": FakeDataset()}, {"a": 1, "b": 1}).skipped == {"a/tracks_bad": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a:1", {"a": 1.0}), ("a:0.25, b : 1e1", {"a": 0.25, "b": 10.0})],
)
def test_weights(text: str, expected: dict[str, float]) -> None:
    assert parse_weights(text) == expected


@pytest.mark.parametrize("text", ["", "a", "a:", "a:1,", ":1", "a:0", "a:-1", "a:nan", "a:inf", "a:1,a:2", "a:1:2"])
def test_wrong_weights(text: str) -> None:
    with pytest.raises(ValueError, match="data sets: expected name:weight,name:weight with different names"):
        parse_weights(text)


@pytest.mark.parametrize(
    ("parts", "weights", "match"),
    [
        ({}, {}, "weights: expected one for each"),
        ({"a": FakeDataset()}, {"b": 1.0}, r"weights: expected one for each of \['a'\], got \['b'\]"),
        ({"a": FakeDataset(), "b": FakeDataset(0)}, {"a": 1, "b": 1}, "data set 'b': expected at least one episode"),
        ({"a": FakeDataset(), "b": FakeDataset()}, {"a": 1, "b": 1e-4}, r"a thousandth of their sum.*for 'b'"),
    ],
)
def test_wrong_arguments(parts: dict[str, FakeDataset], weights: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        JointEpisodes(parts, weights)
