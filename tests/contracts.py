"""What every implementation of a protocol must keep; called by the tests of each."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from focus_env.types import Box, Episode, EpisodeDataset, Frame


def assert_dataset_contract(dataset: EpisodeDataset, *, shots: int, num_checked: int = 6) -> None:
    """Check what everyone relies on who reads episodes.

    Args:
        dataset: A data set with at least one episode.
        shots: How many supports its episodes have.
        num_checked: How many episodes, evenly spaced, are checked.
    """
    assert len(dataset) > 0, "a data set without episodes shows nothing"
    indices = sorted({int(index) for index in np.linspace(0, len(dataset) - 1, num_checked)})
    episodes = [dataset[index] for index in indices]
    for index, episode in zip(indices, episodes, strict=True):
        _assert_episode(episode, shots=shots)
        assert_same_episode(episode, dataset[index])
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == len(dataset)
    for index, episode in reversed(list(zip(indices, episodes, strict=True))):
        assert_same_episode(episode, copy[index])
    episode_ids = [episode.episode_id for episode in episodes]
    assert len(set(episode_ids)) == len(episode_ids), f"episode ids repeat: {episode_ids}"
    for outside in (len(dataset), len(dataset) + 7, -1):
        with pytest.raises(IndexError, match="episode"):
            dataset[outside]


def assert_same_episode(first: Episode, second: Episode) -> None:
    """Two episodes are equal, pixels included."""
    for name in ("episode_id", "target_box", "identity", "category"):
        assert getattr(first, name) == getattr(second, name), f"{name} differs"
    assert [exemplar.box for exemplar in first.support] == [exemplar.box for exemplar in second.support]
    for one, other in zip(_frames(first), _frames(second), strict=True):
        assert (one.name, one.image_wh) == (other.name, other.image_wh)
        np.testing.assert_array_equal(one.image(), other.image(), err_msg=one.name)


def _frames(episode: Episode) -> list[Frame]:
    return [*(exemplar.frame for exemplar in episode.support), episode.query_frame]


def _assert_episode(episode: Episode, *, shots: int) -> None:
    assert len(episode.support) == shots
    # One identity per episode: that it is the object of all pictures is up to who builds the episode.
    assert episode.identity
    assert episode.episode_id
    names = [frame.name for frame in _frames(episode)]
    assert len(set(names)) == len(names), f"a frame is shown twice in {episode.episode_id}: {names}"
    for frame in _frames(episode):
        image = frame.image()
        assert image.dtype == np.uint8
        assert image.shape == (frame.image_wh[1], frame.image_wh[0], 3)
    for exemplar in episode.support:
        _assert_box(exemplar.box, exemplar.frame)
    if episode.target_box is not None:
        _assert_box(episode.target_box, episode.query_frame)


def _assert_box(box: Box, frame: Frame) -> None:
    width, height = frame.image_wh
    assert isinstance(box, Box)
    assert all(isinstance(value, float) for value in box), f"{box} of {frame.name} is not made of floats"
    assert 0 <= box.x1 < box.x2 <= width, f"{box} of {frame.name} in {width} x {height}"
    assert 0 <= box.y1 < box.y2 <= height, f"{box} of {frame.name} in {width} x {height}"
