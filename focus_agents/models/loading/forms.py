"""In which forms a model can be saved: whole weights, with adapters merged, or the adapters alone."""

from __future__ import annotations

import torch
from transformers import AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import merge_fault
from focus_agents.models.loading.adapter_settings import adapter_fault, read_settings
from focus_agents.models.loading.part_files import read_config
from focus_agents.models.loading.places import NEW_MODELS
from focus_agents.models.loading.saved_adapters import wrap_base
from focus_agents.models.loading.sources import ModelSource, find_source
from focus_agents.models.settings import Quantization, SavedForm


def check_form(
    form: SavedForm, name_or_path: str, *, lora_rank: int | None, quantization: Quantization = "none"
) -> None:
    """Check that what shall be saved of a training can be.

    Args:
        form: What shall be saved.
        name_or_path: The model that is trained, as for `load_model`.
        lora_rank: Rank of new adapters; None: there are none.
        quantization: Of the base under them.

    Raises:
        ValueError: If there is no adapter to save, nobody could find its base, or a quantized base is to be merged.
        CheckpointError: If the adapter that is trained on cannot be merged.
    """
    if quantization != "none" and form != "adapter":
        raise ValueError(
            f"save: expected adapter with quantization {quantization!r}, got {form!r}; nothing is merged into rounded "
            "weights, so merge it by `focus export`, which loads the whole base"
        )
    source = find_source(name_or_path)
    if form != "adapter":
        check_mergeable(source)
    if form == "merged":
        return
    if lora_rank is None and source.adapter is None:
        reason = "without `lora_rank` all weights are trained, and there is no adapter"
    elif source.place in NEW_MODELS:
        reason = f"the weights of {source.place} are made anew by each run, so nobody could find the adapter's base"
    elif lora_rank is not None and source.adapter is not None:
        reason = (
            f"new adapters lie on {name_or_path} merged, which is in no folder; train on that adapter without "
            "`lora_rank`, or make one model of it first by `focus export`"
        )
    else:
        return
    raise ValueError(f"save: expected merged, got {form}: {reason}")


def check_mergeable(source: ModelSource) -> None:
    """Check that an adapter can be added to the weights of its base, by settings alone; no weights are read.

    Raises:
        CheckpointError: If it does what merged weights could not, see `merge_fault`.
    """
    adapter = source.adapter
    if adapter is None:
        return
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(read_config(source.files))
        wrapped = wrap_base(model, adapter, read_settings(adapter), is_empty=True)
    if (fault := merge_fault(wrapped)) is not None:
        reason = (
            f"it cannot be merged, since its tensors {fault}; keep it as an adapter, and train on it without "
            "`lora_rank`"
        )
        raise CheckpointError(adapter_fault(adapter, reason))
