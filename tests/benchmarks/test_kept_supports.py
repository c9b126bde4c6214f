"""The benchmark of kept supports: both sides answer the same, and one that does not is found."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import kept_supports as benchmark


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["kept_supports.py", "--prompt-tokens", "150", "400", "--pictures", "2", "--batch-sizes", "1", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--repetitions", "2"])


@pytest.mark.usefixtures("_small")
def test_a_line_for_each_length(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [int(line["case"].split()[0]) for line in lines] == pytest.approx([150, 150, 400, 400], abs=60)
    assert [line["batch_size"] for line in lines] == [1, 2, 1, 2]
    for line in lines:
        assert (line["supports"], line["pictures"], line["unit"]) == (4, 2, "s per query")
        assert line["answer_tokens"] > 4
        for times in (line, line["to_first_token"]):
            assert 0 < times["least_ratio"] <= times["ratio"] <= times["most_ratio"]
            assert min(times["ours"], times["anew"], line["first"]) > 0


@pytest.mark.usefixtures("_small")
def test_another_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = benchmark.Case.ask

    def wrong(case: benchmark.Case, side: str, num_tokens: int, batch_size: int = 1) -> list[list[int]]:
        answers = right(case, side, num_tokens, batch_size)
        return answers[::-1] if side == "ours" else answers

    monkeypatch.setattr(benchmark.Case, "ask", wrong)
    with pytest.raises(AssertionError, match="kept supports answer otherwise"):
        benchmark.main()


def test_supports_are_encoded_once() -> None:
    case = benchmark.build_case(150, 3)
    case.ask("ours", 2)
    assert case.sides["ours"].num_encoded == 1


def test_pictures_need_room() -> None:
    with pytest.raises(ValueError, match="prompt_tokens: expected 124 or more, got 100"):
        benchmark.build_case(100, 1)
