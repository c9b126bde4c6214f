"""Scored answers, written by hand."""

from __future__ import annotations

from typing import Any

from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus


def scored(iou: float, *, status: ParseStatus = ParseStatus.OK, index: int = 0, **fields: Any) -> ScoredAnswer:
    """An answer with a given IoU; the box is there for pictures only."""
    box = Box(1.5, 2.0, 30.0, 41.25) if status is ParseStatus.OK else None
    given: dict[str, Any] = {
        "episode_id": f"fake/{index}",
        "status": status,
        "is_strict": status is ParseStatus.OK,
        "box": box,
        "target_box": Box(20.0, 10.0, 60.0, 40.0),
        "iou": iou,
        "is_whole_image": False,
        "is_support_copy": False,
    }
    return ScoredAnswer(**(given | fields))


UNREADABLE = scored(0.0, status=ParseStatus.NO_BOX)
