"""Check and time the package on one GPU, in one command of at most eight minutes that downloads nothing.

    python benchmarks/on_gpu.py [--shapes 2b 7b] [--prompt-tokens 1024 2048] [--group-sizes 8 16] [--answer-tokens 32]
                                [--sides ours repeated trl trl_vllm] [--budget-s 480] [--output on_gpu.jsonl]
                                [--device cuda|cpu] [--peak-tflops N]

1. Parity: each way to compute the same is as near to float32 as transformers' own code is in bfloat16
   (`benchmarks/gpu/parity.py`), and gradients pass NCCL unchanged with one process.
2. Speed: random weights in the shapes of Qwen2-VL-2B and 7B, in bfloat16 under LoRA of rank 8, and a prompt of five
   pictures. For each shape, P and G, a side samples G answers of T tokens and learns from them: groups a second, the
   share of the device's peak, the most memory. The sides:

    ours      prompts are encoded once for a group, in sampling and in learning; adapters by the shortest way
    repeated  transformers' `generate`, then learning with the prompt repeated for each answer
    trl       a step of TRL's `GRPOTrainer`, where it is installed; what is not sampling in it counts as learning
    trl_vllm  the same, sampling by vLLM in its process, where both are installed. It has never been run

Learning is forward, backward, clipping, and AdamW on the adapters; for `ours` and `repeated` the features of the frozen
tower are kept from sampling. Operations are counted by `focus_agents.models.budget`, each side's own, without products
of attention. The peak is that of the device by its data sheet, or `--peak-tflops`. `memory` is the weights and the most
that was held beyond them in sampling and learning.

A row is in the file as soon as it is known, a JSON object a line, with the machine's name. A row that would not fit
into what is left of the budget, as the rows before it tell, is left out, and says so. One that runs out of memory, or
fails, says so, and the others go on. The exit status is 1 where parity does not hold.

`--device cpu --shapes tiny` runs all of it on a CPU within a minute, to see that it runs: its times say nothing of
GPUs.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.gpu.parity import PATHS, Bench, check_path
from benchmarks.gpu.rows import Row, TimeBudget, Writer, free_memory
from benchmarks.gpu.shapes import ShapeName, shape_config, shape_model
from benchmarks.gpu.speed import SIDE_NAMES, SIDES, SideName, Work, measure, prompt_size, speed_row
from benchmarks.measuring import NUM_PICTURES, command, machine, run_quietly_on_one_thread
from benchmarks.scaling_model import markdown
from benchmarks.step.setup import LEAST_PICTURE_SIDE, TEXT_TOKENS, Setup, Size
from focus_agents.cli.command_line import quiet_libraries
from focus_agents.cli.errors import user_errors
from focus_agents.models.devices import device_of
from focus_agents.models.shape import ModelShape, shape_of

PARITY, SPEED = "parity", "speed"
PARITY_TOKENS = {"cuda": 1024, "cpu": 192}
PARITY_WIDTH = {"cuda": 512, "cpu": 256}
WRONG = ("differs", "blind", "failed")
"""Verdicts of parity that do not hold."""
NEEDED: dict[SideName, tuple[str, ...]] = {"ours": (), "repeated": (), "trl": ("trl",), "trl_vllm": ("trl", "vllm")}
"""Packages of each side."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Check and time the package on one GPU."""

    shapes: tuple[ShapeName, ...] = ("2b", "7b")
    """Models, by the shape they have."""
    prompt_tokens: tuple[int, ...] = (1024, 2048)
    """P, tokens of a prompt with five pictures."""
    group_sizes: tuple[int, ...] = (8, 16)
    """G, answers to a prompt; each P is timed with each G."""
    answer_tokens: int = 32
    """T, tokens of an answer."""
    sides: tuple[SideName, ...] = SIDES
    """Sides to time."""
    rounds: int = 3
    """Rounds that are timed, after one for memory."""
    budget_s: float = 480.0
    """Seconds for all."""
    output: Path = Path("on_gpu.jsonl")
    """A file of JSON lines that rows are added to."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where to run."""
    peak_tflops: float | None = None
    """The device's peak in TFLOP/s at bfloat16; else a table of devices is asked."""

    def __post_init__(self) -> None:
        least = {
            "prompt_tokens": (min(self.prompt_tokens), TEXT_TOKENS + NUM_PICTURES * LEAST_PICTURE_SIDE**2),
            "group_sizes": (min(self.group_sizes), 2),
            "answer_tokens": (self.answer_tokens, 2),
            "rounds": (self.rounds, 1),
        }
        for name, (value, limit) in least.items():
            if value < limit:
                raise ValueError(f"{name}: expected at least {limit}, got {value}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "device: this machine has no CUDA device that torch can use; see that all runs by "
                "--device cpu --shapes tiny"
            )
        if self.device == "cpu" and set(self.shapes) != {"tiny"}:
            raise ValueError(f"shapes: expected tiny on cpu, got {' '.join(self.shapes)}; add --shapes tiny")

    @property
    def peak(self) -> float | None:
        """Operations a second; None: not known."""
        return device_of(self.device).peak_flops if self.peak_tflops is None else self.peak_tflops * 1e12


def check_parity(args: Args, time_budget: TimeBudget, writer: Writer) -> None:
    """Write a row for each path and each thing that it is compared in."""
    made: list[Bench] = []

    def make() -> list[Row]:
        made.append(Bench(args.device, PARITY_TOKENS[args.device], width=PARITY_WIDTH[args.device]))
        return []

    writer.add(time_budget.spend(PARITY, 1.0, make), kind=PARITY, path="all")
    for path in PATHS if made else ():
        rows = time_budget.spend(PARITY, 1.0, functools.partial(check_path, path, made[0]))
        writer.add(rows, kind=PARITY, path=path)
        _free_after(rows)


def time_shape(name: ShapeName, args: Args, time_budget: TimeBudget, writer: Writer) -> None:
    """Write the rows of a shape."""
    shape = shape_of(shape_config(name))
    models: list[Any] = []

    def make() -> list[Row]:
        models.append(shape_model(name, args.device))
        return []

    built = time_budget.spend("build", shape.parameters, make)
    for prompt_tokens in args.prompt_tokens:
        for group_size in args.group_sizes:
            size = Size(prompt_tokens, group_size, args.answer_tokens)
            for side in args.sides:
                missing = [package for package in NEEDED[side] if importlib.util.find_spec(package) is None]
                if missing:
                    rows: list[Row] = [{"status": "left out", "reason": f"{' and '.join(missing)} not installed"}]
                elif not models:
                    rows = built
                else:
                    rows = time_side(models[0], side, size, args, time_budget, shape)
                _free_after(rows)
                facts = {"prompt_tokens": prompt_tokens, "group_size": group_size, "answer_tokens": args.answer_tokens}
                writer.add(rows, kind=SPEED, shape=name, side=side, **facts)


def time_side(
    model: Any, side: SideName, size: Size, args: Args, time_budget: TimeBudget, shape: ModelShape
) -> list[Row]:
    """Return the row of a side."""
    setup = Setup.around(model, size, device=args.device, is_narrow=True)
    work = Work.of(side, shape, prompt_size(setup, shape), size.group_size, size.answer_tokens)

    def run() -> list[Row]:
        readings = measure(setup, side, args.rounds, time_budget)
        return [speed_row(side, readings, work, setup, shape, args.peak)]

    return time_budget.spend(f"{SPEED}/{side}", work.total, run)


def _free_after(rows: list[Row]) -> None:
    if any(row["status"] in ("out of memory", "failed") for row in rows):
        free_memory()


def parity_table(rows: list[Row]) -> str:
    """Return the verdicts in Markdown."""
    cells = [
        [
            row["path"],
            row.get("what", ""),
            f"{row['gap']:.1e}" if "gap" in row else "",
            f"{row['limit']:.1e}" if "limit" in row else "",
            row["status"] + (f": {row['reason']}" if "reason" in row else ""),
        ]
        for row in rows
    ]
    return markdown(["path", "of", "gap", "limit", "verdict"], cells)


def speed_table(rows: list[Row]) -> str:
    """Return the figures in Markdown."""

    def share(row: Row, name: str) -> str:
        return "" if row.get(name) is None else f"{row[name]:.0%}"

    cells = []
    for row in rows:
        cell = [row["shape"], f"{row['prompt_tokens']:,}", str(row["group_size"]), SIDE_NAMES[row["side"]]]
        if row["status"] == "measured":
            cell += [f"{row[f'{name}groups_per_second']:.2f}" for name in ("sampling_", "learning_", "")]
            cell += [share(row, "sampling_peak_share"), share(row, "learning_peak_share"), f"{row['memory_gb']:.1f}"]
        else:
            cell += ["", "", "", "", "", row["status"] + (f": {row['reason']}" if "reason" in row else "")]
        cells.append(cell)
    columns = ["shape", "P", "G", "side", "sampling groups/s", "learning groups/s", "groups/s", "sampling, of peak"]
    return markdown([*columns, "learning, of peak", "memory GB"], cells)


def main() -> int:
    quiet_libraries()
    with user_errors(Args):
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    start = time.monotonic()
    time_budget = TimeBudget(args.budget_s)
    packages = [name for name in ("torch", "transformers", "peft", "trl", "vllm") if importlib.util.find_spec(name)]
    facts = {"machine": {"name": platform.node(), **machine(args.device, packages)}, "command": command()}
    writer = Writer(args.output, facts)
    check_parity(args, time_budget, writer)
    for name in args.shapes:
        time_shape(name, args, time_budget, writer)
        free_memory()
    parity = [row for row in writer.rows if row["kind"] == PARITY]
    print(parity_table(parity), speed_table([row for row in writer.rows if row["kind"] == SPEED]), sep="\n\n")
    left_out = sum(row["status"] == "left out" for row in writer.rows)
    wrong = [f"{row['path']} {row['status']}" for row in parity if row["status"] in WRONG]
    print(
        f"\n{time.monotonic() - start:.0f} s of {args.budget_s:.0f}; rows are in {args.output}, {left_out} left out; "
        + (f"parity does not hold: {', '.join(wrong)}" if wrong else "parity holds in all that was checked")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
