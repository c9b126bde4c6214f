"""Notes to the tables of an evaluation: data, prompts, counts, and the meaning of its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from focus_agents.evaluation.published import PAPER, TABLES
from focus_agents.evaluation.reliability import reliability_notes
from focus_agents.runs.figures import in_digits
from focus_env.datasets import entries_of

FEW_EPISODES = 100
"""Fewer are said."""


def shots_text(number: int) -> str:
    """Return a number of supports in words."""
    return "1 shot" if number == 1 else f"{number} shots"


def has_absent(summary: Mapping[str, Any]) -> bool:
    """Return whether a target of any cell is absent."""
    return any("absent_rate" in cell["metrics"] for cell in summary["cells"])


def report_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return the notes that a reader of the tables needs."""
    notes = [
        "mIoU counts an answer without a readable box as 0, and an absent target as 1 if it is called absent, else 0. "
        "Intervals are 95% bootstrap intervals over episodes."
    ]
    if has_absent(summary):
        notes.append(
            "mIoU present: over the targets that are there. F1@0.5: over present and absent targets; a box with an IoU "
            "of at least 0.5 is right, any other box is wrong, and a present target without a right box is missed; an "
            "absent target that gets no box does not count, see absent recall."
        )
    shown = {kind: {cell[kind] for cell in summary["cells"]} for kind in ("dataset", "policy")}
    data = {name: settings for name, settings in summary["data"].items() if name in shown["dataset"]}
    notes += [_data_note(name, settings) for name, settings in data.items()]
    policies = summary.get("policies", {}).items()
    notes += [_policy_note(name, settings) for name, settings in policies if settings and name in shown["policy"]]
    notes += _count_notes(summary)
    notes += reliability_notes(summary)
    if any(cell["num_failed"] for cell in summary["cells"]):
        notes.append(
            "failed: answers that a policy could not get; they count as unreadable. `retry_failed` asks them again."
        )
    if any(cell.get("num_cut") for cell in summary["cells"]):
        notes.append("cut: answers that were cut at `max_completion_tokens`; raise it if many are.")
    for cell in summary["cells"]:
        if "unit_hint" in cell:
            notes.append(f"{cell['policy']} on {cell['dataset']}, {shots_text(cell['shots'])}: {cell['unit_hint']}.")
    if summary.get("code_changes"):
        notes.append(
            "Not all answers were given by the same code; since the first of them: "
            f"{'; '.join(summary['code_changes'])}."
        )
    if "published" in summary:
        notes.append(
            f"(published): printed in {PAPER}, not measured here: other models, its own choice of episodes, no "
            "intervals."
        )
        known = {name for table in TABLES for name in table.datasets}
        if others := [name for name, settings in data.items() if settings.get("dataset") not in known]:
            notes.append(
                f"The paper has nothing on {', '.join(others)}: other data, whose figures cannot be compared with its."
            )
        notes += [
            f"{found['dataset']}, {shots_text(found['shots'])}: left out beside the paper's rows, since the episodes "
            f"are not the published ones: {found['reason']}."
            for found in summary.get("not_published", ())
            if found["dataset"] not in others
        ]
    return notes


def _data_note(name: str, settings: Mapping[str, Any]) -> str:
    """Name the episodes, by the settings that choose them."""
    is_drawn = settings.get("dataset") == "synthetic"
    kinds = [key for key in ("split", "protocol") if key in settings and key not in _ignored(settings)]
    told = [
        f"{key} {settings[key]}" for key in ("dataset", *kinds, *(["level"] if is_drawn else [])) if key in settings
    ]
    told += [f"scenes {settings['scenes']}"] if settings.get("scenes", "one_look") != "one_look" else []
    absent = settings.get("absent_fraction", 0) if is_drawn else 0
    told += [f"a share of {absent:g} absent"] if absent else []
    told += [f"from {settings['data_root']}"] if settings.get("data_root") else []
    told += ["supports of other episodes"] if settings.get("shuffle_supports") else []
    return f"{name}: {', '.join(told)}."


def _ignored(settings: Mapping[str, Any]) -> set[str]:
    """Return names of the settings that have no effect on a data set."""
    try:
        return set.intersection(*(set(entry.ignores) for entry in entries_of(str(settings.get("dataset")))))
    except ValueError:  # of a package that is not installed here, or a name of a caller's own
        return set()


def _policy_note(name: str, settings: Mapping[str, Any]) -> str:
    """Say how a policy was asked."""
    told = [f"prompt {settings['template']}", f"unit {settings['frame']}"] if "frame" in settings else []
    told += ["told what to answer where the object is absent"] if _is_told(settings) else []
    told += [f"weights {settings['weights']}"] if settings.get("weights") else []
    told += [f"endpoint {settings['endpoint']}"] if settings.get("endpoint") else []
    told += [f"code {module} {digest}" for module, digest in settings.get("code", {}).items()][:1]
    return f"{name}: {', '.join(told)}."


def _is_told(settings: Mapping[str, Any]) -> bool:
    """Return whether the prompt says what to answer where the object is absent."""
    return bool((settings.get("template_fields") or {}).get("allow_absent"))


def _count_notes(summary: Mapping[str, Any]) -> list[str]:
    """Say on how many episodes figures rest, where these are few."""
    notes = []
    for dataset in dict.fromkeys(cell["dataset"] for cell in summary["cells"]):
        few = [cell for cell in summary["cells"] if cell["dataset"] == dataset and cell["num_episodes"] < FEW_EPISODES]
        if few:
            counts = sorted({cell["num_episodes"] for cell in few})
            intervals = [cell["metrics"]["miou_all"]["interval"] for cell in few]
            widest = max(intervals, key=lambda interval: interval[1] - interval[0])
            _, low, high = in_digits(0, [100 * bound for bound in widest], digits=1)
            notes.append(
                f"{dataset}: few episodes, {' and '.join(map(str, counts))}; an interval of the mIoU is as wide as "
                f"{low} to {high}, and rough itself."
            )
    of_videos = [
        name
        for name, settings in summary["data"].items()
        if settings.get("protocol") in ("focus", "iploc")
        and settings.get("dataset") not in (None, "synthetic", "store")
    ]
    if notes and of_videos:
        notes.append(f"The protocols focus and iploc give one episode for each video ({', '.join(of_videos)}).")
    return notes
