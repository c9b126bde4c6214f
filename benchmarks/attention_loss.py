"""Measure the cost of the attention loss: a training step with it, against one without, and against eager attention.

    python benchmarks/attention_loss.py [--tokens 512 1024 2048 4096] [--repetitions 5] [--device cpu]

Three variants of one forward and backward pass, on one sequence with four support pictures and a query picture:

    plain   SDPA, language-model loss only (beta 0)
    ours    SDPA, and the attention loss of all layers from `focus_agents.models.attention`
    eager   the same losses from the attention maps that transformers returns by `output_attentions=True`

all three with and without gradient checkpointing. The variants take turns within a run, so that other load of the
machine affects all. Before anything is measured, the losses and gradients of ours and eager must agree. Eager's memory
is measured twice: with maps freed as soon as the loss is computed, and with maps kept until backward is over, as when
the model's output is a variable of the training loop.

`measuring.py` defines time, FLOPs and memory. FLOPs are the same on each device and counted on the CPU; memory
includes gradients, but not weights.

The memory of the loss is linear in the tokens N, since only a few vectors for each row or token outlive a block of
rows. Its FLOPs and time are not: each of the query picture's Q rows is compared with up to N keys. For a query picture
of fixed size they are linear in N. Here pictures grow with the prompt, so they grow as the attention itself does; the
lines "FLOPs of the loss alone" give their fraction of the attention.

Prints one JSON line per case, then a table. `ratio` is the median over the rounds of ours / peer, both from the same
round: below 1, ours costs less.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.attention.setup import LEAST_TEXT_TOKENS, MAPS_KEPT, Setup, picture_side
from benchmarks.measuring import (
    HIDDEN_SIZE,
    NUM_LAYERS,
    NUM_PICTURES,
    UNITS,
    command,
    count_flops,
    fused_attention_flops,
    machine,
    peak_memory,
    print_line,
    run_quietly_on_one_thread,
    take_turns,
)
from focus_agents.cli.command_line import quiet_libraries
from focus_agents.cli.errors import user_errors

VARIANTS = ("plain", "ours", "eager")

PEERS = {
    "plain": "SDPA without the attention loss",
    "eager": "eager attention, the loss from its full maps, which are let go before backward",
    MAPS_KEPT: "eager attention, the loss from its full maps, which live as long as the model's output in a plain loop",
}
PER_TOKEN = {"time": (1e3, "us"), "FLOPs": (1e3, "MFLOP"), "memory": (2**10, "KiB")}
"""Unit in which a difference per token is shown."""
CAPTIONS = {
    "time": "The loss's time goes with its FLOPs.",
    "FLOPs": "The loss's FLOPs are query tokens (rows) x tokens, so a row's grow with the tokens.",
    "memory": "The loss's memory is linear: what it takes for a row does not grow with the tokens.",
}
Line = dict[str, Any]

TOLERANCE = 1e-5
"""Of the losses of ours and eager, relative."""
GRADIENT_TOLERANCE = 1e-3
"""Likewise of the gradients; relative to what the attention loss adds to them, which is less than all of them."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the cost of the attention loss."""

    tokens: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Tokens of prompt and answer, one case for each."""
    repetitions: int = 5
    """Rounds in which each variant is timed once."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: by autocast, weights stay float32."""

    def __post_init__(self) -> None:
        if self.repetitions < 1:
            raise ValueError(f"repetitions: expected at least 1, got {self.repetitions}")
        if min(self.tokens) < LEAST_TEXT_TOKENS + NUM_PICTURES:
            raise ValueError(
                f"tokens: expected at least {LEAST_TEXT_TOKENS + NUM_PICTURES}, one for each picture and "
                f"{LEAST_TEXT_TOKENS} of text, got {min(self.tokens)}"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: this machine has no CUDA device that torch can use; measure on cpu")


def check_same_losses(num_tokens: int, *, is_checkpointed: bool, device: str) -> None:
    """Check that all variants do the same work: equal losses, and equal gradients of ours and eager, in float32."""
    setup = Setup.build(num_tokens, is_checkpointed=is_checkpointed, device=device)
    losses, gradients = {}, {}
    for variant in VARIANTS:
        losses[variant] = setup.prepare(variant)()
        gradients[variant] = torch.cat([p.grad.flatten() for p in setup.model.parameters() if p.grad is not None])
    for variant, name in (("plain", "lm_loss"), ("eager", "lm_loss"), ("eager", "attention_loss")):
        ours, peer = losses["ours"][name], losses[variant][name]
        assert math.isclose(ours, peer, rel_tol=TOLERANCE), f"{name}: ours {ours}, {variant} {peer}"
    gap, added = (float((gradients["ours"] - gradients[peer]).norm()) for peer in ("eager", "plain"))
    assert gap < GRADIENT_TOLERANCE * added, f"gradients: ours and eager differ by {gap}, the loss adds {added}"


def measure(num_tokens: int, args: Args, *, is_checkpointed: bool) -> dict[str, dict[str, list[float]]]:
    """Return by measure (see `UNITS`) and variant one value, or one for each round."""
    check_same_losses(num_tokens, is_checkpointed=is_checkpointed, device=args.device)
    results: dict[str, dict[str, list[float]]] = {name: {variant: [] for variant in VARIANTS} for name in UNITS}
    results["memory"][MAPS_KEPT] = []
    for_flops = Setup.build(num_tokens, is_checkpointed=is_checkpointed)
    for variant in VARIANTS:
        results["FLOPs"][variant].append(count_flops(for_flops.prepare(variant)) / 1e9)
    setup = Setup.build(num_tokens, is_checkpointed=is_checkpointed, dtype=args.dtype, device=args.device)
    for variant in results["memory"]:
        setup.prepare(variant)()  # the first step of all warms up
        results["memory"][variant].append(peak_memory(setup.prepare(variant), args.device) / 2**20)
    return results | take_turns(setup.prepare, VARIANTS, ["time"] * args.repetitions, args.device)


def causal_attention_flops(num_tokens: int, *, is_checkpointed: bool) -> int:
    """Count the FLOPs of the language model's own attention in a plain step, all layers."""
    shape = torch.Size([1, 1, num_tokens, HIDDEN_SIZE])  # heads share the hidden size
    forward = fused_attention_flops(shape, shape, shape, is_causal=True)
    return NUM_LAYERS * (forward * 5 // 2 + forward * (1 + is_checkpointed))


def compare(ours: list[float], peer: list[float], num_tokens: int) -> Line:
    """Return the part of a JSON line that holds figures; both sides' rounds in the same order."""
    ratios = [one / other for one, other in zip(ours, peer, strict=True)]
    extra = statistics.median(ours) - statistics.median(peer)
    return {
        "ours": round(statistics.median(ours), 4),
        "peer": round(statistics.median(peer), 4),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "extra_per_token": round(extra / num_tokens, 9),
        "extra_per_query_token": round(extra / picture_side(num_tokens) ** 2, 9),
    }


def compare_all(results: dict[str, dict[str, list[float]]], num_tokens: int, *, is_checkpointed: bool) -> list[Line]:
    """Return one line for each measure and peer, and one for the loss's FLOPs against those of the attention itself."""
    title = f"{num_tokens} tokens{', checkpointed' if is_checkpointed else ''}"
    size = {
        "tokens": num_tokens,
        "query_tokens": picture_side(num_tokens) ** 2,
        "gradient_checkpointing": is_checkpointed,
    }
    lines = [
        {
            "case": f"{title}: {name} against {peer}",
            "measure": name,
            **compare(sides["ours"], sides[peer], num_tokens),
            "unit": UNITS[name],
            "peer_name": peer_name,
            **size,
        }
        for name, sides in results.items()
        for peer, peer_name in PEERS.items()
        if peer in sides
    ]
    loss = results["FLOPs"]["ours"][0] - results["FLOPs"]["plain"][0]
    attention = causal_attention_flops(num_tokens, is_checkpointed=is_checkpointed) / 1e9
    last = {
        "case": f"{title}: FLOPs of the loss alone against the attention itself",
        "measure": "FLOPs of the loss",
        **compare([loss], [attention], num_tokens),
        "unit": UNITS["FLOPs"],
        "peer_name": "the language model's causal attention without its projections",
        **size,
    }
    return [*lines, last]


def build_table(name: str, lines: list[Line], device: str) -> Table:
    """Take one measure of all cases.

    Args:
        name: Of `UNITS`.
        lines: Of all cases and measures.
        device: Where they were measured.
    """
    scale, unit = PER_TOKEN[name]
    what = "CPU time" if name == "time" and device == "cpu" else name
    title = f"{what} of a training step, {UNITS[name]} (loss alone: {unit})"
    columns = "tokens", "rows", "ckpt", *VARIANTS, "ours /\nplain", "ours /\neager", "loss per\ntoken", "loss per\nrow"
    table = Table(title=title, caption=CAPTIONS[name], box=SIMPLE, padding=0)
    for column in columns:
        table.add_column(column, justify="right")
    chosen = [line for line in lines if line["measure"] == name]
    sides = ([line for line in chosen if line["peer_name"] == PEERS[peer]] for peer in ("plain", "eager"))
    for plain, eager in zip(*sides, strict=True):
        table.add_row(
            f"{plain['tokens']:,}",
            f"{plain['query_tokens']:,}",
            "yes" if plain["gradient_checkpointing"] else "no",
            *(f"{amount:,.1f}" for amount in (plain["peer"], plain["ours"], eager["peer"])),
            *(f"{line['ratio']:.3f}" for line in (plain, eager)),
            *(f"{scale * plain[key]:,.2f}" for key in ("extra_per_token", "extra_per_query_token")),
        )
    return table


def main() -> None:
    quiet_libraries()
    with user_errors(Args):
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    common = {
        "device": args.device,
        "dtype": args.dtype,
        "repetitions": args.repetitions,
        "machine": machine(args.device),
        "command": command(),
    }
    lines = []
    for num_tokens in args.tokens:
        for is_checkpointed in (False, True):
            results = measure(num_tokens, args, is_checkpointed=is_checkpointed)
            for line in compare_all(results, num_tokens, is_checkpointed=is_checkpointed):
                print_line({**line, **common})
                lines.append(line)
    console = Console()
    for name in UNITS:
        console.print(build_table(name, lines, args.device))


if __name__ == "__main__":
    main()
