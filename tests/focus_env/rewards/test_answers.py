"""A batch of answers: what it holds, and lengths that do not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from focus_env.rewards.answers import AnswerBatch
from focus_env.types import ParseResult, ParseStatus
from tests.fakes import make_episode
from tests.focus_env.rewards.batches import HALF, TARGET, batch


def test_a_batch_holds_what_was_read() -> None:
    episodes = [make_episode(0, shots=1), make_episode(1, shots=2, target_box=None)]
    parses = [ParseResult(ParseStatus.OK, HALF, False), ParseResult(ParseStatus.ABSENT, None, True)]
    given = AnswerBatch.from_parses(episodes, parses, ["a", None], progress=0.25)
    np.testing.assert_array_equal(given.boxes, [HALF, [math.nan] * 4])
    np.testing.assert_array_equal(given.target_boxes, [TARGET, [math.nan] * 4])
    assert given.says_absent.tolist() == [False, True]
    assert given.is_strict.tolist() == [False, True]
    assert given.image_wh.tolist() == [[80, 60], [80, 60]]
    nothing = [math.nan] * 4
    expected = [
        [[4 / 40, 6 / 32, 20 / 40, 22 / 32], nothing],
        [[5 / 40, 6 / 32, 20 / 40, 22 / 32], [5 / 48, 6 / 32, 20 / 48, 23 / 32]],
    ]
    np.testing.assert_allclose(given.support_boxes, expected, rtol=1e-12)
    assert (given.texts, given.episode_ids, given.progress) == (("a", None), ("fake/0", "fake/1"), 0.25)
    assert given.has_box.tolist() == given.is_present.tolist() == [True, False]
    np.testing.assert_allclose(given.box_shares[0], [0.25, 1 / 6, 0.75, 25 / 60])
    with pytest.raises(ValueError, match="read-only"):
        given.boxes[0] = 0
    row = given.row(1)
    assert (len(row), row.texts, row.episode_ids, row.progress) == (1, (None,), ("fake/1",), 0.25)
    np.testing.assert_array_equal(row.support_boxes, given.support_boxes[1:])


def test_a_batch_of_other_lengths_is_refused() -> None:
    parse = ParseResult(ParseStatus.NO_BOX, None, False)
    with pytest.raises(ValueError, match="an episode, a parse and a text for each, got 2, 1 and 1"):
        AnswerBatch.from_parses([make_episode()] * 2, [parse])
    with pytest.raises(ValueError, match=r"progress must be from 0 .* got 1.5"):
        AnswerBatch.from_parses([make_episode()], [parse], progress=1.5)
    good = {name: getattr(batch("?", "?"), name) for name in AnswerBatch.__dataclass_fields__}
    for name, wrong, message in (
        ("boxes", np.zeros((2, 3)), r"boxes must have the shape \[2, 4\] for 2 texts, got \[2, 3\]"),
        ("says_absent", np.zeros(3, bool), r"says_absent must have the shape \[2\] for 2 texts, got \[3\]"),
        ("support_boxes", np.zeros((1, 2, 4)), r"support_boxes must have the shape \[2, 2, 4\] for 2 texts"),
        ("episode_ids", ("a",), "an episode id for each of 2 texts, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            AnswerBatch(**{**good, name: wrong})
