"""Batches of answers from what was read of them."""

from __future__ import annotations

from focus_env.rewards.answers import AnswerBatch
from focus_env.types import Box, ParseResult, ParseStatus
from tests.fakes import make_episode
from tests.focus_env.rewards.batches import TARGET

ABSENT = ParseResult(ParseStatus.ABSENT, None, True)
GARBAGE = ParseResult(ParseStatus.NO_BOX, None, False)


def ok(box: Box, *, is_strict: bool = True) -> ParseResult:
    return ParseResult(ParseStatus.OK, box, is_strict)


def batch(*parses: ParseResult, target: Box | None = TARGET, texts: list[str | None] | None = None) -> AnswerBatch:
    episodes = [make_episode(index, target_box=target) for index in range(len(parses))]
    return AnswerBatch.from_parses(episodes, parses, texts)
