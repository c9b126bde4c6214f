"""Label runs beside one another: by the settings that differ, and one name for the seeds of one setting."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.runs.folder import METRICS_FILE, RunDirectory

SEED = "seed"
PLACES = (
    "name", "code", "starts", "output_dir", "resume", "ray_address", "dashboard", "verbose", "log_to", "log_pictures",
    "num_env_runners", "shard_weights",
    "num_learners", "num_workers", "max_failures", "num_gpus_per_env_runner", "num_gpus_per_learner", "use_gpu",
    "num_data_workers", "checkpoint_interval", "update_timeout_s", "max_update_attempts", "sample_timeout_s",
)  # fmt: skip
"""Settings that say where a run is and who works on it, and that no curve depends on."""
COMMAND = "command"
MOST_NAMED = 4
"""Settings in a label."""
MOST_DIGITS = 3
"""Of a number behind the last hyphen of a name that passes for a seed; a date or a time of day is longer."""
MOST_DEPTH = 3
MOST_CHARACTERS, MOST_SHOWN = 80, 40
"""Of a label, and of a setting in it; longer ones are cut to that in which they differ."""


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of runs: those that are given, and those inside of folders that are not runs themselves.

    Raises:
        ValueError: If a run stands twice.
        CheckpointError: If a folder neither is nor holds a run.
    """
    found: list[Path] = []
    for folder in folders:
        if is_run(folder):
            found.append(folder)
            continue
        files = (file for depth in range(1, MOST_DEPTH + 1) for file in folder.glob(f"{'*/' * depth}{METRICS_FILE}"))
        inside = sorted(file.parent for file in files)
        if not inside:
            raise CheckpointError(f"runs: expected folders with {METRICS_FILE}, or folders of such, got {folder}")
        found.extend(inside)
    places = [Path(os.path.abspath(run)) for run in found]
    if twice := [run for run, place in zip(found, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"runs: expected different folders, got {twice[0]} twice")
    return found


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, however little it has logged."""
    return (folder / METRICS_FILE).exists() or ((folder / "config.json").exists() and (folder / "checkpoints").is_dir())


def label_runs(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Group runs, with a name for each group that says what makes it another one.

    Runs whose settings differ in the seed alone are a group. Two with the same settings and seed are not: each is an
    entry of its own. Runs without a readable config.json are told apart by the names of their folders.

    Args:
        runs: Run folders.
    """
    configs = [_settings_of(run) for run in runs]
    if any(config is None for config in configs):
        return _cut(labels_by_name(runs))
    known = [config for config in configs if config is not None]
    groups: list[tuple[dict[str, Any], list[Path], set[str]]] = []
    for run, config in zip(runs, known, strict=True):
        seed = str(config.get(SEED))
        plain = {name: value for name, value in config.items() if name != SEED}
        for settings, members, seeds in groups:
            if settings == plain and seed not in seeds:
                members.append(run)
                seeds.add(seed)
                break
        else:
            groups.append((plain, [run], {seed}))
    all_settings = [settings for settings, _, _ in groups]
    names, differing = _short_names(runs), _differing(all_settings)
    labelled: dict[str, list[Path]] = {}
    for settings, members, seeds in groups:
        label, who = _describe(settings, differing, all_settings), names[members[0]]
        if len(members) > 1:
            stems = [*labels_by_name(members)]
            who = f"{stems[0] if len(stems) == 1 else who}, seeds {', '.join(sorted(seeds))}"
        label = f"{label} ({who})" if label else who
        labelled[label] = [*labelled.get(label, []), *members]
    return _cut(labelled)


def labels_by_name(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Group runs by the names that they share, up to a seed; those of several folders have the folder before theirs."""
    places = [Path(os.path.abspath(run)) for run in runs]
    folders = {place.parent for place in places}
    by_label: dict[str, list[Path]] = {}
    for run, place in zip(runs, places, strict=True):
        stem, _, end = place.name.rpartition("-")
        name = stem if stem and end.isdecimal() and len(end) <= MOST_DIGITS else place.name
        label = name if len(folders) == 1 else os.path.relpath(place.parent / name, os.path.commonpath(folders))
        by_label.setdefault(label, []).append(run)
    return by_label


def _settings_of(run: Path) -> dict[str, Any] | None:
    """Return the settings of a run's start that its curves may depend on; None if nothing records them."""
    try:
        config = RunDirectory(run).config()
    except CheckpointError:
        return None
    # Runs of earlier releases do not name their command.
    guess = "grpo" if "group_size" in config else "sft" if "attention_target" in config else "pretrain"
    found = {name: value for name, value in config.items() if name not in PLACES}
    if SEED in found:  # a seed starts from the model of the same seed
        own = re.compile(rf"-(seed)?{re.escape(str(found[SEED]))}(?=/)")
        found = {name: own.sub("-*", value) if isinstance(value, str) else value for name, value in found.items()}
    command = found.get(COMMAND)
    return {**found, COMMAND: command if isinstance(command, str) else guess} if found else None


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return by command the settings that are not the same in all groups that know them; the command is one of them."""
    commands = {str(each[COMMAND]) for each in settings}
    found: dict[str, list[str]] = {}
    for command in commands:
        mine = [each for each in settings if each[COMMAND] == command]
        found[command] = [COMMAND] if len(commands) > 1 else []
        for name in dict.fromkeys(name for each in mine for name in each):
            values = [each[name] for each in mine if name in each]
            if any(value != values[0] for value in values):
                found[command].append(name)
    return found


def _describe(
    settings: Mapping[str, Any], differing: Mapping[str, Sequence[str]], groups: Sequence[Mapping[str, Any]]
) -> str:
    """Return the settings of a group by which it differs from the others."""

    def shown(name: str) -> str:
        texts = [_shown(each[name]) for each in groups if name in each]
        return _apart(_shown(settings[name]), texts, MOST_SHOWN)

    parts = [
        settings[COMMAND] if name == COMMAND else f"{name} {shown(name)}"
        for name in differing[settings[COMMAND]]
        if name in settings
    ]
    more = len(parts) - MOST_NAMED
    return ", ".join(parts[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(value: Any) -> str:
    """Return a setting as a label shows it; the end of a path says more than its start."""
    if isinstance(value, str) and value.count("/") > 2:
        return "…/" + "/".join(value.rstrip("/").split("/")[-3:])
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _apart(text: str, others: Sequence[str], most: int) -> str:
    """Return a text that is too long without what it shares with the others, and cut in its middle if it still is."""
    if len(text) <= most:
        return text
    others = [other for other in dict.fromkeys(others) if other != text]
    start = _num_shared([text, *others]) if others else 0
    end = _num_shared([each[start:][::-1] for each in (text, *others)]) if others else 0
    start, end = max(0, start - most // 4), max(0, end - most // 4)  # some of what is around it
    cut = f"{'…' if start else ''}{text[start : len(text) - end]}{'…' if end else ''}"
    return cut if len(cut) <= most else f"{cut[: most // 2 - 1]}…{cut[-(most // 2) :]}"


def _num_shared(texts: Sequence[str]) -> int:
    """Count the characters that some texts have in common at their start."""
    return sum(1 for _ in itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False)))


def _cut(labelled: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Return the same with labels that fit beside curves, each still another one."""
    found: dict[str, list[Path]] = {}
    for label, members in labelled.items():
        short = _apart(label, [*labelled], MOST_CHARACTERS)
        number = 2
        while short in found:
            short, number = f"{_apart(label, [*labelled], MOST_CHARACTERS)} ({number})", number + 1
        found[short] = members
    return found


def _short_names(runs: Sequence[Path]) -> dict[Path, str]:
    """Return the names of folders, with those above where two are called alike."""
    places = {run: Path(os.path.abspath(run)) for run in runs}
    names = [place.name for place in places.values()]
    if len(set(names)) == len(names):
        return {run: place.name for run, place in places.items()}
    common = os.path.commonpath([place.parent for place in places.values()])
    return {run: os.path.relpath(place, common) for run, place in places.items()}
