"""Smaller pictures: the boxes go with them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from focus_env.boxes import box_iou
from focus_env.datasets.transforms import ShrunkPictures
from focus_env.types import Box, Episode, Exemplar, Frame
from tests.contracts import assert_dataset_contract
from tests.fakes import FakeDataset


def _relative(episode: Episode) -> list[float]:
    pairs = [*((e.box, e.frame) for e in episode.support), (episode.target_box, episode.query_frame)]
    return [
        value / side
        for box, frame in pairs
        if box is not None
        for value, side in zip(box, frame.image_wh * 2, strict=True)
    ]


@pytest.mark.parametrize("max_pixels", [10_000, 1600, 700, 50, 1])
def test_boxes_stay_where_they_are(max_pixels: int) -> None:
    dataset = FakeDataset(with_absent=True)
    shrunk = ShrunkPictures(dataset, max_pixels)
    assert_dataset_contract(shrunk, shots=2)
    for index in range(4):
        np.testing.assert_allclose(_relative(shrunk[index]), _relative(dataset[index]), atol=1e-12)
        frames = [*(e.frame for e in shrunk[index].support), shrunk[index].query_frame]
        assert all(frame.image_wh[0] * frame.image_wh[1] <= max_pixels for frame in frames)


def test_iou_does_not_change() -> None:
    episode, shrunk = FakeDataset()[0], ShrunkPictures(FakeDataset(), 997)[0]
    width, height = shrunk.query_frame.image_wh
    assert (width, height) == (36, 27)
    guess = Box(25.0, 3.0, 70.0, 33.0)
    same = Box(25.0 * width / 80, 3.0 * height / 60, 70.0 * width / 80, 33.0 * height / 60)
    assert box_iou(same, shrunk.target_box) == pytest.approx(box_iou(guess, episode.target_box), abs=1e-12)


def test_a_box_up_to_the_border_stays_inside() -> None:
    for side in range(40, 140):
        whole = Box(0.0, 0.0, float(side), float(side))
        frame = Frame("square", (side, side), np.zeros((side, side, 3), np.uint8))
        episode = Episode("e", (Exemplar(frame, whole),), frame, whole, "i")
        shrunk = ShrunkPictures([episode], 23 * 23)[0]
        assert shrunk.target_box == shrunk.support[0].box
        assert shrunk.target_box is not None
        assert max(shrunk.target_box) <= shrunk.query_frame.image_wh[0] <= 23


def test_the_rest_is_passed_on() -> None:
    dataset = FakeDataset()
    dataset.skipped = {"tracks_bad": 2}  # type: ignore[attr-defined]
    shrunk = pickle.loads(pickle.dumps(ShrunkPictures(dataset, 500)))
    assert len(shrunk) == 4
    assert shrunk.skipped == {"tracks_bad": 2}
    with pytest.raises(ValueError, match="max_pixels must be at least 1, got 0"):
        ShrunkPictures(dataset, 0)
