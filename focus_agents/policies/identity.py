"""All that decides what a policy answers, as plain values, so that answers of two of one name are never mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import focus_env
from focus_agents.errors import CheckpointError
from focus_agents.policies.registry import PolicySpec, parse_policy
from focus_env.prompts import PromptTemplate, describe_template, is_shipped


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
        **({} if is_shipped(template) else {"template_fields": _fields(template)}),
        "max_image_tokens": spec.max_image_tokens,
        "precision": spec.precision,
        "model_files": _model_files(argument) if entry.is_model else None,
        "version": focus_env.__version__,
        **({} if spec.engine == "transformers" else {"engine": spec.engine}),
        **entry.describe(spec),
    }


def _fields(template: PromptTemplate) -> object:
    """Return the words of a template that is none of this package, since two of one name may differ."""
    return describe_template(template).get("fields")


def _model_files(name_or_path: str) -> str | None:
    """Return a digest of a model's files beside its weights, or its commit on the hub; None: neither is known."""
    from focus_agents.models.loading import NEW_MODELS  # here: a policy without a model needs no torch
    from focus_agents.models.loading.sources import find_source
    from focus_agents.models.weights import files_digest

    try:
        source = find_source(name_or_path)
    except CheckpointError:
        return None  # whoever loads it says why
    if source.place in NEW_MODELS:
        return None
    base = source.files.revision or files_digest(Path(source.files.place))
    if source.adapter is None:
        return base
    adapter = source.adapter
    own = adapter.files.revision or files_digest(Path(adapter.files.place) / adapter.folder)
    return f"{own} on {base}"
