"""The benchmark of sampling, learning and whole steps: what it prints, and that its sides do the same work."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from typing import Any

import pytest
import torch

from benchmarks import grpo_step as benchmark
from benchmarks.measuring import UNITS, print_line
from benchmarks.step.cases import CaseName
from benchmarks.step.checks import (
    CHECKS,
)
from benchmarks.step.report import compare_all
from tests.benchmarks.small import SIZE

pytestmark = pytest.mark.usefixtures("one_thread")

KEYS = {
    "case", "name", "measure", "ours", "peer", "ratio", "ratio_range", "unit", "ours_name", "peer_name", "prompts",
    "prompt_tokens", "group_size", "answer_tokens", "token_ratio", "gradient_difference", "tokens_per_second",
    "peak_share", "device", "dtype", "model", "repetitions", "machine", "command",
}  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """The JSON lines of a run; behind them, a table holds a row for each case."""
    size = ["--prompt-tokens", "128", "--group-sizes", "2", "--answer-tokens", "4", "--repetitions", "1"]
    monkeypatch.setattr(sys, "argv", ["grpo_step.py", *size, *arguments])
    benchmark.main()
    shown = capsys.readouterr().out.splitlines()
    lines = [json.loads(line) for line in shown if line.startswith("{")]
    assert sum(line.split()[:2] == ["128", "2"] for line in shown) == len(lines) / 3
    for line in lines:
        assert line.keys() == KEYS
        assert line["unit"] == UNITS[line["measure"]]
        assert [line[key] for key in ("prompt_tokens", "group_size", "answer_tokens")] == [128, 2, 4]
        assert line["ratio_range"] == [line["ratio"]] * 2
        assert line["ratio"] == pytest.approx(line["peer"] / line["ours"], rel=0.01)
        assert line["ours"] > 0
        assert line["tokens_per_second"]["ours"] > 0
        assert line["peak_share"] == {"ours": None, "peer": None}
        assert line["gradient_difference"] is None or 0 <= line["gradient_difference"] <= 1e-5
    assert len({line["case"] for line in lines}) == len(lines)
    return lines


def test_prints_a_line_for_each_case_and_measure_then_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["sampling", "learning", "fused", "without_signal"]
    lines = run(monkeypatch, capsys, "--cases", *names)
    assert [(line["name"], line["measure"]) for line in lines] == [
        (name, measure) for name in names for measure in ("time", "FLOPs", "memory")
    ]
    assert [line["gradient_difference"] is None for line in lines] == [
        name == "sampling" for name in names for _ in "123"
    ]
    flops = {line["name"]: line for line in lines if line["measure"] == "FLOPs"}
    assert flops["learning"]["ratio"] > 0.95 * flops["learning"]["token_ratio"]
    assert flops["learning"]["token_ratio"] == pytest.approx(2 * (128 + 4) / (128 + 2 * 4), abs=1e-4)
    assert all(line["ratio"] > 1.2 for line in flops.values())


def test_our_trainer_takes_turns_with_trls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    time, flops, _ = run(monkeypatch, capsys, "--cases", "trl_learning")
    assert time["gradient_difference"] > 0
    assert "trl" in time["machine"]
    assert flops["ratio"] > 0.95 * flops["token_ratio"]


def test_a_step_takes_turns_with_trl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    lines = run(monkeypatch, capsys, "--cases", "step")
    assert [line["measure"] for line in lines] == ["time", "FLOPs", "memory"]
    assert all(line["gradient_difference"] > 0 for line in lines)
    assert "trl" in lines[0]["machine"]
    # TRL encodes prompts as often as its sampling and its learning have answers.
    assert lines[1]["ratio"] > 0.95 * lines[1]["token_ratio"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_tokens": (512, 123)}, "prompt_tokens: expected at least 124, got 123"),
        ({"group_sizes": (1, 8)}, "group_sizes: expected at least 2, got 1"),
        ({"answer_tokens": 0}, "answer_tokens: expected at least 1, got 0"),
        ({"repetitions": 0}, "repetitions: expected at least 1, got 0"),
        ({"model": "7b"}, "model: 7b is of no use on cpu; add --device cuda"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark.Args(**{"cases": ("sampling",)} | arguments)


def test_without_trl_other_cases_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError,
        match=r"cases: without TRL, no step and no trl_learning; .*--cases sampling learning fused without_signal",
    ):
        benchmark.Args()
    assert benchmark.Args(cases=("sampling", "fused")).cases == ("sampling", "fused")


@pytest.mark.parametrize(
    ("device", "given", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", None, 989e12),
        ("NVIDIA H100 PCIe", None, 756e12),
        ("NVIDIA A100-SXM4-80GB", None, 312e12),
        ("NVIDIA L40S", None, 362e12),
        ("NVIDIA L4", None, 121e12),
        ("NVIDIA L4", 5.0, 5e12),
        ("Tesla T4", None, math.nan),
    ],
)
def test_the_peak_is_given_or_known(
    monkeypatch: pytest.MonkeyPatch, device: str, given: float | None, peak: float
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: device)
    args = benchmark.Args(cases=("sampling",), device="cuda", model="7b", peak_tflops=given)
    assert benchmark.peak_flops(args) == pytest.approx(peak, nan_ok=True)
    # Those are of bfloat16.
    small = benchmark.Args(cases=("sampling",), device="cuda")
    assert math.isnan(benchmark.peak_flops(small))


def out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError


def test_a_peer_without_memory_has_no_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CHECKS, "sampling", lambda setup: None)
    monkeypatch.setattr(benchmark, "generate", out_of_memory)
    for line in run_without_peer("sampling", capsys):
        assert line["gradient_difference"] is None


def test_trl_without_memory_has_no_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trl = pytest.importorskip("trl")
    monkeypatch.setitem(CHECKS, "step", lambda setup: 1e-7)
    monkeypatch.setattr(trl.GRPOTrainer, "_compute_loss", out_of_memory)
    run_without_peer("step", capsys)


def run_without_peer(case: CaseName, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    args = benchmark.Args(cases=(case,), repetitions=2)
    for line in compare_all(case, SIZE, *benchmark.measure(case, SIZE, args)):
        print_line(line)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert line["ours"] > 0
        assert line["peer"] is line["ratio"] is line["tokens_per_second"]["peer"] is None
    return lines
