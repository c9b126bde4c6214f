"""Record the size at which a model sees pictures: in training, and in validation, as a saved policy's folder has it.

The folder's image processor keeps the model's own limits, so that whoever loads it elsewhere is not bound by ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.parts import family_of_source, load_image_processor, readable_source
from focus_agents.models.loading.prompts import described_entry, policy_file
from focus_agents.models.shipped import model_name

TRAINING, VALIDATION = "max_image_tokens", "validation_max_image_tokens"
"""The names of these settings in `POLICY_FILE`, as the settings are called."""


@dataclass(frozen=True, slots=True)
class PictureBudget:
    """The most tokens of a picture; None: the model's own limit.

    Attributes:
        training: In training.
        validation: In the validation that a run's summary reports.
    """

    training: int | None = None
    validation: int | None = None

    def entries(self) -> dict[str, Any]:
        """Return what `POLICY_FILE` says of it; nothing where the model's own limit holds throughout."""
        if self == PictureBudget():
            return {}
        return {"pictures": {TRAINING: self.training, VALIDATION: self.validation}}

    def describe(self) -> str:
        """Return it in words, as in "352 tokens in training, 2938 in validation"."""
        training, validation = (
            "the model's own limit" if most is None else f"{most:,} tokens" for most in (self.training, self.validation)
        )
        return training if self.training == self.validation else f"{training} in training, {validation} in validation"


def recorded_budget(name_or_path: str | Path) -> PictureBudget:
    """Return the budget that a saved policy was trained and validated at; nothing of the kind: the model's own limits.

    Args:
        name_or_path: As for `focus_agents.models.loading.load_model`.

    Raises:
        CheckpointError: If the folder's `POLICY_FILE` cannot be read, or names something else than whole numbers in
            which the model sees something.
    """
    name = model_name(name_or_path)
    source = readable_source(name)
    file = policy_file(name, source)
    if file is None:
        return PictureBudget()
    try:
        pictures = described_entry(file, "pictures")
        limits = [pictures.get(key) for key in (TRAINING, VALIDATION)]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: expected a saved policy's description in JSON ({error})") from error
    for key, limit in zip((TRAINING, VALIDATION), limits, strict=True):
        if limit is not None and (type(limit) is not int or limit < 1):
            raise CheckpointError(f"{file}: expected a whole number above 0 as {key}, or null, got {limit!r}")
        if limit is not None and source is not None:
            try:
                load_image_processor(source, family_of_source(source), limit)
            except ValueError as error:  # of too few tokens, by the name of a setting
                reason = str(error).removeprefix(f"{TRAINING}: ")
                raise CheckpointError(f"{file}: {key}: {reason}; correct it there, or write null") from error
    return PictureBudget(*limits)


def picture_budget(
    name_or_path: str | Path, *, training: int | None = None, validation: int | None = None
) -> PictureBudget:
    """Return the budget of a run: what is asked for, else what the policy's folder records.

    Where nothing is recorded, pictures are validated as large as they are trained on.

    Args:
        name_or_path: Where the run starts, as for `focus_agents.models.loading.load_model`.
        training: Most tokens of a picture in training, if somebody asks for a number.
        validation: Likewise in validation, and in all that only answers.

    Raises:
        CheckpointError: As `recorded_budget`.
    """
    if training is not None and validation is not None:
        return PictureBudget(training, validation)
    recorded = recorded_budget(name_or_path)
    if recorded == PictureBudget():
        return PictureBudget(training, training if validation is None else validation)
    return PictureBudget(
        recorded.training if training is None else training,
        recorded.validation if validation is None else validation,
    )
