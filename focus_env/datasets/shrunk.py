"""Episodes with smaller pictures, for a model that would scale them down anyway."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from focus_env.types import Box, Episode, EpisodeDataset, Exemplar, Frame


class ShrunkPictures:
    """Episodes whose pictures have at most so many pixels, decoded at that size; see `focus_env.pictures.shown_wh`.

    Boxes are then in pixels of the smaller picture, which changes no IoU.

    Args:
        episodes: The episodes as they are.
        max_pixels: Most pixels of a picture, at least 1.

    Raises:
        ValueError: If `max_pixels` is not positive.
    """

    def __init__(self, episodes: EpisodeDataset, max_pixels: int) -> None:
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels!r}")
        self._episodes = episodes
        self._max_pixels = max_pixels

    @property
    def skipped(self) -> Mapping[str, int]:
        """What the data set left out, by reason."""
        return getattr(self._episodes, "skipped", {})

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int, /) -> Episode:
        episode = self._episodes[index]
        target = episode.target_box
        return dataclasses.replace(
            episode,
            support=tuple(
                Exemplar(e.frame.shrunk(self._max_pixels), self._scaled(e.box, e.frame), e.note)
                for e in episode.support
            ),
            query_frame=episode.query_frame.shrunk(self._max_pixels),
            target_box=None if target is None else self._scaled(target, episode.query_frame),
        )

    def _scaled(self, box: Box, frame: Frame) -> Box:
        """A box of a frame, in pixels of the frame as it is shown."""
        (width, height), (shown_width, shown_height) = frame.image_wh, frame.shrunk(self._max_pixels).image_wh
        x_scale, y_scale = shown_width / width, shown_height / height
        # The products can pass the border by a rounding.
        return Box(
            box.x1 * x_scale,
            box.y1 * y_scale,
            min(box.x2 * x_scale, float(shown_width)),
            min(box.y2 * y_scale, float(shown_height)),
        )
