"""The lines and tables of figures."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.measuring import UNITS, Readings
from benchmarks.step.cases import CASES, CaseName
from benchmarks.step.setup import Size
from benchmarks.step.sides import SIDES

Line = dict[str, Any]


def compare_all(
    case: CaseName, size: Size, readings: Readings, gap: float | None, *, peak: float = math.nan
) -> list[Line]:
    """Return a JSON line for each measure of a case.

    Args:
        case: Its name.
        size: Of its prompts and answers.
        readings: By measure and side, in `UNITS`, both sides' rounds in the same order.
        gap: Between the sides' gradients; None where there are none.
        peak: FLOP/s of the device.
    """
    num_tokens = CASES[case].num_prompts * size.group_size * size.answer_tokens
    middle = {name: {side: statistics.median(sides[side]) for side in SIDES} for name, sides in readings.items()}
    seconds = {side: middle["time"][side] / 1e3 for side in SIDES}
    speeds = {
        "tokens_per_second": {side: round(num_tokens / seconds[side], 2) for side in SIDES},
        "peak_share": {side: round(middle["FLOPs"][side] * 1e9 / seconds[side] / peak, 4) for side in SIDES},
    }
    lines = []
    for name in UNITS:
        ratios = [peer / ours for ours, peer in zip(*(readings[name][side] for side in SIDES), strict=True)]
        lines.append(
            {
                "case": f"{case}, P {size.prompt_tokens}, G {size.group_size}: {name}",
                "name": case,
                "measure": name,
                **{side: round(middle[name][side], 4) for side in SIDES},
                "ratio": round(statistics.median(ratios), 4),
                "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
                "unit": UNITS[name],
                "ours_name": CASES[case].ours,
                "peer_name": CASES[case].peer,
                "prompts": CASES[case].num_prompts,
                **dataclasses.asdict(size),
                "token_ratio": round(size.token_ratio, 4),
                "gradient_difference": gap,
                **speeds,
            }
        )
    return lines


def build_table(case: CaseName, lines: Sequence[Line], device: str) -> Table:
    """Measure one case in all its sizes.

    Args:
        case: Its name.
        lines: Of all cases, sizes and measures.
        device: Where they were measured.
    """
    has_peak = any(line["peak_share"]["ours"] > 0 for line in lines)  # nan is not
    table = Table(
        title=f"{case}: {CASES[case].ours},\nagainst {CASES[case].peer}",
        caption=f"{'CPU time' if device == 'cpu' else 'Time'}; x: so many times more in the peer, median of rounds"
        + ("; peak: share of peak FLOP/s" if has_peak else ""),
        box=SIMPLE,
        padding=0,
    )
    table.add_column("P", justify="right")
    table.add_column("G", justify="right")
    table.add_column("tokens\nx", justify="right")
    for name, unit in UNITS.items():
        for column in (f"{name}\n{unit}", *(["\npeer"] if name == "time" else []), "\nx"):
            table.add_column(column, justify="right")
    table.add_column("tokens\n/ s", justify="right")
    if has_peak:
        table.add_column("peak", justify="right")
    chosen = [line for line in lines if line["name"] == case]
    for start in range(0, len(chosen), len(UNITS)):
        measures = chosen[start : start + len(UNITS)]
        first = measures[0]
        cells = [f"{first['prompt_tokens']:,}", str(first["group_size"]), f"{first['token_ratio']:.2f}"]
        for line in measures:
            sides = SIDES if line["measure"] == "time" else SIDES[:1]
            cells += [*(f"{line[side]:,.0f}" for side in sides), f"{line['ratio']:.2f}"]
        cells.append(f"{first['tokens_per_second']['ours']:,.0f}")
        table.add_row(*cells, *([f"{first['peak_share']['ours']:.0%}"] if has_peak else []))
    return table
