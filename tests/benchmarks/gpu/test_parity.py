"""Each path is near to float32, and a path that computes something else is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from benchmarks.gpu import parity
from benchmarks.gpu.parity import PATHS, Bench, check_path
from focus_agents.engine import decoding, forward, scoring, starts
from focus_agents.models import attention, lean_adapters, vision
from tests.benchmarks.faults import see_neighbours

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench("cpu", 192, width=128)


def verdicts(path: str, bench: Bench) -> set[str]:
    return {row["status"] for row in check_path(path, bench)}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_agrees(bench: Bench, path: str) -> None:
    expected = {"seen"} if path.startswith("control") else {"agrees"}
    if path == "flash attention" and not torch.cuda.is_available():
        (row,) = check_path(path, bench)
        assert row["status"] == "left out"
        assert "torch sees no CUDA device" in row["reason"]
        return
    assert verdicts(path, bench) == expected


def twice_the_gradient(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    states = right(*args, **kwargs)
    return 2 * states - states.detach()


def larger(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return 1.25 * right(*args, **kwargs)


def parts_larger(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return tuple(1.25 * part for part in right(*args, **kwargs))


def other_places(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    positions, following = right(*args, **kwargs)
    return positions + torch.arange(positions.shape[-1]), following


def doubled(right: Callable[..., Any], tensor: torch.Tensor) -> None:
    tensor *= 2


@pytest.mark.parametrize(
    ("path", "module", "name", "wrong"),
    [
        ("own attention function", attention, "written_out_attention", larger),
        ("shared prompts", scoring, "answer_mask", see_neighbours),
        ("answers over the sampler's cache", scoring, "_answers_over_cache", twice_the_gradient),
        ("logits in chunks", scoring, "checkpoint", parts_larger),
        ("gradient checkpointing", scoring, "_one_row", twice_the_gradient),
        ("decoding with lean adapters", decoding, "decoding_mask", see_neighbours),
        ("beginnings encoded once", starts, "prompt_positions", other_places),
        ("lean adapters", lean_adapters, "_adapted", larger),
        ("pictures in one call", vision, "_attend", larger),
        ("support attention", attention, "support_mass", larger),
        ("collectives, one process", dist, "all_reduce", doubled),
    ],
)
def test_a_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, path: str, module: Any, name: str, wrong: Callable[..., Any]
) -> None:
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))
    assert "differs" in verdicts(path, bench)


def test_a_limit_that_sees_nothing_is_blind(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    right = forward.encode_images
    monkeypatch.setattr(parity, "encode_images", lambda *args: tuple(part.flip(0) for part in right(*args)))
    assert verdicts("control: pictures in another order", bench) == {"blind"}


def test_nan_agrees_with_nothing() -> None:
    gap = parity.Gap("gradients", float("nan"), 1.0)
    assert gap.verdict == "differs"
    assert dataclasses.replace(gap, must_exceed=True).verdict == "blind"
