"""The control data set: the supports are another episode's, and all else is as it was."""

from __future__ import annotations

import dataclasses

import pytest

from focus_env.datasets import SyntheticDataset
from focus_env.datasets.transforms import ShuffledSupports
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.fakes import FakeDataset


def test_supports_are_those_of_the_next_episode() -> None:
    episodes = FakeDataset(4, with_absent=True)
    shuffled = ShuffledSupports(episodes)
    assert len(shuffled) == 4
    for index, following in enumerate((1, 2, 3, 0)):
        own = episodes[index]
        expected = dataclasses.replace(own, episode_id=f"fake/{index}/shuffled", support=episodes[following].support)
        assert_same_episode(shuffled[index], expected)
        assert shuffled[index].support[0].frame.name == f"{following}/support-0"
        assert shuffled[index].query_frame.name == f"{index}/query"


def test_contract() -> None:
    episodes = SyntheticDataset(split="val", level=3, shots=2, image_size=56, absent_fraction=0.3, num_episodes=20)
    assert_dataset_contract(ShuffledSupports(episodes), shots=2)
    assert ShuffledSupports(episodes)[19].support[0].box == episodes[0].support[0].box


@pytest.mark.parametrize("num_episodes", [0, 1])
def test_one_episode_has_no_other(num_episodes: int) -> None:
    with pytest.raises(ValueError, match=f"two or more to take supports from each other, got {num_episodes}$"):
        ShuffledSupports(FakeDataset(num_episodes))
