"""Keep the answers that were sampled in training: enough to draw them, compressed, and bounded.

    samples/rollouts-000001.jsonl.gz     a line for each group; the number is its first iteration

Complete groups are kept of the first `NUM_COMPLETE` iterations and of every `COMPLETE_INTERVAL`-th one. Of the others
each group keeps its best and its worst answer. A part that has reached `PART_BYTES` is followed by another; of more
than `MOST_PARTS` the first and the newest stay. `zcat` reads a part, and so does `read_samples`, which inflates only
the iterations that it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.errors import CheckpointError
from focus_agents.rollout.records import RolloutGroup
from focus_agents.runs.files import to_json_lines
from focus_agents.runs.members import append_member, cut_members, list_members, read_member
from focus_env.types import Box

NUM_COMPLETE = 10
COMPLETE_INTERVAL = 10
PART_BYTES = 2 * 2**20
MOST_PARTS = 32
MAX_TEXT = 2000
"""Characters kept of an answer."""
_DIGITS = 6
_PARTS = "rollouts-*.jsonl.gz"


def is_complete(iteration: int) -> bool:
    """Tell whether all answers of an iteration are kept."""
    return iteration <= NUM_COMPLETE or iteration % COMPLETE_INTERVAL == 0


def group_record(
    iteration: int, group: RolloutGroup, advantages: npt.NDArray[np.float64] | None, *, is_whole: bool
) -> dict[str, Any]:
    """Return what is kept of a group, as plain values.

    Args:
        iteration: The iteration that learned from it.
        group: The group.
        advantages: [G]; None: nobody has computed them.
        is_whole: Keep all answers; else the best and the worst.

    Returns:
        `iteration`, `episode_index`, `episode`, `image_wh` of the query, `target`, `supports` (each with `box` and
        `image_wh`), `group_size`, `mean_reward`, and `answers`, see `_answer`; boxes are `xyxy` in pixels, or null.
        `error` says why there are no answers where there are none.
    """
    first = group.answers[0] if group.answers else None
    record: dict[str, Any] = {
        "iteration": iteration,
        "episode_index": group.episode_index,
        "episode": None if first is None else first.episode_id,
        "image_wh": None if first is None else first.image_wh,
        "target": None if first is None else _rounded(first.target_box),
        "supports": [{"box": _rounded(box), "image_wh": wh} for box, wh in group.supports],
        "group_size": len(group.rewards),
        "mean_reward": round(float(group.rewards.mean()), _DIGITS),
    }
    if group.error is not None:
        record["error"] = str(group.error)
    places: Sequence[int] = range(len(group.answers))
    if not is_whole and group.answers:
        best, worst = int(group.rewards.argmax()), int(group.rewards.argmin())
        if best == worst:  # all are equal
            worst = (best + 1) % len(group.answers)
        places = sorted({best, worst})
    return {**record, "answers": [_answer(group, place, advantages) for place in places]}


def _answer(group: RolloutGroup, place: int, advantages: npt.NDArray[np.float64] | None) -> dict[str, Any]:
    """Return the kept part of an answer; a flag that is false, and a value that is not known, are left out."""
    answer, completion = group.answers[place], group.generation.completions[place]
    terms = group.reward_terms[place] if place < len(group.reward_terms) else {}
    flags = {
        "is_cut": not completion.is_finished,
        "is_strict": answer.is_strict,
        "is_whole_image": answer.is_whole_image,
        "is_support_copy": answer.is_support_copy,
    }
    kept: dict[str, Any] = {
        "number": place,
        "text": completion.text[:MAX_TEXT],
        "box": _rounded(answer.box),
        "status": answer.status,
        "iou": round(answer.iou, _DIGITS),
        "credit": round(answer.credit, _DIGITS),
        "reward": round(float(group.rewards[place]), _DIGITS),
        "terms": {name: round(value, _DIGITS) for name, value in terms.items()},
        "num_tokens": len(completion.token_ids),
        **{name: True for name, value in flags.items() if value},
    }
    if advantages is not None:
        kept["advantage"] = round(float(advantages[place]), _DIGITS)
    if completion.error is not None:
        kept["error"] = completion.error
    return kept


def _rounded(box: Box | None) -> list[float] | None:
    return None if box is None else [round(float(value), 3) for value in box]


def append_samples(
    folder: Path,
    iteration: int,
    groups: Sequence[RolloutGroup],
    advantages: npt.NDArray[np.float64] | None = None,
) -> None:
    """Keep what was sampled in an iteration; see the module's docstring.

    Args:
        folder: Where the parts are.
        iteration: It has to be larger than those before.
        groups: Its groups.
        advantages: [N, G] of the groups.

    Raises:
        StorageError: If the file cannot be written; then it holds what it held before.
    """
    is_whole = is_complete(iteration)
    rows = [None] * len(groups) if advantages is None else advantages
    records = [group_record(iteration, group, row, is_whole=is_whole) for group, row in zip(groups, rows, strict=True)]
    parts = _parts(folder)
    if not parts or parts[-1].stat().st_size >= PART_BYTES:
        parts.append(folder / f"rollouts-{iteration:06d}.jsonl.gz")
    append_member(parts[-1], iteration, to_json_lines(records).encode())
    for part in parts[1 : max(0, len(parts) - MOST_PARTS) + 1]:
        part.unlink(missing_ok=True)


def sampled_iterations(folder: Path) -> list[int]:
    """Return the iterations of which something is kept, in ascending order."""
    return [member.number for part in _parts(folder) for member in list_members(part)]


def read_samples(folder: Path, iterations: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
    """Yield what is kept of sampled groups, as `group_record` gives it, in the order in which they were sampled.

    Args:
        folder: Where the parts are, `samples/` of a run.
        iterations: Of which iterations; None: of all.

    Raises:
        CheckpointError: If a part is damaged elsewhere than at its end, which a kill may have cut.
    """
    wanted = None if iterations is None else set(iterations)
    for part in _parts(folder):
        for member in list_members(part):
            if wanted is not None and member.number not in wanted:
                continue
            try:
                yield from map(json.loads, read_member(part, member).splitlines())
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{part}: expected sampled groups ({error}); delete the file") from error


def rewind_samples(folder: Path, num_done: int) -> None:
    """Drop what was sampled after an iteration."""
    for part in _parts(folder):
        if _first_iteration(part) > num_done:
            part.unlink()
        elif (members := list_members(part)) and members[-1].number > num_done:
            cut_members(part, num_done)


def _parts(folder: Path) -> list[Path]:
    """Return the parts in the order of their iterations."""
    return sorted(folder.glob(_PARTS), key=_first_iteration)


def _first_iteration(part: Path) -> int:
    number = part.name.removeprefix("rollouts-").partition(".")[0]
    return int(number) if number.isdecimal() else 0
