"""A bounded pool of episodes, and supports in a number that is drawn for each step."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import gymnasium
import pytest

from focus_env.datasets import SyntheticDataset
from focus_env.datasets.sampler import TrackEpisodes, focus_frames
from focus_env.datasets.training import DrawnShots, FirstEpisodes, shots_at, with_shots
from focus_env.datasets.transforms import JointEpisodes, ShrunkPictures, ShuffledSupports
from focus_env.env import ENV_ID
from focus_env.types import Box, EpisodeDataset, Frame, Track
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.fakes import FakeDataset


def tracks(scenes: Any = "tracks", **options: Any) -> SyntheticDataset:
    return SyntheticDataset(**({"scenes": scenes, "shots": 4, "image_size": 56, "num_episodes": 6} | options))


class TestWithShots:
    """Fewer supports: those that the data set would have cut, through whatever is around it."""

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda episodes: episodes,
            lambda episodes: FirstEpisodes(episodes, 3),
            lambda episodes: DrawnShots(episodes, (1, 2)),
            lambda episodes: ShrunkPictures(episodes, 1000),
            lambda episodes: ShuffledSupports(episodes),
            lambda episodes: JointEpisodes({"a": episodes, "b": episodes}, {"a": 0.5, "b": 0.5}),
        ],
    )
    @pytest.mark.parametrize("shots", [1, 2])
    def test_a_video_is_cut_anew(self, wrap: Any, shots: int) -> None:
        found = with_shots(wrap(tracks()), 1, shots)
        assert_same_episode(found, wrap(tracks(shots=max(shots, 2)))[1] if shots == 2 else found)
        assert [e.frame.name.rsplit("/frame")[-1] for e in found.support] == list(map(str, focus_frames(25, shots)[0]))

    def test_of_any_other_data_set_the_first_are_taken(self) -> None:
        episodes = FakeDataset(3, shots=4)
        found = with_shots(episodes, 2, 3)
        assert_same_episode(found, dataclasses.replace(episodes[2], support=episodes[2].support[:3]))
        assert_same_episode(with_shots(episodes, 2, None), episodes[2])

    def test_one_look_is_what_it_was(self) -> None:
        """The one support of the first steps was the first of all, which were drawn."""
        episodes = tracks("one_look", level=3)
        first = dataclasses.replace(episodes[1], support=episodes[1].support[:1])
        assert_same_episode(with_shots(episodes, 1, 1), first)

    def test_videos_on_disk_are_cut_by_their_protocol(self) -> None:
        frames = tuple(Frame(str(number), (8, 8), source=b"") for number in range(9))
        videos = [Track("a", frames, tuple(Box(0, 0, 4, 4) for _ in frames))]
        episodes = TrackEpisodes(videos, shots=4)
        assert [e.frame.name for e in with_shots(episodes, 0, 2).support] == ["0", "4"]
        assert with_shots(episodes, 0, 1).query_frame.name == "8"
        drawn = TrackEpisodes(videos, shots=4, protocol="random")
        assert with_shots(drawn, 3, 2).support == drawn[3].support[:2]
        for shots in (0, 5):
            with pytest.raises(ValueError, match=f"shots: expected from 1 to 4, the supports of an .* got {shots}"):
                with_shots(episodes, 0, shots)


class TestFirstEpisodes:
    """A pool is the front of a data set, and no more."""

    def test_it_is_a_data_set(self) -> None:
        assert_dataset_contract(FirstEpisodes(tracks(), 3), shots=4, num_checked=2)
        assert_same_episode(FirstEpisodes(tracks(), 3)[2], tracks()[2])

    @pytest.mark.parametrize("count", [0, -1, 7, 2.0, True, None])
    def test_wrong_numbers(self, count: Any) -> None:
        with pytest.raises(ValueError, match=r"num_episodes(: expected from 1 to 6| must be a whole number)"):
            FirstEpisodes(tracks(), count)

    def test_fewer_supports_of_an_episode_outside(self) -> None:
        for index in (3, -1):
            with pytest.raises(IndexError, match=r"episode index must be in 0 \.\. 2"):
                with_shots(FirstEpisodes(tracks(), 3), index, 1)


class TestDrawnShots:
    """Each step has its own number, which depends on the seed and the step alone."""

    def test_it_is_a_data_set(self) -> None:
        assert_dataset_contract(DrawnShots(tracks(), (1, 2, 4)), shots=4, num_checked=2)

    def test_all_choices_come_equally_often(self) -> None:
        drawn = DrawnShots(FakeDataset(2, shots=4), (1, 2, 4), seed=3)
        counts = Counter(shots_at(drawn, step) for step in range(900))
        assert set(counts) == {1, 2, 4}
        assert all(240 < count < 360 for count in counts.values())
        assert [drawn.shots_at(step) for step in (7, 3)] == [shots_at(drawn, step) for step in (7, 3)]
        others = DrawnShots(FakeDataset(2, shots=4), (1, 2, 4), seed=4)
        assert [drawn.shots_at(step) for step in range(20)] != [others.shots_at(step) for step in range(20)]

    def test_no_other_data_set_draws(self) -> None:
        assert shots_at(FakeDataset(2, shots=4), 5) is None

    @pytest.mark.parametrize(
        ("choices", "match"),
        [
            ((), r"expected different numbers of supports, each at least 1, got \(\)"),
            ((0, 1), r"each at least 1, got \(0, 1\)"),
            ((2, 2), r"expected different numbers .* got \(2, 2\)"),
            ((1, 5), "expected at most 4, the supports of an episode, got 5"),
            ((1.0,), "choices must be a whole number, got 1.0"),
        ],
    )
    def test_wrong_choices(self, choices: Any, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            DrawnShots(FakeDataset(2, shots=4), choices)


class TestEnvironment:
    """The environment shows an episode with as many supports as it is asked for."""

    def test_a_number_of_supports(self) -> None:
        episodes: EpisodeDataset = tracks()
        env: gymnasium.Env[Any, Any] = gymnasium.make(ENV_ID, dataset=episodes)
        for shots in (1, 4, 2, None):
            observation, _ = env.reset(options={"episode_index": 1, **({} if shots is None else {"shots": shots})})
            assert len(observation["support_images"]) == (shots or 4)
            assert_same_episode(env.get_wrapper_attr("episode"), with_shots(episodes, 1, shots))

    @pytest.mark.parametrize("shots", [0, -2, 1.5, "2", True])
    def test_what_is_no_number_of_them(self, shots: Any) -> None:
        env: gymnasium.Env[Any, Any] = gymnasium.make(ENV_ID, dataset=tracks())
        with pytest.raises(ValueError, match="shots"):
            env.reset(options={"episode_index": 0, "shots": shots})
