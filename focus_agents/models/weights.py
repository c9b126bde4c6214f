"""Check that loaded weights are numbers that a model can compute with, and list the files that lie beside them."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from safetensors import safe_open
from torch.distributed.tensor import DTensor
from transformers.utils import cached_file

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Types of numbers in safetensors that are read as they are."""


def is_finite(values: Any) -> bool:
    """Return whether an array of torch or NumPy holds finite numbers; one of whole numbers does."""
    if isinstance(values, DTensor):  # all processes that hold a share take part, and return the same
        verdict = torch.tensor(int(is_finite(values.to_local())), device=values.device)
        torch.distributed.all_reduce(verdict, torch.distributed.ReduceOp.MIN, group=values.device_mesh.get_group())
        return bool(verdict)
    if isinstance(values, torch.Tensor):
        return values.is_meta or not values.is_floating_point() or bool(torch.isfinite(_countable(values)).all())
    is_real = isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.floating)
    return not is_real or bool(np.isfinite(values).all())


def _countable(values: torch.Tensor) -> torch.Tensor:
    """Return floats in a type that torch can tell infinite ones in, which it cannot in 8 bits."""
    return values.float() if values.element_size() == 1 else values


def bad_weights(model: Any, folder: Path) -> str | None:
    """Return what is wrong with a model's weights; None: nothing that can be seen.

    Args:
        model: As it was loaded.
        folder: Its files, of which those that end with .safetensors are looked at; a path where nothing is: no file is.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    floats = [(name, values) for name, values in named if torch.is_floating_point(values) and not values.is_meta]
    if bad := [(name, values) for name, values in floats if not is_finite(values)]:
        name, values = bad[0]
        kind = "nan" if bool(torch.isnan(_countable(values)).any()) else "infinite"
        return f"{len(bad)} of {len(floats)} weights hold numbers that are not finite, e.g. {name} ({kind})"
    if getattr(model.config, "quantization_config", None) is not None:
        return None
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - no mapping
                if fault := kind_fault(file.name, name, stored.get_slice(name).get_dtype()):
                    return fault
    return None


def kind_fault(file: str, name: str, kind: str) -> str | None:
    """Return what is wrong with the type of a tensor's numbers, of a model that is not quantized; None: nothing.

    Args:
        file: Name of the tensor's file.
        name: Of the tensor.
        kind: By the names of safetensors.
    """
    if not name.endswith((".weight", ".bias")) or kind in FLOATS:
        return None
    return f"{file} holds {name} in {kind}, whole numbers, and config.json names no quantization"


def files_folder(place: str, revision: str | None = None) -> Path:
    """Return the folder of a model's files: the place itself, or where the hub's cache has what was loaded by a name.

    Args:
        place: A folder, or a name on the hub. Of a name that the cache does not know, a path where nothing is.
        revision: On the hub.
    """
    if not Path(place).is_dir():
        with contextlib.suppress(Exception):  # no cache, no such name: whatever the library says of that
            if found := cached_file(place, "config.json", revision=revision, local_files_only=True):
                return Path(found).parent
    return Path(place)


def files_digest(folder: Path) -> str:
    """Return a digest of the files of a model's folder beside its weights in safetensors.

    These are its configuration, its tokenizer and the like; notes (*.md) and hidden files do not count.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix not in (".safetensors", ".md") and not file.name.startswith("."):
            digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]
