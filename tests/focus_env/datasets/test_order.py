"""The order of episodes: every one once in an epoch, and the same wherever one starts to read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from focus_env.datasets.order import shuffled_indices

num_episodes_and_seed = {"num_episodes": st.integers(1, 12), "seed": st.integers(0, 2**31)}


class TestOrder:
    """`shuffled_indices` is a window into one endless sequence."""

    @given(epoch=st.integers(0, 5), **num_episodes_and_seed)
    def test_each_epoch_is_a_permutation(self, epoch: int, num_episodes: int, seed: int) -> None:
        indices = shuffled_indices(epoch * num_episodes, num_episodes, num_episodes=num_episodes, seed=seed)
        assert sorted(indices) == list(range(num_episodes))

    @given(start=st.integers(0, 40), count=st.integers(0, 40), **num_episodes_and_seed)
    def test_any_window_agrees_with_the_whole(self, start: int, count: int, num_episodes: int, seed: int) -> None:
        whole = shuffled_indices(0, start + count, num_episodes=num_episodes, seed=seed)
        assert shuffled_indices(start, count, num_episodes=num_episodes, seed=seed) == whole[start:]

    @given(steps=st.lists(st.integers(1, 9), max_size=8), **num_episodes_and_seed)
    def test_a_run_may_be_resumed_anywhere(self, steps: list[int], num_episodes: int, seed: int) -> None:
        position, seen = 0, []
        for step in steps:
            seen += shuffled_indices(position, step, num_episodes=num_episodes, seed=seed)
            position += step
        assert seen == shuffled_indices(0, position, num_episodes=num_episodes, seed=seed)

    def test_epochs_and_seeds_differ(self) -> None:
        first, second = (shuffled_indices(start, 20, num_episodes=20, seed=0) for start in (0, 20))
        assert first != second
        assert shuffled_indices(0, 20, num_episodes=20, seed=1) != first
        assert all(type(index) is int for index in first)
