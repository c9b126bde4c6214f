"""The policies that a run of stage 1 leaves, in transformers' format."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from focus_agents.models.adapters import is_quantized
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import load_training_state, save_policy
from focus_agents.runs.folder import RunDirectory
from focus_agents.sft.model import build_model
from focus_agents.sft.plan import SFTPlan


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that a training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def whole_policy(plan: SFTPlan, weights: Mapping[str, torch.Tensor]) -> Any:
    """Load the model of a run once more, on the CPU, with other weights.

    Args:
        plan: Of the run.
        weights: The trained parameters by name, whole.
    """
    model = build_model(plan.model, plan.config)
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            parameter.copy_(weights[name])
    return model


def write_policies(
    plan: SFTPlan, model: Any, processor: VLMProcessor, *, best: Path | None, warn: Callable[[str], None]
) -> None:
    """Write the last policy and the best, as `final` and `best` among the run's checkpoints.

    Args:
        plan: Of the run.
        model: With the last weights, whole; has those of the best afterwards.
        processor: Its processor.
        best: The checkpoint of the best policy; None: it is the last.
        warn: As for `save_policy`.

    Raises:
        StorageError: If one cannot be written.
    """
    checkpoints = RunDirectory(plan.run_path).checkpoints
    _export(plan, checkpoints / "final", model, processor, warn)
    if best is not None:
        load_training_state(best, trained_parameters(model))
        _export(plan, checkpoints / "best", model, processor, warn)


def _export(plan: SFTPlan, folder: Path, model: Any, processor: VLMProcessor, warn: Callable[[str], None]) -> None:
    """Save a policy; the model that trains keeps its adapters, which merging uses up."""
    form = plan.schedule.save
    model = model if is_quantized(model) else model.cpu()
    model = model if form == "adapter" else copy.deepcopy(model)
    save_policy(folder, model, processor, template=plan.template, pictures=plan.pictures, form=form, warn=warn)
