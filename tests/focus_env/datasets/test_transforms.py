"""Episodes made of other episodes: several data sets as one, other supports, smaller pictures."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest

from focus_env.boxes import box_iou
from focus_env.datasets import SyntheticDataset, load_dataset
from focus_env.datasets.transforms import (
    NUM_SLOTS,
    EnlargedPictures,
    JointEpisodes,
    ShrunkPictures,
    ShuffledSupports,
    parse_weights,
)
from focus_env.types import Box, Episode, Exemplar, Frame
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.fakes import FakeDataset


def _names(episodes: JointEpisodes, indices: range) -> Counter[str]:
    return Counter(episodes[index].episode_id.split("/")[0] for index in indices)


def _relative(episode: Episode) -> list[float]:
    pairs = [*((e.box, e.frame) for e in episode.support), (episode.target_box, episode.query_frame)]
    return [
        value / side
        for box, frame in pairs
        if box is not None
        for value, side in zip(box, frame.image_wh * 2, strict=True)
    ]


class TestJointEpisodes:
    """Several data sets as one: proportions, order, and what is refused."""

    def test_proportions_are_exact_in_every_block(self) -> None:
        parts = {"a": FakeDataset(4), "b": FakeDataset(9), "c": FakeDataset(2)}
        episodes = JointEpisodes(parts, {"a": 5, "b": 3, "c": 2}, num_episodes=3 * NUM_SLOTS)
        for block in range(3):
            counts = _names(episodes, range(block * NUM_SLOTS, (block + 1) * NUM_SLOTS))
            assert counts == {"a": 500, "b": 300, "c": 200}
        # Well mixed: no stretch of 100 is far from it (five standard deviations of a binomial share).
        assert all(25 < _names(episodes, range(start, start + 100))["a"] < 75 for start in range(0, 1000, 100))

    def test_weights_that_do_not_divide(self) -> None:
        parts = {"a": FakeDataset(), "b": FakeDataset(), "c": FakeDataset()}
        episodes = JointEpisodes(parts, dict.fromkeys(parts, 1.0), num_episodes=NUM_SLOTS)
        assert sorted(_names(episodes, range(NUM_SLOTS)).values()) == [333, 333, 334]

    def test_each_data_set_is_gone_through_in_its_own_epochs(self) -> None:
        parts = {"a": FakeDataset(7), "b": FakeDataset(20)}
        episodes = JointEpisodes(parts, {"a": 1, "b": 3}, seed=4, num_episodes=56)
        order = [episodes[index].episode_id for index in range(56)]
        first = [name for name in order if name.startswith("a/")]
        assert len(first) > 7
        assert len(set(first[:7])) == 7
        assert sorted(set(first)) == sorted(set(first[:7]))

    def test_epochs_go_on_from_one_block_to_the_next(self) -> None:
        episodes = JointEpisodes({"a": FakeDataset(3000), "b": FakeDataset(9)}, {"a": 9, "b": 1}, num_episodes=2200)
        seen = [name for name in (episodes[index].episode_id for index in range(0, 2200, 2)) if name.startswith("a/")]
        assert len(seen) == len(set(seen)) > 900

    def test_it_is_a_function_of_seed_and_index(self) -> None:
        parts = {"a": FakeDataset(7), "b": FakeDataset(20)}
        one, two, other = (JointEpisodes(parts, {"a": 1, "b": 3}, seed=seed, num_episodes=40) for seed in (1, 1, 2))
        order = [one[index].episode_id for index in range(40)]
        assert [two[index].episode_id for index in reversed(range(40))] == order[::-1]
        assert [other[index].episode_id for index in range(40)] != order

    def test_contract(self) -> None:
        parts = {"a": FakeDataset(7), "b": FakeDataset(9)}
        episodes = JointEpisodes(parts, {"a": 7, "b": 9})
        assert len(episodes) == 16
        assert_dataset_contract(episodes, shots=2, num_checked=5)

    def test_what_was_skipped_says_where(self) -> None:
        part = FakeDataset()
        part.skipped = {"tracks_bad": 2}  # type: ignore[attr-defined]
        assert JointEpisodes({"a": part, "b": FakeDataset()}, {"a": 1, "b": 1}).skipped == {"a/tracks_bad": 2}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("a:1", {"a": 1.0}), ("a:0.25, b : 1e1", {"a": 0.25, "b": 10.0})],
    )
    def test_weights(self, text: str, expected: dict[str, float]) -> None:
        assert parse_weights(text) == expected

    @pytest.mark.parametrize("text", ["", "a", "a:", "a:1,", ":1", "a:0", "a:-1", "a:nan", "a:inf", "a:1,a:2", "a:1:2"])
    def test_wrong_weights(self, text: str) -> None:
        with pytest.raises(ValueError, match="data sets: expected name:weight,name:weight with different names"):
            parse_weights(text)

    @pytest.mark.parametrize(
        ("parts", "weights", "match"),
        [
            ({}, {}, "weights: expected one for each"),
            ({"a": FakeDataset()}, {"b": 1.0}, r"weights: expected one for each of \['a'\], got \['b'\]"),
            (
                {"a": FakeDataset(), "b": FakeDataset(0)},
                {"a": 1, "b": 1},
                "data set 'b': expected at least one episode",
            ),
            ({"a": FakeDataset(), "b": FakeDataset()}, {"a": 1, "b": 1e-4}, r"a thousandth of their sum.*for 'b'"),
        ],
    )
    def test_wrong_arguments(self, parts: dict[str, FakeDataset], weights: dict[str, float], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            JointEpisodes(parts, weights)


class TestShuffledSupports:
    """The control data set: the supports are another episode's, and all else is as it was."""

    def test_supports_are_those_of_the_next_episode(self) -> None:
        episodes = FakeDataset(4, with_absent=True)
        shuffled = ShuffledSupports(episodes)
        assert len(shuffled) == 4
        for index, following in enumerate((1, 2, 3, 0)):
            own = episodes[index]
            expected = dataclasses.replace(
                own, episode_id=f"fake/{index}/shuffled", support=episodes[following].support
            )
            assert_same_episode(shuffled[index], expected)
            assert shuffled[index].support[0].frame.name == f"{following}/support-0"
            assert shuffled[index].query_frame.name == f"{index}/query"

    def test_contract(self) -> None:
        episodes = SyntheticDataset(split="val", level=3, shots=2, image_size=56, absent_fraction=0.3, num_episodes=20)
        assert_dataset_contract(ShuffledSupports(episodes), shots=2)
        assert ShuffledSupports(episodes)[19].support[0].box == episodes[0].support[0].box

    @pytest.mark.parametrize("num_episodes", [0, 1])
    def test_one_episode_has_no_other(self, num_episodes: int) -> None:
        with pytest.raises(ValueError, match=f"two or more to take supports from each other, got {num_episodes}$"):
            ShuffledSupports(FakeDataset(num_episodes))


class TestShrunkPictures:
    """Smaller pictures: the boxes go with them."""

    @pytest.mark.parametrize("max_pixels", [10_000, 1600, 700, 50, 1])
    def test_boxes_stay_where_they_are(self, max_pixels: int) -> None:
        dataset = FakeDataset(with_absent=True)
        shrunk = ShrunkPictures(dataset, max_pixels)
        assert_dataset_contract(shrunk, shots=2)
        for index in range(4):
            np.testing.assert_allclose(_relative(shrunk[index]), _relative(dataset[index]), atol=1e-12)
            frames = [*(e.frame for e in shrunk[index].support), shrunk[index].query_frame]
            assert all(frame.image_wh[0] * frame.image_wh[1] <= max_pixels for frame in frames)

    def test_iou_does_not_change(self) -> None:
        episode, shrunk = FakeDataset()[0], ShrunkPictures(FakeDataset(), 997)[0]
        width, height = shrunk.query_frame.image_wh
        assert (width, height) == (36, 27)
        guess = Box(25.0, 3.0, 70.0, 33.0)
        same = Box(25.0 * width / 80, 3.0 * height / 60, 70.0 * width / 80, 33.0 * height / 60)
        assert box_iou(same, shrunk.target_box) == pytest.approx(box_iou(guess, episode.target_box), abs=1e-12)

    def test_a_box_up_to_the_border_stays_inside(self) -> None:
        for side in range(40, 140):
            whole = Box(0.0, 0.0, float(side), float(side))
            frame = Frame("square", (side, side), np.zeros((side, side, 3), np.uint8))
            episode = Episode("e", (Exemplar(frame, whole),), frame, whole, "i")
            shrunk = ShrunkPictures([episode], 23 * 23)[0]
            assert shrunk.target_box == shrunk.support[0].box
            assert shrunk.target_box is not None
            assert max(shrunk.target_box) <= shrunk.query_frame.image_wh[0] <= 23

    def test_the_rest_is_passed_on(self) -> None:
        dataset = FakeDataset()
        dataset.skipped = {"tracks_bad": 2}  # type: ignore[attr-defined]
        shrunk = pickle.loads(pickle.dumps(ShrunkPictures(dataset, 500)))
        assert len(shrunk) == 4
        assert shrunk.skipped == {"tracks_bad": 2}
        with pytest.raises(ValueError, match="max_pixels must be at least 1, got 0"):
            ShrunkPictures(dataset, 0)


class TestEnlargedPictures:
    """Larger pictures: the boxes go with them."""

    @pytest.mark.parametrize("min_pixels", [1, 4800, 4801, 9_999, 30_000])
    def test_boxes_stay_where_they_are(self, min_pixels: int) -> None:
        dataset = FakeDataset(with_absent=True)
        enlarged = EnlargedPictures(dataset, min_pixels)
        assert_dataset_contract(enlarged, shots=2)
        for index in range(4):
            np.testing.assert_allclose(_relative(enlarged[index]), _relative(dataset[index]), atol=1e-12)
            frames = [*(e.frame for e in enlarged[index].support), enlarged[index].query_frame]
            assert all(frame.image_wh[0] * frame.image_wh[1] >= min_pixels for frame in frames)
            assert all(frame.image().shape[1::-1] == frame.image_wh for frame in frames)

    def test_both_limits(self) -> None:
        options: dict[str, Any] = {"split": "train", "shots": 1, "level": 1}
        for image_size, side in ((128, 64), (56, 60), (62, 62)):
            episodes = load_dataset("synthetic", image_size=image_size, max_pixels=64**2, min_pixels=60**2, **options)
            assert episodes[0].query_frame.image_wh == (side, side)
        with pytest.raises(ValueError, match="min_pixels: expected at most `max_pixels`, 10, got 11"):
            load_dataset("synthetic", max_pixels=10, min_pixels=11, **options)

    def test_the_rest_is_passed_on(self) -> None:
        dataset = FakeDataset()
        dataset.skipped = {"tracks_bad": 2}  # type: ignore[attr-defined]
        enlarged = pickle.loads(pickle.dumps(EnlargedPictures(dataset, 9_000)))
        assert enlarged.skipped == {"tracks_bad": 2}
        with pytest.raises(ValueError, match="min_pixels must be at least 1, got 0"):
            EnlargedPictures(dataset, 0)
