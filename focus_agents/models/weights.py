"""Whether loaded weights are numbers that a model can compute with, and which files a model has beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def bad_weights(model: Any, folder: Path) -> str | None:
    """Return what is wrong with a model's weights; None: nothing that can be seen.

    Args:
        model: As it was loaded.
        folder: Its files, of which those that end with .safetensors are looked at; a path that is none: no file is.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    floats = [(name, values) for name, values in named if torch.is_floating_point(values) and not values.is_meta]
    if bad := [(name, values) for name, values in floats if not bool(torch.isfinite(values).all())]:
        name, values = bad[0]
        kind = "nan" if bool(torch.isnan(values).any()) else "infinite"
        return f"{len(bad)} of {len(floats)} weights hold numbers that are not finite, e.g. {name} ({kind})"
    if getattr(model.config, "quantization_config", None) is not None:
        return None
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - no mapping
                kind = stored.get_slice(name).get_dtype()
                if name.endswith((".weight", ".bias")) and kind not in _FLOATS:
                    return f"{file.name} holds {name} in {kind}, whole numbers, and config.json names no quantization"
    return None


def files_digest(folder: Path) -> str:
    """Return a digest of the files of a model's folder beside its weights in safetensors.

    These are its configuration, its tokenizer and the like; notes (*.md) and hidden files do not count.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix not in (".safetensors", ".md") and not file.name.startswith("."):
            digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]
