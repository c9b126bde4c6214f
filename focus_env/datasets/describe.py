"""Describe a data set in figures and in a picture."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from focus_env.rendering import TARGET_COLOUR, render_episode, stack_rows
from focus_env.text_files import as_name
from focus_env.types import Episode, EpisodeDataset, ImageArray

SHEET_WIDTH = 1600
MAX_TITLE = 250
"""Characters; more would not fit the width."""


@dataclass(frozen=True, slots=True)
class Description:
    """Figures of a data set.

    Attributes:
        num_episodes: Its length.
        num_read: How many of these were read for the figures that follow.
        num_identities: Different objects.
        num_pictures: Different pictures, by name.
        shots: Episodes by number of supports.
        categories: Episodes by category, the most frequent first; without those that have none.
        picture_wh: Smallest, median and largest (width, height) by area.
        target_shares: Area of the target as a share of its picture: 5th, 50th and 95th percentile.
        num_absent: Episodes without the object in the query.
        notes: Supports and targets with a note, by note.
        skipped: What was left out, by reason.
    """

    num_episodes: int
    num_read: int
    num_identities: int
    num_pictures: int
    shots: Mapping[int, int]
    categories: Mapping[str, int]
    picture_wh: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    target_shares: tuple[float, float, float] | None
    num_absent: int
    notes: Mapping[str, int]
    skipped: Mapping[str, int]


def describe(
    episodes: EpisodeDataset,
    *,
    max_episodes: int = 10_000,
    on_episode: Callable[[int], None] = lambda num_done: None,
) -> Description:
    """Read episodes, without their pictures, and count.

    Args:
        episodes: At least one.
        max_episodes: Of more, so many are read, evenly spaced.
        on_episode: Called with the number of episodes read, for progress.

    Raises:
        ValueError: If there is no episode.
    """
    read: list[Episode] = []
    for index in spread_indices(len(episodes), max_episodes):
        read.append(episodes[index])
        on_episode(len(read))
    frames = [frame for e in read for frame in (*(exemplar.frame for exemplar in e.support), e.query_frame)]
    sizes = sorted((frame.image_wh for frame in frames), key=lambda wh: wh[0] * wh[1])
    shares = [_share(e) for e in read if e.target_box is not None]
    notes = Counter(note for e in read for note in (*(x.note for x in e.support), e.target_note) if note)
    return Description(
        num_episodes=len(episodes),
        num_read=len(read),
        num_identities=len({e.identity for e in read}),
        num_pictures=len({frame.name for frame in frames}),
        shots=dict(sorted(Counter(len(e.support) for e in read).items())),
        categories=dict(Counter(as_name(e.category) for e in read if e.category is not None).most_common()),
        picture_wh=(sizes[0], statistics.median_low(sizes), sizes[-1]),
        target_shares=tuple(np.percentile(shares, [5, 50, 95]).tolist()) if shares else None,
        num_absent=sum(e.target_box is None for e in read),
        notes=dict(notes.most_common()),
        skipped=dict(getattr(episodes, "skipped", {})),
    )


def picture_sheet(episodes: EpisodeDataset, *, num_shown: int = 8) -> ImageArray:
    """Draw episodes, evenly spaced: a row each, supports and query with their boxes.

    Returns:
        [H, W, 3] uint8, at most `SHEET_WIDTH` wide.

    Raises:
        ValueError: If there is no episode.
        DatasetError: If a picture cannot be decoded.
    """
    shown: Sequence[Episode] = [episodes[index] for index in spread_indices(len(episodes), num_shown)]
    titles = [as_name(f"{e.episode_id}{'' if e.category is None else f' ({e.category})'}")[:MAX_TITLE] for e in shown]
    sheet = stack_rows([render_episode(e) for e in shown], titles, legend=[("target", TARGET_COLOUR)])
    if sheet.shape[1] <= SHEET_WIDTH:
        return sheet
    return np.array(Image.fromarray(sheet).resize((SHEET_WIDTH, round(sheet.shape[0] * SHEET_WIDTH / sheet.shape[1]))))


def spread_indices(num_episodes: int, num_chosen: int) -> list[int]:
    """Return at most so many indices, evenly spaced, the first and the last among them.

    >>> spread_indices(9, 3), spread_indices(2, 3)
    ([0, 4, 8], [0, 1])
    """
    if num_episodes == 0:
        raise ValueError("data set: expected at least one episode, got none; see which episodes were skipped, and why")
    return sorted({int(index) for index in np.linspace(0, num_episodes - 1, num_chosen)})


def _share(episode: Episode) -> float:
    box, (width, height) = episode.target_box, episode.query_frame.image_wh
    assert box is not None
    return (box.x2 - box.x1) * (box.y2 - box.y1) / (width * height)
