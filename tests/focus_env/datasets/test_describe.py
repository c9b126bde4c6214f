"""What a data set holds: counted by hand."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from focus_env.datasets.describe import describe, picture_sheet, spread_indices
from focus_env.types import Episode
from tests.fakes import FakeDataset


class Mixed(FakeDataset):
    """Three episodes of cats and one of nothing; the second has one support; the last lacks its object."""

    skipped: ClassVar[dict[str, int]] = {"tracks_bad": 1}

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        return dataclasses.replace(
            episode,
            support=episode.support[: 1 if index == 1 else 2],
            category=None if index == 0 else "cat",
            target_note="no_size" if episode.target_box is None else "",
        )


def test_figures() -> None:
    seen: list[int] = []
    found = describe(Mixed(with_absent=True), on_episode=seen.append)
    assert seen == [1, 2, 3, 4]
    assert (found.num_episodes, found.num_read, found.num_identities) == (4, 4, 4)
    assert found.num_pictures == 11
    assert found.shots == {1: 1, 2: 3}
    assert found.categories == {"cat": 3}
    assert found.picture_wh == ((40, 32), (48, 32), (80, 60))
    assert found.num_absent == 1
    assert found.notes == {"no_size": 1}
    assert found.skipped == {"tracks_bad": 1}
    # Targets are 40, 39 and 38 by 30 in 80 x 60.
    assert found.target_shares == pytest.approx((38.1 / 160, 39 / 160, 39.9 / 160))


def test_of_many_some_are_read() -> None:
    found = describe(FakeDataset(50), max_episodes=5)
    assert (found.num_episodes, found.num_read) == (50, 5)
    assert spread_indices(50, 5) == [0, 12, 24, 36, 49]


def test_nothing_to_describe() -> None:
    with pytest.raises(
        ValueError, match="data set: expected at least one episode, got none; see which episodes were skipped"
    ):
        describe(FakeDataset(0))


class OddlyNamed(FakeDataset):
    """Names that no terminal can print, and one that is as long as a book."""

    def __getitem__(self, index: int) -> Episode:
        name = ("\ud800", "\x1b]0;\x07", "[/b]", "x" * 1_000_000)[index]
        return dataclasses.replace(super().__getitem__(index), episode_id=name, category=name)


def test_any_name_can_be_shown() -> None:
    assert list(describe(OddlyNamed(4)).categories) == ["?", "?]0;?", "[/b]", "x" * 1_000_000]
    assert picture_sheet(OddlyNamed(4)).shape[1] <= 1600


def test_no_target_at_all() -> None:
    assert describe(FakeDataset(1, with_absent=True)).target_shares is None


def test_the_sheet_has_a_row_for_each() -> None:
    few, more = picture_sheet(FakeDataset(2)), picture_sheet(FakeDataset(20), num_shown=6)
    assert few.dtype == "uint8"
    assert more.shape[0] > 2 * few.shape[0]
    assert max(few.shape[1], more.shape[1]) <= 1600
