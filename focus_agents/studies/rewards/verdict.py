"""The verdict of a study of rewards, from its figures alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from focus_agents.reports.documents import code
from focus_agents.runs.figures import in_digits
from focus_env.rewards.terms import TERMS
from focus_env.rewards.weighted import WeightedReward

FORM_TERMS = ("format", "format_soft", "length")
"""Terms of an answer's form; they pay the same wherever its box lies."""
MOST_SEEDS = 100
"""Largest number of seeds that the report gives; a larger estimate is "more than" this, as few seeds cannot tell it."""

Difference = Mapping[str, Any]
"""Difference of mIoU between two rewards: `from`, `to`, `mean` and `interval`, as in `summarize_study`."""


def is_control(spec: str) -> bool:
    """Tell whether a reward pays for something else than right boxes: no positive term depends on the boxes."""
    names = [name.split("(")[0] for name, (_, weight) in WeightedReward.from_spec(spec).terms.items() if weight > 0]
    return all(name in FORM_TERMS or (name in TERMS.built_in and TERMS.built_in[name].is_control) for name in names)


def verdict(summary: Mapping[str, Any]) -> str:
    """Return the verdict on mIoU: rewards against controls, then rewards among themselves.

    Args:
        summary: A summary with `controls`, `seeds` and `differences`.
    """
    controls, num_seeds = summary["controls"], len(summary["seeds"])
    against: list[Difference] = []
    among: list[Difference] = []
    for found in summary["differences"]:
        if found["metric"] == "miou":
            num_controls = (found["from"] in controls) + (found["to"] in controls)
            if num_controls == 1:
                against.append(turned(found) if found["to"] in controls else found)
            else:
                among.append(found)
    return " ".join([*_against_controls(against, num_seeds), *_among_rewards(among, num_seeds)])


def _against_controls(pairs: Sequence[Difference], num_seeds: int) -> list[str]:
    """Return a sentence for each reward that beats controls, and one for each pair that says otherwise."""
    sentences = []
    for reward in dict.fromkeys(found["to"] for found in pairs):
        own = [found for found in pairs if found["to"] == reward]
        if beaten := [found for found in own if found["interval"][0] > 0]:
            least = min(beaten, key=lambda found: float(found["mean"]))
            names = ", ".join(code(found["from"]) for found in beaten)
            which = (
                "each control" if len(beaten) == len(own) else "the control" if len(beaten) == 1 else "these controls"
            )
            by = "by at least" if len(beaten) > 1 else "by"
            sentences.append(f"{code(reward)} trains better than {which} ({names}), {by} {_figure(least)}.")
        for found in own:
            control, (low, high) = code(found["from"]), found["interval"]
            if high < 0:
                sentences.append(f"{code(reward)} trains worse than the control {control}: {_figure(found)}.")
            elif low <= 0:
                sentences.append(
                    f"{code(reward)} cannot be told from the control {control}: {_figure(found)}; "
                    f"{_seeds([found], num_seeds)}."
                )
    return sentences


def _among_rewards(pairs: Sequence[Difference], num_seeds: int) -> list[str]:
    """Return a sentence for each pair that is clear, and one for all others."""
    clear = [found for found in pairs if found["interval"][0] > 0 or found["interval"][1] < 0]
    better = [found if found["mean"] > 0 else turned(found) for found in clear]
    sentences = [f"{code(each['to'])} trains better than {code(each['from'])}: {_figure(each)}." for each in better]
    if unclear := [found for found in pairs if found not in clear]:
        widest = max(abs(bound) for found in unclear for bound in found["interval"])
        sentences.append(
            f"No verdict: no {'other ' * bool(clear)}two of these rewards can be told apart by mIoU; what difference "
            f"there is, is likely below {100 * widest:.1f} points; {_seeds(unclear, num_seeds)}."
        )
    return sentences


def turned(found: Difference) -> Difference:
    """Return a difference as seen from its other side."""
    low, high = found["interval"]
    return {**found, "from": found["to"], "to": found["from"], "mean": -found["mean"], "interval": [-high, -low]}


def seeds_to_tell(found: Difference, num_seeds: int) -> float:
    """Estimate the number of seeds at which an interval is clear of zero, if the difference stays the same.

    An interval's width falls with the square root of the number of seeds, each with validation episodes of its own.
    """
    low, high = found["interval"]
    return num_seeds * ((high - low) / 2 / abs(found["mean"])) ** 2 if found["mean"] else math.inf


def _seeds(pairs: Sequence[Difference], num_seeds: int) -> str:
    most = max(seeds_to_tell(found, num_seeds) for found in pairs)
    number = f"more than {MOST_SEEDS}" if most > MOST_SEEDS else f"about {math.ceil(round(most, 6))}"
    return (
        f"if that is the true difference, {number} seeds would tell"
        if len(pairs) == 1
        else (f"if these are the true differences, {number} seeds would tell all of them")
    )


def _figure(found: Difference) -> str:
    mean, low, high = in_digits(
        100 * found["mean"], [100 * bound for bound in found["interval"]], digits=1, is_signed=True
    )
    return f"{mean} mIoU * 100 [{low}, {high}]"
