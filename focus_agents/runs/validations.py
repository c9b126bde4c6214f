"""The validations of a run through time: the answers of each, and a picture of some of them.

    validation/before.jsonl                before training
    validation/iteration_000100.jsonl      after 100 iterations; `step_000100.jsonl` in stage 1
    validation/after.jsonl                 after training
    samples/validation_000100.png          answers beside those before training

Where there are more than `MOST_VALIDATIONS`, every other one goes, so that those that stay reach over the whole run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from focus_agents.runs.answers import write_answers
from focus_env.metrics import ScoredAnswer

MOST_VALIDATIONS = 40
_NAME = re.compile(r"(?:iteration|step)_(\d+)\.jsonl")


def keep_validation(run: Path, counter: str, position: int, answers: Sequence[ScoredAnswer]) -> None:
    """Keep the answers of a validation on the way.

    Args:
        run: The run's folder.
        counter: "iteration" or "step".
        position: How many of them are done.
        answers: In the order of the episodes.

    Raises:
        StorageError: If the file cannot be written.
    """
    write_answers(run / "validation" / f"{counter}_{position:06d}.jsonl", answers)
    kept = list(list_validations(run))
    if len(kept) > MOST_VALIDATIONS:
        for gone in kept[1:-1:2]:
            _remove(run, gone)


def list_validations(run: Path) -> dict[int, Path]:
    """Return the files of the validations on the way by what was done before them, in ascending order."""
    found = {
        int(match[1]): path for path in (run / "validation").glob("*_*.jsonl") if (match := _NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def rewind_validations(run: Path, num_done: int) -> None:
    """Drop the validations after an iteration or step."""
    for position in list_validations(run):
        if position > num_done:
            _remove(run, position)


def validation_picture(run: Path, position: int) -> Path:
    """Return where the picture of a validation is."""
    return run / "samples" / f"validation_{position:06d}.png"


def _remove(run: Path, position: int) -> None:
    list_validations(run)[position].unlink(missing_ok=True)
    validation_picture(run, position).unlink(missing_ok=True)
