"""The benchmark of scoring: its sides give the same, and one that does not is found."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from benchmarks import score_answers as benchmark


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["score_answers.py", "--sizes", "64x48", "320x240", "--repetitions", "2", "--shots", "2"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(benchmark, "MIN_SECONDS", 1e-3)


@pytest.mark.usefixtures("_small")
def test_a_line_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["case"] for line in lines] == ["64x48", "320x240"]
    for line in lines:
        assert (line["group_size"], line["pictures"], line["unit"]) == (8, 3, "s per group")
        assert 0 < line["ours"] < line["stepped"]
        assert line["ratio"] == pytest.approx(line["copied"] / line["ours"], rel=0.02)
        assert line["ratio"] > 2


def test_the_answers_are_of_several_kinds() -> None:
    episode = benchmark.make_episode((64, 48), shots=2)
    rewards, _, answers = benchmark.make_sides(episode, benchmark.make_texts(8))["ours"]()
    assert len({answer.status for answer in answers}) >= 3
    assert len(set(rewards)) >= 6


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("part", range(3), ids=["rewards", "terms", "answers"])
def test_a_side_that_scores_otherwise_is_found(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = benchmark.score_at_once

    def wrong(*given: Any) -> Any:
        found = right(*given)
        return tuple(values[::-1] if place == part else values for place, values in enumerate(found))

    monkeypatch.setattr(benchmark, "score_at_once", wrong)
    with pytest.raises(AssertionError, match="ours does not score as the environment does"):
        benchmark.main()


def test_copies_are_the_callers_own() -> None:
    """The former way really copies: its pictures may be written into."""
    episode = benchmark.make_episode((64, 48), shots=1)
    env = benchmark.CopiedObservations(benchmark.gymnasium.make(benchmark.ENV_ID, dataset=[episode]))
    observation, _ = env.reset()
    observation["query_image"][:] = 0
    assert env.step("")[0]["query_image"].max() > 0


def test_a_size_is_two_numbers() -> None:
    with pytest.raises(ValueError, match="sizes: expected width x height as in 640x480, got '640'"):
        benchmark.measure_size(benchmark.Args(), "640")
