"""The benchmark of reward terms: a case for each, and that it measures nothing that its peer does otherwise."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import reward_terms as benchmark
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.terms import PARAMETRIC_TERMS, REWARD_TERMS


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["reward_terms.py", "--batch-size", "200", "--repetitions", "1"])
    monkeypatch.setattr(benchmark, "MIN_SECONDS", 1e-4)


@pytest.mark.usefixtures("_small")
def test_each_term_has_its_case(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    cases = {line["case"].split("(")[0] for line in lines}
    assert cases == {*REWARD_TERMS, *PARAMETRIC_TERMS, "AnswerBatch.from_parses"}
    for line in lines:
        assert line["ours"] > 0
        assert line["unit"] == "boxes/s per core"
        assert (line["ratio"] is None) == (line["case"] == "AnswerBatch.from_parses")


def test_each_call_computes_its_own_overlap() -> None:
    """A batch keeps IoU for the next term; measuring must not live on that."""
    episodes, parses, texts = benchmark.draw_answers(20, shots=2)
    batch = AnswerBatch.from_parses(episodes, parses, texts)
    expected = {name: term(batch) for name, term in benchmark.TERMS.items()}
    assert set(benchmark.KEPT) == {"ious", "is_whole_image", "copies_support"} <= vars(batch).keys()
    assert not set(benchmark.KEPT) & vars(benchmark.forget(batch)).keys()
    for name, term in benchmark.TERMS.items():
        np.testing.assert_array_equal(term(benchmark.forget(batch)), expected[name])


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("name", [name for name in benchmark.PEERS if not name.startswith("format")])
def test_a_peer_that_scores_otherwise_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes every answer for the truth."""
    peer = benchmark.PEERS[name]
    monkeypatch.setitem(benchmark.PEERS, name, lambda answer: peer(answer._replace(box=answer.target, text="")))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        benchmark.main()
