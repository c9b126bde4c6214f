"""Parts that the benchmarks of training share: a small model, and meters of time, FLOPs and memory.

Time is CPU time of the thread that calls, or seconds between two synchronizations on CUDA. Torch is to run on one
thread, as `torch.set_num_threads(1)` makes it; then the caller does all the work, backward included. FLOPs are those
of matrix products; on the CPU causal attention counts as causal, on CUDA in full, as torch counts it there. Memory is
the most that is held at a time, beyond what was held before.

A meter is a context manager, so that it can also be opened and closed by the callbacks of someone else's loop.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from focus_agents.models.tiny import build_config

UNITS = {"time": "ms", "FLOPs": "GFLOP", "memory": "MiB"}
"""Measures, and the unit in which each is reported."""
PER_UNIT = {"time": 1e-3, "FLOPs": 1e9, "memory": 2**20}
"""Seconds, FLOPs and bytes in one of these."""

Readings = dict[str, dict[str, list[float]]]

NUM_LAYERS, HIDDEN_SIZE = 4, 256
NUM_PICTURES = 5


@dataclass
class Reading:
    """The result of a meter once it is closed, in seconds, FLOPs or bytes."""

    amount: float = math.nan


def small_config(tokenizer: Any) -> Any:
    """Return a Qwen2-VL of 4.8 million parameters: 4 layers 256 wide, after a vision tower of 2 layers 128 wide."""
    config = build_config(tokenizer, hidden_size=HIDDEN_SIZE, num_layers=NUM_LAYERS)
    config.text_config.intermediate_size = 4 * HIDDEN_SIZE
    config.vision_config.embed_dim = HIDDEN_SIZE // 2
    # Narrower weights attend nearly uniformly, and a wrong score would hardly show in the loss.
    config.text_config.initializer_range = 0.1
    return config


@contextlib.contextmanager
def meter(name: str, device: str) -> Iterator[Reading]:
    """Open a meter by its name, one of `UNITS`."""
    meters: dict[str, Callable[[], contextlib.AbstractContextManager[Reading]]] = {
        "time": lambda: time_meter(device),
        "FLOPs": flop_meter,
        "memory": lambda: memory_meter(device),
    }
    with meters[name]() as reading:
        yield reading


@contextlib.contextmanager
def time_meter(device: str) -> Iterator[Reading]:
    """CPU time of this thread; on CUDA, from an idle device to an idle device."""
    reading = Reading()
    gc.collect()
    gc.disable()
    try:
        start = now(device)
        yield reading
        reading.amount = now(device) - start
    finally:
        gc.enable()


def now(device: str) -> float:
    """Return seconds of CPU time of this thread; on CUDA those of a clock, once the device is idle."""
    if device == "cpu":
        return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def memory_meter(device: str) -> Iterator[Reading]:
    """Measure the most bytes that are held at a time, beyond those that were held before."""
    reading = Reading()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield reading
        torch.cuda.synchronize()
        reading.amount = torch.cuda.max_memory_allocated() - before
        return
    # The process's own size says little, since the allocator keeps pages; the profiler sees each tensor come and go.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield reading
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    reading.amount = most


@contextlib.contextmanager
def flop_meter() -> Iterator[Reading]:
    """Count the FLOPs of matrix products, those that checkpointing repeats included."""
    reading = Reading()
    # The counter does not know the CPU's fused attention and would count it as nothing.
    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: fused_attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: fused_attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        yield reading
    reading.amount = counter.get_total_flops()


def peak_memory(step: Callable[[], object], device: str) -> float:
    """Return the reading of `memory_meter` for a step."""
    with memory_meter(device) as reading:
        step()
    return reading.amount


def count_flops(step: Callable[[], object]) -> float:
    """Return the reading of `flop_meter` for a step."""
    with flop_meter() as reading:
        step()
    return reading.amount


def take_turns(
    prepare: Callable[[str], Callable[[], object]], sides: Sequence[str], schedule: Sequence[str], device: str
) -> Readings:
    """Measure sides round by round: each has a turn in each round, so what else the machine does falls on all.

    Args:
        prepare: Gives a side's step, which is measured; what happens before it is given is not.
        sides: In the order of their turns.
        schedule: What to measure in each round, names of `UNITS`.
        device: Where the steps run.

    Returns:
        By measure and side, readings in `UNITS`, one for each round; nan where a side ran out of memory.
    """
    readings: Readings = {name: {side: [] for side in sides} for name in dict.fromkeys(schedule)}
    for name in schedule:
        for side in sides:
            readings[name][side].append(take_turn(prepare(side), name, device))
    return readings


def take_turn(step: Callable[[], object], name: str, device: str) -> float:
    """Return the cost of a step, in `UNITS`; nan if it runs out of memory."""
    try:
        with meter(name, device) as reading:
            step()
    except torch.OutOfMemoryError:
        return math.nan
    return reading.amount / PER_UNIT[name]


def fused_attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, dropout: float = 0.0, is_causal: bool = False, **_: Any
) -> int:
    """Count the FLOPs of shapes [B, A, N, D]: scores, and their product with the values."""
    num_products = 2
    num_pairs = query[2] * (query[2] + 1) // 2 if is_causal else query[2] * key[2]
    return num_products * 2 * query[0] * query[1] * num_pairs * query[3]


def fused_attention_backward_flops(
    grad: torch.Size,
    query: torch.Size,
    key: torch.Size,
    value: torch.Size,
    output: torch.Size,
    logsumexp: torch.Size,
    dropout: float,
    is_causal: bool,
    **_: Any,
) -> int:
    """Return the scores again, and the gradients of weights, values, queries and keys."""
    return fused_attention_flops(query, key, value, dropout, is_causal) * 5 // 2


def machine(device: str, packages: Sequence[str] = ("torch", "transformers")) -> dict[str, str | int | None]:
    """Return the facts of the machine on which the figures depend."""
    return {
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def command() -> str:
    """Return the command that was run."""
    return " ".join(["python", *sys.argv])


def run_quietly_on_one_thread() -> None:
    """Set up the process as the meters assume, first of all, and silence a profiler's messages of start and stop."""
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def print_line(line: dict[str, Any]) -> None:
    """Print a case as a line of JSON, which has null where Python has nan."""
    print(json.dumps(json.loads(json.dumps(line), parse_constant=lambda _: None)), flush=True)
