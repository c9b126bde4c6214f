"""The lines and tables of figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.on_ray.setup import SIDES, CaseName, Contest
from benchmarks.on_ray.turns import PARTS, Result

Line = dict[str, Any]


def compare(case: CaseName, contest: Contest, result: Result) -> Line:
    """Return the JSON line of a contest, but for what all lines have in common."""
    first, second = ("ours", "peer") if contest.peer is None else ("peer", "ours")
    ratios = [one / other for one, other in zip(result.readings[first], result.readings[second], strict=True)]
    prompts = [group.generation.prompt or group.prompt_reference for group in result.groups]
    prompt_tokens = statistics.median(prompt.num_tokens for prompt in prompts if prompt is not None)
    lengths = [len(completion.token_ids) for group in result.groups for completion in group.generation.completions]
    return {
        "case": f"{case}: {contest.names['ours']} against {contest.names['peer']}",
        "name": case,
        **{side: round(statistics.median(result.readings[side]), 2) for side in SIDES},
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "ratio_of": f"{first} / {second}",
        "unit": "ms",
        "clock": "CPU" if contest.peer is None else "wall",
        "ours_name": contest.names["ours"],
        "peer_name": contest.names["peer"],
        "parts": {
            side: {name: round(statistics.median(values), 2) for name, values in parts.items()}
            for side, parts in result.parts.items()
        },
        "weight_difference": result.weight_difference,
        "prompt_tokens": prompt_tokens,
        "mean_answer_tokens": round(statistics.fmean(lengths), 2),
    }


def build_tables(lines: Sequence[Line]) -> list[Table]:
    """Return the comparisons, and the parts of an iteration."""
    first = lines[0]
    size = f"P {first['prompt_tokens']:,.0f}, G {first['group_size']}, {first['groups']} groups an iteration"
    sides = Table(
        title=f"Milliseconds of an iteration\n{size}",
        caption="EnvRunners + Learners; CPU: time of the process; wall: until the runners rest",
        box=SIMPLE,
        padding=0,
    )
    parts = Table(
        title="Parts of an iteration, milliseconds by the wall clock",
        caption="Medians of iterations; ahead, sampling is the wait for what is not there yet",
        box=SIMPLE,
        padding=0,
    )
    for column in ("case", "ours", "peer", "clock", "ours\nms", "peer\nms", "ratio", "range"):
        sides.add_column(column, justify="right" if "ms" in column or "ra" in column else "left")
    for column in ("case", "processes", *PARTS, "rest"):
        parts.add_column(column, justify="left" if column in ("case", "processes") else "right")
    for line in lines:
        low, high = line["ratio_range"]
        sides.add_row(
            line["name"],
            line["ours_name"],
            line["peer_name"],
            line["clock"],
            f"{line['ours']:,.1f}",
            f"{line['peer']:,.1f}",
            f"{line['ratio']:.3f}",
            f"{low:.3f} to {high:.3f}",
        )
        for side, values in line["parts"].items():
            parts.add_row(line["name"], line[f"{side}_name"], *(f"{value:,.1f}" for value in values.values()))
    return [sides, parts]
