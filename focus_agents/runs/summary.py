"""The outcome of a run in its folder, which nothing but another outcome replaces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.runs.figures import in_digits
from focus_agents.runs.files import read_json, to_json, write_json
from focus_agents.runs.metrics import outcome_of

SUMMARY_FILE = "summary.json"


def replace_summary(file: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Write the outcome of a run, unless nothing has been done since the one that is there was written.

    Args:
        file: Where it stands.
        summary: The outcome; `seconds` are those of this call, and those of an earlier end are added to them.

    Returns:
        The summary that is in the file now.
    """
    new, earlier = dict(summary), dict[str, Any]()
    if file.exists():
        with contextlib.suppress(CheckpointError):  # a damaged one is replaced
            earlier = read_json(file, "the summary of a run")
    if earlier and outcome_of(json.loads(to_json(new))) == outcome_of(earlier):
        return earlier
    if "seconds" in new:
        new["seconds"] += earlier.get("seconds") or 0.0
    write_json(file, new)
    return new


def describe_fall(
    summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any], checkpoints: Path
) -> str | None:
    """Return a sentence about a run whose validation ends below its start; None of one that does not.

    Args:
        summary: The outcome.
        lines: Of `metrics.jsonl`.
        arguments: With which the run was started.
        checkpoints: The run's folder of them, where the best policy may lie.

    Returns:
        How far it has fallen, whether that may be chance, and where the best policy is.
    """
    try:
        start, end, gain = (float(summary[f"miou_{name}"]) for name in ("start", "end", "gain"))
        low, high = (float(bound) for bound in summary["miou_gain_interval"])
    except (KeyError, TypeError, ValueError):
        return None
    if gain >= 0:
        return None
    chance = "holds 0, so it may be chance" if low <= 0 <= high else "does not hold 0, so it is hardly chance"
    scores = [(line["validation_miou"], _position(line)) for line in lines if _is_number(line.get("validation_miou"))]
    best, position = max(scores, default=(start, 0), key=lambda score: score[0])
    given = arguments.get("init_from") or arguments.get("model")
    if best <= start or not position:
        where = f"the best policy is the one that it started from{f', {given}' if given else ''}"
    else:
        kept = checkpoints / "best"
        where = f"the best was {best:.3f} after {position:.0f}" + (
            f", in {kept}" if kept.exists() else "; that policy was not kept, so lower `lr` or end there"
        )
    fall, *bounds = in_digits(gain, (low, high), digits=3, is_signed=True)
    return (
        f"the validation ended below its start: {start:.3f} -> {end:.3f}, a gain of {fall} with a 95% interval of "
        f"{bounds[0]} to {bounds[1]}, which {chance}; {where}"
    )


def _position(line: Mapping[str, Any]) -> float:
    found = (line[name] for name in ("iteration", "step") if _is_number(line.get(name)))
    return next(found, 0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
