"""Batches of answers to the fake episode, as texts and as box actions."""

from __future__ import annotations

from focus_env.prompts import get_template
from focus_env.rewards.answers import AnswerBatch
from focus_env.types import Box, ParseResult, ParseStatus
from tests.fakes import make_episode

WH = (80, 60)
TARGET = Box(20.0, 10.0, 60.0, 40.0)
HALF = Box(20.0, 10.0, 60.0, 25.0)

TEMPLATE = get_template("default")


def batch(*texts: str, target: Box | None = TARGET, progress: float = 1.0) -> AnswerBatch:
    episode = make_episode(target_box=target)
    return AnswerBatch.from_parses(
        [episode] * len(texts), [TEMPLATE.parse(text, WH) for text in texts], texts, progress=progress
    )


def boxed(*boxes: Box, target: Box | None = TARGET, progress: float = 1.0) -> AnswerBatch:
    """Box actions: as exact as they are."""
    parses = [ParseResult(ParseStatus.OK, box, True) for box in boxes]
    return AnswerBatch.from_parses([make_episode(target_box=target)] * len(boxes), parses, progress=progress)
