"""Records that samplers and learners exchange."""

from __future__ import annotations

from typing import Any

import pytest

from focus_agents.rollout.records import Sampling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, r"temperature: expected 0 \(greedy\) or more, got -0\.1"),
        ({"max_completion_tokens": 0}, "max_completion_tokens: expected 1 or more tokens, got 0"),
        ({"max_completion_tokens": -3}, "max_completion_tokens: expected 1 or more tokens, got -3"),
    ],
)
def test_sampling_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**arguments)
