"""A policy as one folder for other programs: transformers, PEFT and vLLM load it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import has_adapters, merge_adapters
from focus_agents.models.loading import check_model, load_config, load_model, load_template
from focus_agents.models.loading.forms import check_mergeable
from focus_agents.models.loading.part_files import TEMPLATE_TEXT
from focus_agents.models.loading.places import NEW_MODELS, POLICY_FILE, ModelFiles
from focus_agents.models.loading.saved_adapters import adapter_weights
from focus_agents.models.loading.sources import ModelSource, find_source
from focus_agents.models.loading.weight_files import stored_types
from focus_agents.models.pictures import recorded_budget
from focus_agents.models.processing import PROCESSOR_FILE
from focus_agents.models.settings import ExportDtype, ExportForm
from focus_agents.models.shipped import SHIPPED_MODELS, WEIGHTS
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.target import ADAPTER_FOLDER, check_target

OF_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", ".md")
OLD_TEMPLATE = "chat_template.json"
"""Where older releases of transformers keep what is in `TEMPLATE_TEXT` now."""
OWN = ("config.json", POLICY_FILE, "adapter_config.json")
"""Endings and names of files that an export does not take over from the base as they are."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""By the names of safetensors."""


def export_policy(
    name_or_path: str,
    directory: Path,
    *,
    dtype: ExportDtype = "auto",
    form: ExportForm = "merged",
    documents: Mapping[str, str] | None = None,
) -> Path:
    """Write a policy anew, its adapter merged or alone.

    Args:
        name_or_path: As for `load_model`.
        directory: The new folder; an older policy there is replaced once the new one is whole.
        dtype: Of the weights; "auto": as they are kept, and those of an adapter and its base as the finer of the two.
            They are merged in float32.
        form: Whole weights, or the adapter in the names of this release of PEFT.
        documents: Further text files by name, such as a card.

    Returns:
        `directory`.

    Raises:
        CheckpointError: If there is no such model, or no adapter that could be written, or something would be lost: the
            folder holds other things than a policy, or is, holds or lies inside one that the model is read from.
        StorageError: If the folder cannot be written.
    """
    source = find_source(name_or_path)
    check_target(directory, source)
    processor = check_model(name_or_path)
    if form == "adapter" and source.adapter is None:
        beside = Path(source.files.place) / ADAPTER_FOLDER
        advice = f"name {beside}, which is the adapter" if beside.is_dir() else "export them as merged"
        raise CheckpointError(f"model {name_or_path!r}: expected an adapter to write, got whole weights; {advice}")
    if source.place in NEW_MODELS:
        raise CheckpointError(f"model {name_or_path!r}: expected trained weights to export; train it first")
    if form == "merged":
        check_mergeable(source)
    own = _kept_dtype(source, load_config(name_or_path)) if dtype == "auto" else getattr(torch, dtype)
    model = load_model(name_or_path, dtype=own if source.adapter is None else torch.float32)
    if form == "merged":
        model = merge_adapters(model).to(own)
        for config in _configs(model.config):
            config.dtype = own
    elif has_adapters(model) and dtype != "auto":
        model.to(own)
    prompt: dict[str, Any] = {"template": load_template(name_or_path), "pictures": recorded_budget(name_or_path)}

    def complete(fresh: Path) -> None:
        if form == "merged":
            _take_over(source.files, fresh)
        check_target(directory, source)  # once more: the weights have taken their time

    return save_policy(directory, model, processor, **prompt, documents=documents, form=form, complete=complete)


def _kept_dtype(source: ModelSource, config: Any) -> torch.dtype:
    """Return the type that holds all weights of a policy without loss; if quantized, as its configuration says."""
    kinds = set(stored_types(source.files))
    if source.adapter is not None:
        kinds |= _kinds_of(adapter_weights(source.adapter))
    if (found := [DTYPES[kind] for kind in kinds if kind in DTYPES]) and not hasattr(config, "quantization_config"):
        return functools.reduce(torch.promote_types, found)
    said = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return said if isinstance(said, torch.dtype) else getattr(torch, str(said), torch.float32)


def _kinds_of(file: Path) -> set[str]:
    """Return the types of the tensors in a file, by the names of safetensors."""
    with safe_open(file, framework="pt") as stored:
        return {stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118 - no mapping


def _configs(config: Any) -> Iterator[Any]:
    """Yield a configuration and those of its parts, each of which names a type."""
    yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from _configs(part)


def written_types(directory: Path) -> list[str]:
    """Return in which types the weights of an export are, by the names of torch where it has one."""
    kinds = {kind for file in directory.glob("*.safetensors") for kind in _kinds_of(file)}
    return sorted(str(DTYPES[kind]).removeprefix("torch.") if kind in DTYPES else kind for kind in kinds)


def video_processor(directory: Path) -> str | None:
    """Return the processor of transformers that makes videos ready, too, and wants torchvision for that; None: neither.

    Args:
        directory: An export with whole weights. `AutoProcessor` makes such a processor; nothing here does.
    """
    files = ModelFiles(str(directory), str(directory))
    said = files.read_json(PROCESSOR_FILE).get("processor_class") if files.has(PROCESSOR_FILE) else None
    name = said or PROCESSOR_MAPPING_NAMES.get(files.read_json("config.json").get("model_type"))
    found = processor_class_from_name(name) if isinstance(name, str) else None
    return name if found is not None and "video_processor" in found.get_attributes() else None


def _take_over(files: ModelFiles, directory: Path) -> None:
    """Copy what other programs read of a base and nothing here writes, such as settings for videos and generation."""
    for name in files.names:
        is_hidden = name.startswith((".", "adapter_"))
        is_there = (directory / name).exists() or (name == OLD_TEMPLATE and (directory / TEMPLATE_TEXT).exists())
        if not is_hidden and name not in OWN and not name.endswith(OF_WEIGHTS) and not is_there:
            shutil.copyfile(files.path(name), directory / name)


def describe_policy(name_or_path: str) -> dict[str, Any]:
    """Return what a card says of a policy beside its training: base, licence, form and prompt.

    Args:
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: If there is no such model.
    """
    source, template = find_source(name_or_path), load_template(name_or_path)
    base = None
    if source.adapter is not None:
        recorded = source.adapter.settings.get("base_model_name_or_path")
        base = source.files.place if source.files.hub is not None else recorded
    return {
        "base": base,
        "licence": licence_of(source.files),
        "is_adapter": source.adapter is not None,
        "template": template.name,
        "frame": str(template.frame),
    }


def licence_of(files: ModelFiles) -> str | None:
    """Return the licence that the card of a model names; None: it is not known."""
    place = Path(files.place)
    if place.parent == WEIGHTS and place.name in SHIPPED_MODELS:
        return "apache-2.0"
    if not files.has("README.md"):
        return None
    head = files.path("README.md").read_text(encoding="utf-8", errors="replace").split("---\n")
    try:
        found = yaml.safe_load(head[1]) if len(head) > 2 and not head[0].strip() else None
    except yaml.YAMLError:
        return None
    licence = found.get("license") if isinstance(found, dict) else None
    return licence if isinstance(licence, str) else None
