"""Check flags: each has an effect, and the validation episodes are not those of the training."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import Any

from focus_agents.policies.registry import parse_policy
from focus_env.datasets import entries_of
from focus_env.datasets.synthetic.scenes import LEVELS
from focus_env.prompts import PromptTemplate
from focus_env.types import EpisodeDataset

REQUESTS = {"split": "split", "protocol": "protocol", "absent": "absent", "data_seed": "seed", "shots": "shots"}
"""Flags that any data set may read, by their names in `DatasetEntry.ignores`."""
OPTIONS = (
    "scenes", "level", "image_size", "num_objects", "distractors", "absent_fraction",
    "image_root", "on_bad", "episodes_per_track", "min_gap", "identity",
)  # fmt: skip
"""Flags that only some data sets know, by their names in `DatasetEntry.options`."""
OF_RANDOM = ("episodes_per_track", "min_gap")
"""Flags of the protocol `random` alone."""
OF_ONE_LOOK = ("num_objects", "distractors")
"""Flags of the scenes `one_look` alone."""


def check_given(data: Any, given: Collection[str]) -> None:
    """Refuse flags that were given and have no effect on the episodes.

    Args:
        data: The arguments, a `DataArguments` of `focus_agents.cli.common`.
        given: Names of the flags on the command line.

    Raises:
        ValueError: If there is such a flag, or no such data set.
    """
    entries = entries_of(data.dataset)
    for name in given:
        if (name in OPTIONS and not any(name in entry.options for entry in entries)) or (
            name in REQUESTS and all(REQUESTS[name] in entry.ignores for entry in entries) and name != "shots"
        ):
            raise ValueError(f"{name}: the data set {data.dataset!r} has nothing that it could change; leave it out")
        if name in OF_RANDOM and data.protocol != "random":
            raise ValueError(f"{name}: expected the protocol 'random', whose episodes it draws, got {data.protocol!r}")
    for name in OF_ONE_LOOK:
        if name in given and data.scenes != "one_look":
            raise ValueError(
                f"{name}: the scenes {data.scenes!r} have objects of their own rule; leave it out, or choose "
                "`scenes` one_look"
            )
    if "distractors" in given and _shows_one_object(data):
        raise ValueError("distractors: a picture of one object has none; leave it out, or raise `level`")
    if "validation_split" in given and all("split" in entry.ignores for entry in entries):
        raise ValueError(
            f"validation_split: the data set {data.dataset!r} is one split; name the episodes to validate on by "
            "`validation_root`"
        )
    check_root(data)


def untold_absence(data: Any, template: PromptTemplate) -> str | None:
    """Say that objects may be absent where a model is not told what to answer then; None: it is, or none is.

    Args:
        data: The arguments, a `DataArguments`.
        template: The prompt.
    """
    entries = entries_of(data.dataset)
    is_drawn = data.absent_fraction > 0 and any("absent_fraction" in entry.options for entry in entries)
    is_kept = data.absent == "keep" and any("absent" not in entry.ignores for entry in entries)
    if not (is_drawn or is_kept) or template.allow_absent or template.rejected_answer_text:
        return None
    setting = "absent_fraction" if is_drawn else "absent"
    advice = "pass `allow_absent`" if template.absent_text else "it has no words for that; choose another `template`"
    return (
        f"queries may lack their object (`{setting}`), and the template {template.name!r} does not tell the model what "
        f"to answer then; {advice}"
    )


def _shows_one_object(data: Any) -> bool:
    if data.num_objects is not None or data.level not in LEVELS:
        return bool(data.num_objects == 1)
    return LEVELS[data.level].num_objects == (1, 1)


def check_root(data: Any) -> None:
    """See that a data set on disk is given its folder.

    Raises:
        ValueError: If not.
    """
    for entry in entries_of(data.dataset):
        if entry.needs_root and data.data_root is None:
            raise ValueError(f"data_root: data set {entry.name!r} is read from files: pass `data_root`, {entry.source}")


def check_policy_flags(given: Collection[str], policies: Sequence[str]) -> None:
    """Refuse flags that were given and change neither the answers of any policy nor where it computes.

    Args:
        given: Names of the flags on the command line.
        policies: As the user wrote them.

    Raises:
        ValueError: If there is such a flag.
    """
    used = {option for text in policies for option in parse_policy(text)[0].options}
    for name in given:
        option = "api" if name.startswith("api_") else name
        if (
            option in ("max_image_tokens", "device", "precision", "engine", "engine_memory", "api")
            and option not in used
        ):
            raise ValueError(f"{name}: without effect on the policy {' '.join(policies)}; leave it out")


def check_validation(data: Any) -> None:
    """See that the episodes to validate on are others than those to train on.

    Raises:
        ValueError: If they are the same.
    """
    whole = [entry.name for entry in entries_of(data.dataset) if "split" in entry.ignores]
    roots = [data.validation_root or data.data_root, data.data_root]
    places = [root and os.path.realpath(os.path.expanduser(root)) for root in roots]
    is_elsewhere = places[0] != places[1]
    if whole and not is_elsewhere:
        raise ValueError(
            f"validation_root: the data set {whole[0]!r} is one split, so that the episodes of `data_root` would be "
            "trained on and validated on, and the best policy chosen by them; pass another, with episodes that are not "
            "trained on"
        )
    if not whole and not is_elsewhere and data.validation_split == data.split:
        raise ValueError(
            f"validation_split: expected another split than the one that is trained on, got {data.split!r} for both"
        )


def check_shots(data: Any, episodes: EpisodeDataset, *, default: int) -> None:
    """See that episodes whose number of supports is fixed have the one that is asked for.

    Args:
        data: The arguments, a `TrainingDataArguments`.
        episodes: What they load.
        default: The number of supports where nobody asks for one; it fits any.

    Raises:
        ValueError: If the first episode has another.
    """
    found = len(episodes[0].support)
    if data.shots not in (found, default):
        raise ValueError(
            f"shots: the data set {data.dataset!r} has episodes of {found} supports, got {data.shots}; leave it out"
        )


def check_shots_drawn(data: Any, episodes: EpisodeDataset) -> None:
    """See that episodes have as many supports as may be drawn.

    Args:
        data: The arguments, a `TrainingDataArguments`.
        episodes: What they load.

    Raises:
        ValueError: If not, or a number comes twice.
    """
    drawn, most = data.shots_drawn, len(episodes[0].support)
    if len(set(drawn)) < len(drawn):
        raise ValueError(f"shots_drawn: expected different numbers of supports, got {drawn}")
    if max(drawn) > most:
        raise ValueError(
            f"shots_drawn: expected at most {most}, the supports of an episode, got {max(drawn)}; raise `shots`, or "
            "leave out larger ones"
        )


def not_empty(episodes: EpisodeDataset, split: str) -> EpisodeDataset:
    """Return the episodes, if there are any; what was left out is said, never silent."""
    skipped = ", ".join(f"{reason}: {count}" for reason, count in getattr(episodes, "skipped", {}).items())
    if len(episodes) == 0:
        raise ValueError(
            f"split {split!r} has no episode; an episode needs one picture more of the same object than `shots`, so "
            f"label more pictures in this split, or lower `shots`. Skipped: {skipped or 'nothing'}"
        )
    if described := getattr(episodes, "described", ""):
        print(f"split {split!r}: {described}", file=sys.stderr)
    if skipped:
        print(f"split {split!r}: {len(episodes)} episodes; skipped: {skipped}", file=sys.stderr)
    return episodes
