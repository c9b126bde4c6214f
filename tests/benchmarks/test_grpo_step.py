"""The benchmark of sampling, learning and whole steps: what it prints, and that its sides do the same work."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import Qwen2VLForConditionalGeneration

from benchmarks import grpo_step as benchmark
from benchmarks import measuring
from focus_agents.engine import generation, scoring
from focus_agents.engine.forward import prefill

SIZE = benchmark.Size(prompt_tokens=128, group_size=2, answer_tokens=4)
KEYS = {
    "case", "name", "measure", "ours", "peer", "ratio", "ratio_range", "unit", "ours_name", "peer_name", "prompts",
    "prompt_tokens", "group_size", "answer_tokens", "token_ratio", "gradient_difference", "tokens_per_second",
    "peak_share", "device", "dtype", "model", "repetitions", "machine", "command",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


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
        assert line["unit"] == benchmark.UNITS[line["measure"]]
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


def test_a_step_takes_turns_with_trl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    lines = run(monkeypatch, capsys, "--cases", "step")
    assert [line["measure"] for line in lines] == ["time", "FLOPs", "memory"]
    assert all(line["gradient_difference"] > 0 for line in lines)
    assert "trl" in lines[0]["machine"]
    # TRL encodes prompts as often as its sampling and its learning have answers.
    assert lines[1]["ratio"] > 0.95 * lines[1]["token_ratio"]


def test_trl_scores_the_positions_of_answers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does on a GPU; on the CPU it would score each position of each row."""
    utils = pytest.importorskip("trl.trainer.utils")
    right, num_scored = utils._ChunkedLogProbFunction.apply, []

    def count(states: torch.Tensor, *args: Any) -> Any:
        num_scored.append(len(states))
        return right(states, *args)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=count))
    benchmark.check_same_as_trl(benchmark.Setup.build(SIZE))
    assert num_scored == [2 * 4]


def test_what_a_step_leaves_out_costs_nothing() -> None:
    """FLOPs of fused steps and of steps without silent groups, from those of their parts."""
    # Answers that are long enough for rewards to differ, unless they are made the same.
    setup = benchmark.Setup.build(benchmark.Size(128, 4, 16), num_prompts=2)
    encoded = setup.encode()
    prompts, first = setup.collate(encoded), setup.collate(encoded[:1])
    token_ids, advantages = benchmark.random_answers(setup)

    def count(step: Callable[[], object]) -> float:
        flops = measuring.count_flops(step)
        setup.optimizer.zero_grad()
        return flops

    with torch.no_grad():
        encoding = count(lambda: prefill(setup.model, prompts))
    sampling = count(lambda: benchmark.sample(setup, prompts))
    learning = count(lambda: benchmark.learn(setup, first, token_ids[:1], advantages[:1]))
    whole = count(lambda: benchmark.take_step(setup))
    assert count(lambda: benchmark.take_step(setup, num_silent=1)) == whole == sampling + 2 * learning
    assert count(lambda: benchmark.take_step(setup, num_silent=1, skips_silent=True)) == sampling + learning
    assert count(lambda: benchmark.take_step(setup, is_fused=True)) == whole - encoding


@pytest.mark.parametrize(
    ("num_tokens", "side"), [(124, 2), (128, 2), (148, 2), (149, 3), (512, 9), (1024, 13), (2048, 19)]
)
def test_a_prompt_is_as_long_as_asked_and_holds_five_pictures(num_tokens: int, side: int) -> None:
    setup = benchmark.Setup.build(benchmark.Size(num_tokens, 2, 4), num_prompts=2)
    one, other = setup.encode()
    assert len(one.input_ids) == len(other.input_ids) == num_tokens
    assert one.grids.tolist() == [[side, side]] * 5
    assert (one.input_ids == setup.processor.image_token_id).sum() == 5 * side**2
    assert (one.images["pixel_values"] != other.images["pixel_values"]).any()


def test_the_large_model_has_the_shape_of_qwen2_vl_7b() -> None:
    config = benchmark.large_config(benchmark.load_processor("tiny").tokenizer)
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_291_375_616
    assert model.model.language_model.layers[0].self_attn.head_dim == 128
    assert benchmark.build_processor(config).image_processor.patch_size == 14


def test_the_large_model_trains_adapters_on_frozen_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its shape shrunk; its tokens are more than the tokenizer knows, and its answers' texts are all the same."""
    shape = benchmark.large_config

    def shrunk(tokenizer: Any) -> Any:
        config = shape(tokenizer)
        text, vision = config.text_config, config.vision_config
        text.hidden_size = vision.hidden_size = 256
        text.num_hidden_layers, text.vocab_size, text.intermediate_size = 2, 2**16, 64
        text.num_attention_heads, text.num_key_value_heads = 2, 1
        vision.depth, vision.embed_dim, vision.num_heads = 1, 32, 2
        return config

    monkeypatch.setattr(benchmark, "large_config", shrunk)
    setup = benchmark.Setup.build(SIZE, model_name="7b", num_prompts=2)
    assert {parameter.dtype for parameter in setup.model.parameters() if not parameter.requires_grad} == {
        torch.bfloat16
    }
    adapters = {id(parameter) for name, parameter in setup.model.named_parameters() if "lora_" in name}
    assert {id(parameter) for parameter in setup.trained} == adapters
    rewards = benchmark.reward_texts(setup, benchmark.sample(setup, setup.collate(setup.encode())))
    assert (rewards == rewards[0, 0]).mean() > 0.5
    before = [parameter.clone() for parameter in setup.trained]
    benchmark.take_step(setup, num_silent=1, skips_silent=True)
    assert any((old != new).any() for old, new in zip(before, setup.trained, strict=True))


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
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"cases: step needs TRL.*--cases sampling learning fused without_signal"):
        benchmark.Args()
    assert benchmark.Args(cases=("sampling", "fused")).cases == ("sampling", "fused")


READINGS = {
    "FLOPs": {"ours": [2000.0], "peer": [9000.0]},
    "memory": {"ours": [100.0], "peer": [25.0]},
    "time": {"ours": [100.0, 400.0, 200.0], "peer": [12000.0, 800.0, 1000.0]},
}


def test_a_line_holds_medians_and_the_median_ratio_of_rounds() -> None:
    time, flops, memory = benchmark.compare_all("step", benchmark.Size(1024, 16, 32), READINGS, 1e-6, peak=1e14)
    assert (time["ours"], time["peer"], time["ratio"], time["ratio_range"]) == (200.0, 1000.0, 5.0, [2.0, 120.0])
    assert (flops["ratio"], memory["ratio"]) == (4.5, 0.25)
    # 16 x 32 tokens in 0.2 s and 1 s; 10 and 9 TFLOP/s of 100
    assert time["tokens_per_second"] == {"ours": 2560.0, "peer": 512.0}
    assert time["peak_share"] == {"ours": 0.1, "peer": 0.09}
    # N = 2 there
    both = benchmark.compare_all("without_signal", benchmark.Size(1024, 16, 32), READINGS, 1e-6)
    assert both[0]["tokens_per_second"] == {"ours": 5120.0, "peer": 1024.0}


def test_a_table_shows_whole_numbers_in_80_columns() -> None:
    size = benchmark.Size(2048, 16, 32)
    readings = {
        "FLOPs": {"ours": [2345.2], "peer": [23451.6]},
        "memory": {"ours": [444.4], "peer": [5743.0]},
        "time": {"ours": [4321.0], "peer": [55321.0]},
    }
    lines = benchmark.compare_all("step", size, readings, 1e-6, peak=1e13)
    console = Console(width=80, file=io.StringIO())
    console.print(benchmark.build_table("step", lines, benchmark.Args(cases=("sampling",))))
    shown = [line.split() for line in console.file.getvalue().splitlines()]
    # (16 x 2048 + 512) / (2048 + 512) tokens; 512 tokens in 4.321 s; 2345.2 of 43210 GFLOP
    row = "2,048 16 13.00 4,321 55,321 12.80 2,345 10.00 444 12.92 118 5%"
    assert row.split() in shown


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
    monkeypatch.setitem(benchmark.CHECKS, "sampling", lambda setup: None)
    monkeypatch.setattr(benchmark, "generate", out_of_memory)
    for line in run_without_peer("sampling", capsys):
        assert line["gradient_difference"] is None


def test_trl_without_memory_has_no_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trl = pytest.importorskip("trl")
    monkeypatch.setitem(benchmark.CHECKS, "step", lambda setup: 1e-7)
    monkeypatch.setattr(trl.GRPOTrainer, "_compute_loss", out_of_memory)
    run_without_peer("step", capsys)


def run_without_peer(case: benchmark.CaseName, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    args = benchmark.Args(cases=(case,), repetitions=2)
    for line in benchmark.compare_all(case, SIZE, *benchmark.measure(case, SIZE, args)):
        measuring.print_line(line)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert line["ours"] > 0
        assert line["peer"] is line["ratio"] is line["tokens_per_second"]["peer"] is None
    return lines


def draw_second(right: Callable[..., Any], log_probabilities: torch.Tensor, *args: Any, greedy: bool) -> Any:
    return log_probabilities.topk(2).indices[..., 1] if greedy else right(log_probabilities, *args, greedy=greedy)


def draw_with_other_chances(
    right: Callable[..., Any], log_probabilities: torch.Tensor, *args: Any, greedy: bool
) -> Any:
    return right(log_probabilities if greedy else log_probabilities / 2, *args, greedy=greedy)


def see_neighbours(right: Callable[..., Any], *args: Any) -> Any:
    mask = right(*args)
    return torch.ones_like(mask) if mask.dtype == torch.bool else torch.zeros_like(mask)


def scale_gradient(right: Callable[..., Any], *args: Any) -> Any:
    states = right(*args)
    return 1.01 * states - 0.01 * states.detach()


@pytest.mark.parametrize(
    ("check", "module", "name", "wrong", "message"),
    [
        ("answers", generation, "_draw", draw_second, "greedy answers"),
        ("answers", generation, "_draw", draw_with_other_chances, "sampled answers"),
        ("answers", generation, "_decoding_mask", see_neighbours, "answers"),
        ("learning", scoring, "answer_mask", see_neighbours, "log-probabilities: shared"),
        ("learning", scoring, "_one_row", scale_gradient, "gradients: shared"),
        ("learning", scoring, "_answers_over_cache", scale_gradient, "gradients: fused"),
    ],
)
def test_the_sides_must_agree(
    monkeypatch: pytest.MonkeyPatch, check: str, module: Any, name: str, wrong: Callable[..., Any], message: str
) -> None:
    setup = benchmark.Setup.build(benchmark.Size(128, 4, 8))
    run_check = {"answers": benchmark.check_same_answers, "learning": benchmark.check_same_learning}[check]
    run_check(setup)
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))
    with pytest.raises(AssertionError, match=message):
        run_check(setup)


def test_sampling_must_leave_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    right = benchmark.sample

    def spoil(setup: Any, prompts: Any, *, prefix: Any) -> Any:
        with torch.no_grad():
            prefix.cache.layers[0].keys.data *= 1.01
        return right(setup, prompts, prefix=prefix)

    monkeypatch.setattr(benchmark, "sample", spoil)
    with pytest.raises(AssertionError, match="fused"):
        benchmark.check_same_learning(benchmark.Setup.build(SIZE))


def test_groups_without_signal_must_count(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = benchmark.Setup.build(SIZE, num_prompts=2)
    benchmark.check_same_without_silent(setup)
    right = benchmark.learn
    monkeypatch.setattr(benchmark, "learn", lambda *args, num_groups=None, **kwargs: right(*args, **kwargs))
    with pytest.raises(AssertionError, match="with and without groups"):
        benchmark.check_same_without_silent(setup)


def other_loss(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    loss, sums = right(*args, **kwargs)
    return 1.001 * loss, sums


def other_advantages(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return right(*args, **kwargs, eps=1e-3)


def other_pictures(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    row = right(*args, **kwargs)
    return row | {"images": row["images"][::-1]}


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("policy_loss", other_loss, "gradients: ours and TRL's"),
        ("group_advantages", other_advantages, "advantages: ours and TRL's"),
        ("trl_row", other_pictures, "pixel_values: TRL has others"),
    ],
)
def test_trl_must_agree(monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Any], message: str) -> None:
    pytest.importorskip("trl")
    right = getattr(benchmark, name)
    monkeypatch.setattr(benchmark, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))
    with pytest.raises(AssertionError, match=message):
        benchmark.check_same_as_trl(benchmark.Setup.build(SIZE))
