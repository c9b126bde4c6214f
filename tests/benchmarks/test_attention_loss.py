"""The benchmark of the attention loss: what it prints, and that its figures are what it says they are."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import attention_loss as benchmark
from benchmarks.attention.setup import MAPS_KEPT, Setup, build_batch
from benchmarks.measuring import count_flops, peak_memory, small_config
from focus_agents.models import attention
from focus_agents.models.loading import load_processor
from tests.places import ROOT

TOKENS = 256
ROWS = 9


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/attention_loss.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"},
        check=False,
    )


def test_prints_a_line_for_each_case_then_tables() -> None:
    result = run("--tokens", str(TOKENS), "--repetitions", "2")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    measured = {(line["measure"], line["peer_name"], line["gradient_checkpointing"]) for line in lines}
    assert len(lines) == len(measured) == len({line["case"] for line in lines}) == 16
    keys = {
        "case", "measure", "ours", "peer", "ratio", "ratio_range", "extra_per_token", "extra_per_query_token", "unit",
        "peer_name", "tokens", "query_tokens", "gradient_checkpointing", "device", "dtype", "repetitions", "machine",
        "command",
    }  # fmt: skip
    units = {"time": "ms", "FLOPs": "GFLOP", "memory": "MiB", "FLOPs of the loss": "GFLOP"}
    for line in lines:
        assert line.keys() == keys
        assert line["unit"] == units[line["measure"]]
        assert (line["tokens"], line["query_tokens"], line["repetitions"]) == (TOKENS, ROWS, 2)
        low, high = line["ratio_range"]
        assert 0 < low <= line["ratio"] <= high
        assert line["extra_per_token"] * TOKENS == pytest.approx(line["extra_per_query_token"] * ROWS, abs=1e-5)
        if line["measure"] != "time":
            assert line["ratio"] == pytest.approx(line["ours"] / line["peer"], rel=0.01)
            assert line["extra_per_token"] * TOKENS == pytest.approx(line["ours"] - line["peer"], abs=2e-4)
    shown = result.stdout.splitlines()
    rows = [line.split() for line in shown if line.split()[:1] == [str(TOKENS)]]
    assert [row[:3] for row in rows] == [[str(TOKENS), str(ROWS), ckpt] for ckpt in ("no", "yes")] * 3


def test_a_table_shows_whole_numbers_in_80_columns() -> None:
    sides = {"plain": [5293.9, 5294.1, 5293.9], "ours": [5935.6, 5936.6, 9000.0], "eager": [12163.4, 12163.4, 12163.4]}
    lines = benchmark.compare_all(
        {"time": sides, "FLOPs": {"ours": [3.0], "plain": [2.0], "eager": [4.0]}}, 4096, is_checkpointed=True
    )
    console = Console(width=80, file=io.StringIO())
    console.print(benchmark.build_table("time", lines, "cpu"))
    shown = [line.split() for line in console.file.getvalue().splitlines()]
    # (5,936.6 - 5,293.9) ms in us for each of 4,096 tokens, and of 729 query tokens
    row = "4,096 729 yes 5,293.9 5,936.6 12,163.4 1.121 0.488 156.91 881.62"
    assert row.split() in shown
    assert ["tokens", "rows", "ckpt", "plain", "ours", "eager", "plain", "eager", "token", "row"] in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": (512, 182)}, "tokens: expected at least 183.*got 182"),
        ({"repetitions": 0}, "repetitions: expected at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark.Args(**arguments)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_flops_are_counted_in_forward_backward_and_recomputation(is_checkpointed: bool) -> None:
    """The matrix products of each variant, written out; what all share cancels."""
    setup = Setup.build(TOKENS, is_checkpointed=is_checkpointed)
    flops = {variant: count_flops(setup.prepare(variant)) for variant in benchmark.VARIANTS}
    num_heads, size, num_layers = 4, 64, 4
    num_keys = int(setup.batch.query_mask[0].nonzero().max()) + 1
    scores = 2 * num_heads * ROWS * num_keys * size
    sums = 2 * num_heads * ROWS * num_keys
    # Forward, perhaps again, and in backward: scores once more and two gradients.
    ours = (scores + sums) * (1 + is_checkpointed) + 3 * scores
    assert flops["ours"] - flops["plain"] == num_layers * ours

    square = 2 * num_heads * TOKENS**2 * size
    causal = num_heads * TOKENS * (TOKENS + 1) * size
    # Fused attention computes scores once more in backward, eager attention kept them; it sums full rows, both ways.
    eager = (4 + 2 * (1 + is_checkpointed)) * square + 2 * 2 * num_heads * ROWS * TOKENS
    plain = (5 + 2 * (1 + is_checkpointed)) * causal
    assert flops["eager"] - flops["plain"] == num_layers * (eager - plain)
    assert benchmark.causal_attention_flops(TOKENS, is_checkpointed=is_checkpointed) == num_layers * plain


def test_peak_memory_is_the_most_at_a_time() -> None:
    before = torch.empty(2**20)

    def step() -> None:
        first, second = torch.empty(2**20), torch.empty(2**19)
        del first
        third = torch.empty(2**18)
        del second, third

    assert peak_memory(step, "cpu") == 4 * (2**20 + 2**19)
    assert before.numel() == 2**20


def test_ours_keeps_less_than_eager_and_as_much_for_each_row_whatever_the_tokens() -> None:
    extra = []
    for num_tokens in (TOKENS, 2 * TOKENS):
        setup = Setup.build(num_tokens, is_checkpointed=False)
        peaks = {}
        for variant in (*benchmark.VARIANTS, MAPS_KEPT):
            setup.prepare(variant)()
            peaks[variant] = peak_memory(setup.prepare(variant), "cpu")
        assert peaks["plain"] < peaks["ours"] < peaks["eager"] < peaks[MAPS_KEPT]
        extra.append((peaks["ours"] - peaks["plain"]) / int(setup.batch.query_mask.sum()))
    assert extra[1] == pytest.approx(extra[0], rel=0.05)


def test_a_batch_is_as_long_as_asked_and_holds_five_pictures() -> None:
    for num_tokens, num_rows in ((183, 1), (512, 64), (1024, 169), (2048, 361), (4096, 729)):
        setup_config = small_config(load_processor("tiny").tokenizer)
        batch = build_batch(num_tokens, setup_config)
        is_image = batch.prompts.input_ids == setup_config.image_token_id
        assert batch.prompts.input_ids.shape[1] + batch.answer_ids.shape[1] == num_tokens
        assert int(is_image.sum()) == 5 * num_rows == len(batch.prompts.images["pixel_values"]) / 4
        assert int(batch.query_mask.sum()) == num_rows
        assert not (batch.query_mask & batch.support_mask).any()
        assert (batch.query_mask & is_image).sum() == num_rows
        assert 4 <= int(batch.support_mask.sum()) < 4 * num_rows or num_rows == 1


def wrong_scores(mass: Callable[..., torch.Tensor], *arguments: Any, scaling: float) -> torch.Tensor:
    return mass(*arguments, scaling=1.01 * scaling)


def wrong_gradients(mass: Callable[..., torch.Tensor], *arguments: Any, scaling: float) -> torch.Tensor:
    right = mass(*arguments, scaling=scaling)
    return 1.01 * right - 0.01 * right.detach()


@pytest.mark.parametrize(("wrong", "message"), [(wrong_scores, "attention_loss"), (wrong_gradients, "gradients")])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_sides_must_agree(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., torch.Tensor], message: str, is_checkpointed: bool
) -> None:
    benchmark.check_same_losses(TOKENS, is_checkpointed=is_checkpointed, device="cpu")
    right = attention.support_mass
    monkeypatch.setattr(attention, "support_mass", lambda *args, scaling: wrong(right, *args, scaling=scaling))
    with pytest.raises(AssertionError, match=message):
        benchmark.check_same_losses(TOKENS, is_checkpointed=is_checkpointed, device="cpu")
