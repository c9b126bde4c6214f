"""All figures of an ablation: means, intervals over seeds and episodes, paired differences; nothing is worded here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.errors import CheckpointError
from focus_agents.runs.files import read_json
from focus_agents.runs.summary import SUMMARY_FILE
from focus_agents.studies.ablation.answers import (
    cell_episodes,
    kept_floors,
    missing_cells,
    read_evaluation,
    read_probes,
)
from focus_agents.studies.ablation.arms import ARMS, MAIN_SPLIT
from focus_agents.studies.ablation.claims import CLAIMS, Claim
from focus_agents.studies.ablation.grid import Variant
from focus_agents.studies.ablation.runs import AblationStudy
from focus_env.intervals import seeds_bootstrap_interval

THRESHOLDS = {"acc_50": 0.5, "acc_75": 0.75}

Scores = Mapping[str, Mapping[str, Mapping[int, npt.NDArray[np.float64]]]]
"""[episodes] IoU, by variant, cell and seed."""
Floors = Mapping[str, Mapping[str, Mapping[str, list[float]]]]
"""The IoU of each answer of the baselines beside the runs, by kind of scenes, name and cell."""


def read_scores(study: AblationStudy) -> Scores:
    """Return the scores of all runs that were answered to the end; variants and seeds without scores are left out."""
    scores: dict[str, dict[str, dict[int, npt.NDArray[np.float64]]]] = {}
    for variant in study.all_variants:
        for seed in study.seeds:
            run = study.run(variant, seed)
            if missing_cells(study, run):
                continue
            for key, values in read_evaluation(run).items():
                by_seed = scores.setdefault(str(variant), {}).setdefault(key, {})
                by_seed[seed] = np.array(values[: cell_episodes(study, key.split("/")[0])])
    return scores


def read_floors(study: AblationStudy, scores: Scores) -> Floors:
    """Return the scores of copies and oracle, for the kinds of scenes that have a run."""
    kinds = dict.fromkeys(Variant.parse(variant).scenes for variant in scores)
    return {scenes: kept_floors(study, scenes) for scenes in kinds}


def summarize_scores(study: AblationStudy, scores: Scores, floors: Floors | None = None) -> dict[str, Any]:
    """Return all figures of the report, mIoU from 0 to 1: means, also by seed, 95% intervals over seeds x episodes."""
    return {
        "study": {
            "seeds": list(study.seeds),
            "num_sft_steps": study.num_sft_steps,
            "num_grpo_iterations": study.num_grpo_iterations,
            "num_episodes": study.num_episodes,
            "precision": study.precision,
            "bases": dict(study.bases),
        },
        "floors": {
            scenes: {
                name: {key: _scored({0: np.array(v)}) for key, v in cells.items()} for name, cells in named.items()
            }
            for scenes, named in (floors or {}).items()
        },
        "rows": {variant: _row(study, variant, cells) for variant, cells in scores.items()},
        "claims": list(_claims(scores)),
        "probes": {name: dict(probe) for name, probe in read_probes(study).items()},
    }


def _row(study: AblationStudy, text: str, cells: Mapping[str, Mapping[int, npt.NDArray[np.float64]]]) -> dict[str, Any]:
    variant = Variant.parse(text)
    arm = ARMS[variant.arm]
    compared = {key: dict(list(values.items())[:1]) if arm.stage is None else values for key, values in cells.items()}
    return {
        "title": arm.title,
        "stage": arm.stage,
        "is_paper": arm.is_paper,
        "num_steps": variant.num_steps(study.num_sft_steps, study.num_grpo_iterations),
        "pool": variant.pool,
        "seconds": _seconds(study, variant),
        "cells": {
            key: (_scored if key.split("/")[0] == MAIN_SPLIT else describe)(values) for key, values in compared.items()
        },
    }


def _seconds(study: AblationStudy, variant: Variant) -> float | None:
    """Return the measured seconds of a variant's runs, mean over seeds, validations included; None for a base."""
    found = []
    for seed in study.seeds:
        run = study.run(variant, seed)
        if run.command and run.is_done:
            try:
                found.append(float(read_json(run.folder / SUMMARY_FILE, "the outcome of a run")["seconds"]))
            except (CheckpointError, KeyError, TypeError, ValueError):
                continue
    return round(float(np.mean(found)), 1) if found else None


def _scored(by_seed: Mapping[int, npt.NDArray[np.float64]]) -> dict[str, Any]:
    """Return the mean IoU, and the fractions of answers that reach the thresholds."""
    shares = {
        name: describe({seed: (values >= least).astype(np.float64) for seed, values in by_seed.items()})
        for name, least in THRESHOLDS.items()
    }
    return {**describe(by_seed), **shares}


def describe(by_seed: Mapping[int, npt.NDArray[np.float64]]) -> dict[str, Any]:
    """Return the mean, its 95% interval over seeds and episodes, the means by seed, and the episodes of a seed."""
    values = np.stack(list(by_seed.values()))
    low, high = seeds_bootstrap_interval(values)
    means = {str(seed): round(float(each.mean()), 4) for seed, each in by_seed.items()}
    return {
        "mean": round(float(values.mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "seeds": means,
        "num_episodes": values.shape[1],
    }


def _claims(scores: Scores) -> Iterable[dict[str, Any]]:
    """Yield each comparison on each base and kind of scenes with both sides, and each setting against the default."""
    places = dict.fromkeys(Variant.parse(variant)[1:] for variant in scores)
    for claim in CLAIMS:
        for base, scenes in places:
            found = _difference(scores, claim, base, scenes)
            if found is not None:
                told = {"name": claim.name, "sentence": claim.sentence, "kind": claim.kind}
                yield {**told, "base": base, "scenes": scenes, **found}


def _difference(scores: Scores, claim: Claim, base: str, scenes: str) -> dict[str, Any] | None:
    """Return the difference of two cells, paired by common seeds and episodes; None if they have none in common."""
    (first, old_key), (second, new_key) = claim.before, claim.after
    old = scores.get(str(Variant(first, base, scenes)), {}).get(old_key, {})
    new = scores.get(str(Variant(second, base, scenes)), {}).get(new_key, {})
    shared = [seed for seed in old if seed in new]
    if not shared:
        return None
    length = min(len(old[shared[0]]), len(new[shared[0]]))  # cells begin with the same queries
    return describe({seed: new[seed][:length] - old[seed][:length] for seed in shared})
