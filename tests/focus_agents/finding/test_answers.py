"""What an answer is, how sure a model is of it, and what becomes of it in a file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from focus_agents.errors import CheckpointError
from focus_agents.finding.answers import Answer, Looked, from_json, in_words, read_completion
from focus_agents.rollout.records import Completion
from focus_env.prompts import get_template
from focus_env.types import Box

HALF = math.log(0.5)
TEMPLATE = get_template("default")


def completion(text: str, *, error: str | None = None, score: float | None = None, num_tokens: int = 0) -> Completion:
    return Completion(text, np.arange(num_tokens), np.full(num_tokens, HALF, np.float32), True, error, score)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (completion("<answer>[0, 0, 500, 500]</answer>", score=0.7), Answer("a", "found", Box(0, 0, 40, 30), 0.7)),
        (completion("<answer>[0, 0, 500, 500]</answer>"), Answer("a", "found", Box(0, 0, 40, 30))),
        (completion("<answer>none</answer>", num_tokens=2), Answer("a", "absent", score=0.25)),
        (completion("nobody knows"), Answer("a", "unread", text="no_box: 'nobody knows'")),
        (completion("", error="HTTP 500"), Answer("a", "failed", text="HTTP 500")),
    ],
)
def test_what_a_policy_says(given: Completion, expected: Answer) -> None:
    found = read_completion(given, label="a", template=TEMPLATE, image_wh=(80, 60), decode=lambda ids: f"t{ids[0]}x")
    if expected.score is not None:
        assert found.score == pytest.approx(expected.score, rel=1e-6)
    assert (found.kind, found.box, found.text) == (expected.kind, expected.box, expected.text)


LOOKED = Looked(
    index=3,
    name="sub/ü.jpg",
    image_wh=(80, 60),
    answers=(
        Answer("mug", "found", Box(1.25, 2, 3, 4.5), 0.123456789),
        Answer("cup", "absent", score=0.9),
        Answer("cap", "unread", text="no_box: ''"),
        Answer("hat", "given", Box(0, 0, 80, 60)),
        Answer("bag", "found", Box(1, 2, 3, 4)),
    ),
    path=Path("/photos/sub/ü.jpg"),
    clip="trip",
)


def test_a_record_comes_back_as_it_was() -> None:
    for one in (LOOKED, Looked(0, "x.jpg", None, fault="x.jpg: expected a picture")):
        assert from_json(json.loads(json.dumps(one.as_json()))) == one


@pytest.mark.parametrize("record", [{}, {**LOOKED.as_json(), "answers": [[1]]}, {**LOOKED.as_json(), "image_wh": [1]}])
def test_a_record_that_is_none(record: dict[str, object]) -> None:
    with pytest.raises((CheckpointError, IndexError), match=r"expected a picture that was looked at|index"):
        from_json(record)


def test_what_is_written_of_it() -> None:
    """No line for what nobody has said; a given box and one without a score are not held to a least score."""
    kept = LOOKED.labelled()
    assert kept is not None
    assert [(one.label, one.box, one.score) for one in kept.objects] == [
        ("mug", Box(1.25, 2, 3, 4.5), 0.123456789),
        ("cup", None, 0.9),
        ("hat", Box(0, 0, 80, 60), None),
        ("bag", Box(1, 2, 3, 4), None),
    ]
    strict = LOOKED.labelled(0.5)
    assert strict is not None
    assert [(one.label, one.box is None, one.score) for one in strict.objects] == [
        ("mug", True, None), ("cup", True, 0.9), ("hat", False, None), ("bag", False, None),
    ]  # fmt: skip
    assert Looked(0, "x.jpg", None).labelled() is None
    assert [in_words(one, 0.5) for one in LOOKED.answers] == [
        "below the least score", "not there", "no box", "given", "found",
    ]  # fmt: skip
