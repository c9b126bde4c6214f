"""Digests of models, by which results of two of one name are told apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

from focus_agents.models.loading.places import model_folder


def weights_digest(name_or_path: str) -> str | None:
    """SHA-256 in hex of a model's weights, all files in the order of their names; None if they lie in no folder."""
    files = sorted(Path(model_folder(name_or_path)).glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()
