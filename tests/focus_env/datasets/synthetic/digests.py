"""Episodes as short texts, to compare those of two processes."""

from __future__ import annotations

import hashlib

from focus_env.types import Episode


def digest(episode: Episode) -> str:
    """A hash of all that an episode holds."""
    frames = [*(exemplar.frame for exemplar in episode.support), episode.query_frame]
    boxes = [*(exemplar.box for exemplar in episode.support), episode.target_box]
    text = repr((episode.episode_id, episode.identity, boxes, [frame.name for frame in frames]))
    return hashlib.sha256(text.encode() + b"".join(frame.image().tobytes() for frame in frames)).hexdigest()
