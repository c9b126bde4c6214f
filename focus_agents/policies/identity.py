"""All that decides what a policy answers, as plain values, so that answers of two of one name are never mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import focus_env
from focus_agents.errors import CheckpointError
from focus_agents.models.loading import load_config, model_folder
from focus_agents.models.weights import files_digest
from focus_agents.policies.registry import PolicySpec, parse_policy


def identity(spec: PolicySpec) -> dict[str, Any]:
    """Return all that decides a policy's answers, by name, but for its own code and the length of answers.

    Args:
        spec: The policy.

    Raises:
        ValueError: If there is no such template.
        CheckpointError: If a model's folder cannot be read.
    """
    entry, argument = parse_policy(spec.text)
    template = spec.load_template()
    return {
        "policy": spec.text,
        "weights": spec.model_digest(),
        "template": template.name,
        "frame": template.frame.value,
        "max_image_tokens": spec.max_image_tokens,
        "precision": spec.precision,
        "model_files": _model_files(argument) if entry.is_model else None,
        "version": focus_env.__version__,
        **({} if spec.engine == "transformers" else {"engine": spec.engine}),
        **entry.describe(spec),
    }


def _model_files(name_or_path: str) -> str | None:
    """A digest of a model's files beside its weights; the revision of a model on the hub; None: neither is known."""
    folder = Path(model_folder(name_or_path))
    if folder.is_dir():
        return files_digest(folder)
    try:
        return getattr(load_config(name_or_path), "_commit_hash", None)
    except CheckpointError:
        return None  # whoever loads it says why
