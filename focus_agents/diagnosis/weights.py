"""Loaded weights that are numbers, and yet not those of a model: zeros, tensors that nothing takes, unscaled bytes."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open

from focus_agents.diagnosis.findings import Section
from focus_agents.models.adapters import base_model
from focus_agents.models.loading.places import NEW_MODELS
from focus_agents.models.loading.saved_adapters import adapter_weights
from focus_agents.models.loading.sources import ModelSource, SavedAdapter, find_source
from focus_agents.models.loading.weight_files import INDEX_FILE, WEIGHTS_FILE, stored_types
from focus_agents.models.shipped import model_name


def check_weights(section: Section, model: Any, name: str) -> None:
    """Look at a model's weights, and at what its files hold beside them.

    Args:
        section: Gets the notes.
        model: As it was loaded, or made ready to be trained.
        name: As `load_model` takes it.
    """
    source, base = find_source(model_name(name)), base_model(model)
    if source.place in NEW_MODELS:
        return
    _check_numbers(section, base)
    _check_files(section, source, base)
    if source.adapter is not None:
        _check_adapter(section, source, source.adapter)


def _check_numbers(section: Section, base: Any) -> None:
    """Find matrices that hold one number throughout: no training leaves such."""
    matrices = [
        (name, values)
        for name, values in base.named_parameters()
        if name.endswith(("weight", "_proj")) and "lora_" not in name and _is_matrix(values)
    ]
    flat = [(name, float(values.detach().flatten()[0])) for name, values in matrices if _is_flat(values)]
    section.facts["flat_weights"] = len(flat)
    if not flat:
        return
    name, number = flat[0]
    said = f"{len(flat)} of {len(matrices)} matrices of its weights hold one number throughout, e.g. {name} {number:g}"
    if len(flat) == len(matrices):
        section.fault(f"{said}: such files stand in for weights; take the weights from where the model is from")
    else:
        section.warn(f"{said}; compare the files with those where the model is from")


def _is_matrix(values: torch.Tensor) -> bool:
    return values.ndim >= 2 and values.is_floating_point() and not values.is_meta and values.numel() > 1


def _is_flat(values: torch.Tensor) -> bool:
    low, high = torch.aminmax(values.detach())
    return bool(low == high)


def _check_files(section: Section, source: ModelSource, base: Any) -> None:
    """Find tensors that no module takes, and numbers of 8 bits that are read without their scales."""
    unused: list[str] = getattr(base, "unused_tensors", [])
    types = stored_types(source.files)
    section.facts |= {"unused_tensors": len(unused), "stored_types": dict(types)}
    if unused:
        section.warn(
            f"no module takes {len(unused)} of the tensors in its files, e.g. {unused[0]}; see whether config.json is "
            "that of these weights"
        )
    narrow = {name: count for name, count in types.items() if name.startswith(("F8", "F4", "F6"))}
    if not narrow or getattr(base.config, "quantization_config", None) is not None:
        return
    listed = ", ".join(f"{count} in {name}" for name, count in sorted(narrow.items()))
    said = f"tensors in its files have 8 bits or less ({listed}), and config.json names no quantization_config"
    if scales := [name for name in unused if "scale" in name]:
        section.fault(f"{said}, so that their scales, e.g. {scales[0]}, are left out; take the model's own config.json")
    else:
        section.warn(f"{said}: they are read as they are, without scales; take those in 16 bits if there are some")


def _check_adapter(section: Section, source: ModelSource, adapter: SavedAdapter) -> None:
    """Say where whole weights lie beside an adapter, and where an adapter changes nothing."""
    if any(adapter.files.has(adapter.name_of(name)) for name in (WEIGHTS_FILE, INDEX_FILE)):
        recorded = adapter.settings.get("base_model_name_or_path")
        used = "onto these weights" if source.files is adapter.files else f"onto {source.place}, not onto these weights"
        section.warn(
            f"{adapter.files.place} holds whole weights and an adapter, whose own base is {recorded!r}; the adapter is "
            f"put {used}; if one of the two alone is meant, move the other to a folder of its own"
        )
    with safe_open(adapter_weights(adapter), framework="pt") as stored:
        last = [name for name in stored.keys() if "lora_B" in name or "lora_embedding_B" in name]  # noqa: SIM118
        if last and not any(bool(stored.get_tensor(name).float().any()) for name in last):
            section.warn("its adapter changes nothing: the second of each pair of its matrices is zero throughout")
