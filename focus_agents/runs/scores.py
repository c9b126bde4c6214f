"""Metrics of answers: those that were sampled, those of a validation, and two validations compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from focus_agents.rollout.records import RolloutGroup
from focus_agents.runs.metrics import OF_ABSENCE
from focus_env.intervals import bootstrap_interval, paired_bootstrap_interval
from focus_env.metrics import ScoredAnswer, summarize, summarize_with_intervals


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return means over the sampled answers of an iteration; names as in `METRICS`."""
    answers = [answer for group in groups for answer in group.answers]
    completions = [completion for group in groups for completion in group.generation.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    terms: dict[str, list[float]] = {}
    for name, value in (item for group in groups for each in group.reward_terms for item in each.items()):
        terms.setdefault(name, []).append(value)
    scores = summarize(answers)
    return {
        "reward": float(np.mean([group.rewards.mean() for group in groups])),
        **{f"reward/{name}": float(np.mean(values)) for name, values in terms.items()},
        "reward_std": float(np.mean([group.rewards.std() for group in groups])),
        "miou": scores["miou_all"],
        **{name: scores[name] for name in ("acc_50", "parse_rate", "format_rate", "whole_image_rate", "copy_rate")},
        **absence_metrics(answers),
        "zero_variance_rate": float(np.mean([np.ptp(group.rewards) == 0 for group in groups])),
        "completion_tokens": float(np.mean(lengths)),
        "completion_tokens_min": float(min(lengths)),
        "completion_tokens_max": float(max(lengths)),
        "truncated_rate": float(np.mean([not completion.is_finished for completion in completions])),
    }


def absence_metrics(answers: Sequence[ScoredAnswer]) -> dict[str, float]:
    """Return `OF_ABSENCE` of answers, as far as they are defined; nothing where no target is absent."""
    scores = summarize(answers)
    return {name: scores[name] for name in OF_ABSENCE if name in scores and "absent_rate" in scores}


def validation_metrics(answers: Sequence[ScoredAnswer]) -> dict[str, float]:
    """Return what a validation logs of its answers; names as in `METRICS`."""
    measured = {"miou": summarize(answers)["miou_all"], **absence_metrics(answers)}
    return {f"validation_{name}": value for name, value in measured.items()}


def compare_validation(before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """Return scores before and after training on the same episodes, with 95% bootstrap intervals.

    Returns:
        `miou_start`, `miou_end`, `miou_gain` (paired by episode), each with `<name>_interval`, and
        `parse_rate_start`, `parse_rate_end`, `num_validation_episodes`. Where targets are absent, also those of
        `OF_ABSENCE` that are defined, as `<name>_start` and `<name>_end`, each with `<name>_interval`.
    """
    start, end = np.array([a.credit for a in before]), np.array([a.credit for a in after])
    return {
        "miou_start": float(start.mean()),
        "miou_start_interval": bootstrap_interval(start),
        "miou_end": float(end.mean()),
        "miou_end_interval": bootstrap_interval(end),
        "miou_gain": float((end - start).mean()),
        "miou_gain_interval": paired_bootstrap_interval(start, end),
        "parse_rate_start": summarize(before)["parse_rate"],
        "parse_rate_end": summarize(after)["parse_rate"],
        "num_validation_episodes": len(before),
        **_absence("start", before),
        **_absence("end", after),
    }


def _absence(when: str, answers: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """Return `absence_metrics` with their intervals, by name and time."""
    if not (names := absence_metrics(answers)):
        return {}
    found = summarize_with_intervals(answers)
    return {
        f"{name}_{when}{suffix}": found[name][key]
        for name in names
        for suffix, key in (("", "mean"), ("_interval", "interval"))
    }
