"""Policies on disk, in transformers' format, and states of a training to go on from. No pickle is ever loaded."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import focus_env
from focus_agents.errors import CheckpointError
from focus_agents.models.loading import POLICY_FILE
from focus_agents.models.processing import VLMProcessor
from focus_env.prompts import PromptTemplate


def save_policy(
    directory: Path, model: Any, processor: VLMProcessor, *, template: PromptTemplate | None = None
) -> Path:
    """Write a model and its processor so that the folder is either whole or as it was before.

    Args:
        directory: The new folder; an older policy there is replaced once the new one is whole.
        model: A transformers model.
        processor: Its processor.
        template: The prompt that it was trained on, if it was; whoever loads the policy asks in the same words.

    Returns:
        `directory`.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        model.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        versions = {
            "focus": focus_env.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        prompt = {} if template is None else {"prompt": {"template": template.name, "frame": str(template.frame)}}
        (fresh / POLICY_FILE).write_text(json.dumps({"versions": versions, **prompt}, indent=2) + "\n")
        if directory.exists():
            shutil.move(directory, old)
        shutil.move(fresh, directory)
    return directory


def save_training_state(
    directory: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write what a training needs to go on.

    Args:
        directory: Where to write; exists.
        parameters: The trained ones, by name.
        optimizer: Over these parameters, in this order.
        progress: Plain numbers and texts.
    """
    save_file({name: p.detach().contiguous() for name, p in parameters.items()}, directory / "parameters.safetensors")
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    (directory / "progress.json").write_text(json.dumps(dict(progress)) + "\n")


def load_training_state(
    directory: Path, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Read what `save_training_state` wrote into the parameters and the optimizer.

    Returns:
        The progress.

    Raises:
        CheckpointError: If a file is missing or damaged, or the parameters are another model's.
    """
    try:
        stored = load_file(directory / "parameters.safetensors")
        optimizer_state = torch.load(directory / "optimizer.pt", weights_only=True, map_location="cpu")
        progress: dict[str, Any] = json.loads((directory / "progress.json").read_text())
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {directory}: could not be read ({error}); go on from another one or start a new run"
        ) from error
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    for name in sorted(shapes.keys() | stored.keys()):
        found = tuple(stored[name].shape) if name in stored else None
        if shapes.get(name) != found:
            raise CheckpointError(
                f"checkpoint {directory}: expected the parameters of the model that is trained, with {name} of shape "
                f"{shapes.get(name)}, got {found}; it belongs to another model or other adapters"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])
    optimizer.load_state_dict(optimizer_state)
    return progress
