"""How sure a policy is of an answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from focus_agents.rollout.records import Completion
from focus_agents.rollout.scores import answer_score, completion_score

HALF = math.log(0.5)


@pytest.mark.parametrize(
    ("tokens", "has_box", "expected"),
    [
        # All tokens of numbers have one half: four numbers of one token each.
        (["[", "10", ", ", "20", ", ", "30", ", ", "40", "]", "<end>"], True, 0.5),
        # Digit by digit, two tokens a number.
        (["[", "1", "0", ", ", "2", "0", ", ", "3", "0", ", ", "4", "0", "]"], True, 0.25),
        (["[", "1", ".", "5", " ", "2", " ", "3", " ", "4", "]"], True, 0.5 ** (5 / 4)),
        # Two numbers without a token between them.
        (["[", "10", " 20", " 30", " 40]"], True, 0.5),
        # Numbers before the answer are words of the model's like others.
        (["In", "7", " s", "[", "1", ",", "2", ",", "3", ",", "4", "]"], True, 0.25),
        # "none" counts whole: its decisive token has one half.
        (["<answer>", "5", "</answer>"], False, 0.5),
        ([], True, 1.0),
    ],
)
def test_the_score_of_an_answer(tokens: list[str], has_box: bool, expected: float) -> None:
    logprobs = [HALF if any(map(str.isdigit, token)) else 0.0 for token in tokens]
    assert answer_score(tokens, logprobs, has_box=has_box) == pytest.approx(expected)


def test_other_tokens_count_once_each() -> None:
    tokens, sure = ["[", "1", ",", "2", ",", "3", ",", "4", "]"], [0.0] * 9
    assert answer_score(tokens, [HALF, *sure[1:]], has_box=True) == pytest.approx(0.5)


def test_which_score_counts() -> None:
    """One that a policy gives itself comes first; without tokens and without one there is none."""
    spoken = Completion("7", np.array([7]), np.array([HALF], np.float32), True)
    silent = Completion("7", np.empty(0, np.int64), np.empty(0, np.float32), True)
    given = Completion("7", np.array([7]), np.array([HALF], np.float32), True, score=0.25)

    def decode(tokens: list[int]) -> str:
        return "".join(map(str, tokens))

    assert completion_score(spoken, has_box=False, decode=decode) == pytest.approx(0.5)
    assert completion_score(spoken, has_box=False, decode=None) is None
    assert completion_score(silent, has_box=True, decode=decode) is None
    assert completion_score(given, has_box=False, decode=decode) == 0.25
