"""Whole models with their weights: to answer, to train, and to compute features."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import (
    add_adapters,
    base_model,
    family_of,
    merge_adapters,
    model_parts,
    train_adapter,
)
from focus_agents.models.attention import choose_attention
from focus_agents.models.devices import chosen_device
from focus_agents.models.loading.adapter_settings import read_settings
from focus_agents.models.loading.forms import check_mergeable
from focus_agents.models.loading.part_files import read_config
from focus_agents.models.loading.parts import family_of_source, load_processor
from focus_agents.models.loading.places import NEW_MODELS, VISION_MODELS, ModelFiles, not_loaded
from focus_agents.models.loading.saved_adapters import check_base, note_base, put_adapter
from focus_agents.models.loading.sources import ADAPTER_CONFIG, find_source, load_files
from focus_agents.models.loading.tensors import empty_model, layers_fault, missing_fault, tensors_fault
from focus_agents.models.loading.weight_files import stored_tensors, weights_fault
from focus_agents.models.quantization import check_quantization, loading_options
from focus_agents.models.settings import Attention, FinetuningSettings, Precision, Quantization
from focus_agents.models.shipped import model_name
from focus_agents.models.weights import bad_weights, files_folder

S = TypeVar("S", bound=FinetuningSettings)

_REPORTING = logging.getLogger("transformers.modeling_utils")
"""Logs how the tensors of the files fit a model."""


def load_model(
    name_or_path: str | Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization = "none",
) -> Any:
    """Load a model onto the CPU.

    Args:
        name_or_path: `"focus-small"` or one of `SHIPPED_MODELS`; `"tiny"` or `"small"` for a model with new weights; a
            folder written by `save_pretrained`; or a name on the hub, e.g. `"Qwen/Qwen2-VL-7B-Instruct"`; each whole
            or an adapter in PEFT's format, as `focus_agents.models.references` has it. Code from the hub is
            never run, and no pickle is read.
        seed: For new weights.
        dtype: Of the weights.
        quantization: "4bit" holds them in 4 bits on the GPU, see `focus_agents.models.quantization`.

    Raises:
        CheckpointError: If there is no such model, no family has its model type, or an adapter is of another base.
        ValueError: If new weights are to be quantized.

    Returns:
        The model; with an adapter, PEFT's around it.
    """
    source = find_source(model_name(name_or_path))
    if source.place in NEW_MODELS:
        if quantization != "none":
            raise ValueError(
                f"quantization: expected none for {source.place}, whose weights are new, got {quantization!r}"
            )
        return NEW_MODELS[source.place].build_model(load_processor(source.place).tokenizer, seed=seed).to(dtype)
    family_of_source(source)  # a type without a family is refused before gigabytes are read
    options: dict[str, Any] = {"dtype": dtype}
    if quantization != "none":
        options = loading_options(read_config(source.files))
    model = load_whole(AutoModelForImageTextToText, source.files, **options)
    if source.adapter is None:
        return model
    model = put_adapter(model, source.adapter)
    check_base(source)
    note_base(model, source)
    return model


def as_trained(settings: S, name_or_path: str) -> S:
    """Return settings as they come to count for a model: the adapter that it has is trained on, at its own rank.

    Args:
        settings: How a model is to be trained.
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: If there is no such model.
    """
    adapter = None if settings.lora_rank is not None else find_source(name_or_path).adapter
    return settings if adapter is None else dataclasses.replace(settings, lora_rank=read_settings(adapter).r)


def load_trainable_model(
    name_or_path: str,
    *,
    seed: int = 0,
    precision: Precision = "fp32",
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    freeze_vision: bool = False,
    attention: Attention = "auto",
    quantization: Quantization = "none",
    gradient_checkpointing: bool = False,
) -> Any:
    """Load a model and make it ready to train, in training mode.

    Weights that are trained are in float32, since an update is often smaller than bfloat16 can resolve.

    Args:
        name_or_path: As for `load_model`.
        seed: For new weights.
        precision: "bf16" holds the frozen base under adapters in bfloat16; the caller computes under autocast.
        lora_rank: Rank of new LoRA adapters on the language model; one that was loaded is merged first. None trains the
            adapter that was loaded, or else all parameters.
        lora_alpha: Their scale times their rank; None: twice the rank.
        freeze_vision: Whether the vision tower stays as it is. Under adapters it does anyway.
        attention: As for `choose_attention`.
        quantization: "4bit" holds the frozen base under adapters in 4 bits, as for `load_model`.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.

    Raises:
        CheckpointError: If there is no such model, or new adapters are to lie on one that cannot be merged.
        ValueError: If a setting does not go with the others, such as 4 bits without adapters.
        MissingDependencyError: If a package or a GPU that they need is not there.
    """
    is_continued = lora_rank is None and find_source(name_or_path).adapter is not None
    is_narrow = precision == "bf16" and (lora_rank is not None or is_continued)
    check_quantization(quantization, has_adapters=lora_rank is not None or is_continued)
    if lora_rank is not None:
        check_mergeable(find_source(name_or_path))
    dtype = torch.bfloat16 if is_narrow else torch.float32
    model = load_model(name_or_path, seed=seed, dtype=dtype, quantization=quantization)
    if lora_rank is not None:
        model = merge_adapters(model)  # new ones go on top of the old
    choose_attention(model, attention, precision)
    family_of(model).batch_pictures(base_model(model))
    if gradient_checkpointing:
        base_model(model).activation_checkpointing_enable({"use_reentrant": False})
    if lora_rank is not None:
        model = add_adapters(model, rank=lora_rank, alpha=lora_alpha, seed=seed)
        note_base(model, find_source(name_or_path))
    elif is_continued:
        train_adapter(model)
    if freeze_vision:
        for parameter in model_parts(model).vision_parameters():
            parameter.requires_grad_(False)
    return model.train()


def has_frozen_vision(model: Any) -> bool:
    """Return whether the vision tower stays as it is, so that what it makes of a picture can be kept."""
    return not any(parameter.requires_grad for parameter in model_parts(model).vision_parameters())


def load_vision_model(
    model_class: Any, name_or_path: str, *, model_types: Sequence[str], device: str | torch.device = "cpu"
) -> Any:
    """Load a model that answers no prompts, to compute with: float32, in evaluation mode, without gradients.

    Args:
        model_class: Class of transformers, with `from_pretrained`.
        name_or_path: A folder written by `save_pretrained`, or a name on the hub. Only safetensors are read, and code
            from the hub is never run. With HF_HUB_OFFLINE=1 the hub is not asked.
        model_types: Which `model_type` its configuration may have.
        device: Where it computes; "auto": on a GPU where this process sees one, else on the CPU.

    Raises:
        CheckpointError: If there is no such model, it is of another type, or it lacks weights.
    """
    files = find_source(name_or_path, expected=VISION_MODELS).files
    config = read_config(files, expected=VISION_MODELS)
    if config.model_type not in model_types:
        raise CheckpointError(
            f"model {name_or_path!r}: expected one of type {' or '.join(model_types)}, got {config.model_type}; give "
            "the folder or the hub name of such a model"
        )
    model = load_whole(model_class, files, dtype=torch.float32)
    return model.to(chosen_device(str(device))).requires_grad_(
        False
    )  # in evaluation mode, as from_pretrained leaves it


def load_whole(model_class: Any, files: ModelFiles, **options: Any) -> Any:
    """Load a model that has all its weights; transformers would make up those that are missing.

    Args:
        model_class: Class of transformers, with `from_pretrained`.
        files: The model's.
        options: Further arguments of `from_pretrained`.

    Raises:
        CheckpointError: If a file or a weight is missing, cut or no number, or the weights are pickles.
    """
    if fault := weights_fault(files):
        raise CheckpointError(not_loaded(files.text, fault))
    options |= {"output_loading_info": True, "use_safetensors": True}
    try:
        with _without_adapter(files) as bare, _held_report() as report:
            model, info = load_files(model_class.from_pretrained, bare, **options)
    except CheckpointError as error:
        # Of a tensor of another shape the library says no more than that there is one.
        fault = None
        with contextlib.suppress(Exception):  # no model can be made of the configuration: the library has said so
            fault = tensors_fault(stored_tensors(files), empty_model(model_class, read_config(files)))
        if fault is None:
            raise
        raise CheckpointError(not_loaded(files.text, fault)) from error
    lack = missing_fault(info["missing_keys"]) or layers_fault(model, info["unexpected_keys"])
    if fault := lack or bad_weights(model, files_folder(files.place, files.revision)):
        raise CheckpointError(not_loaded(files.text, fault))
    for record in report:
        _REPORTING.handle(record)
    model.unused_tensors = sorted(info["unexpected_keys"])  # for whoever looks into the files
    if files.hub is not None:
        model.hub_source = f"{files.place}@{files.revision}"  # for whoever saves what becomes of it
    return model


@contextlib.contextmanager
def _held_report() -> Iterator[list[logging.LogRecord]]:
    """Hold back the table of all tensors that do not fit, which transformers logs; an error here names one of them."""
    held: list[logging.LogRecord] = []

    def passes(record: logging.LogRecord) -> bool:
        is_report = "LOAD REPORT" in record.getMessage()
        if is_report:
            held.append(record)
        return not is_report

    _REPORTING.addFilter(passes)
    try:
        yield held
    finally:
        _REPORTING.removeFilter(passes)


@contextlib.contextmanager
def _without_adapter(files: ModelFiles) -> Iterator[ModelFiles]:
    """Yield the files of a base without the adapter that PEFT has saved beside it, which transformers would load."""
    if not files.has(ADAPTER_CONFIG):
        yield files
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in files.names:
            if not name.startswith("adapter_"):
                (Path(scratch) / name).symlink_to(files.path(name).absolute())
        yield ModelFiles(files.text, scratch)
