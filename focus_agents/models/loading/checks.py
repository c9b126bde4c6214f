"""Find faults of a model before its weights are read or downloaded: all commands ask here alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForImageTextToText
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.quantizers import AutoHfQuantizer

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.part_files import check_generation
from focus_agents.models.loading.parts import check_fit, load_config, load_processor
from focus_agents.models.loading.places import NEW_MODELS, not_loaded
from focus_agents.models.loading.saved_adapters import check_adapter, check_base
from focus_agents.models.loading.sources import ModelSource, find_source
from focus_agents.models.loading.tensors import empty_model, tensors_fault
from focus_agents.models.loading.weight_files import stored_tensors, weight_bytes, weights_fault
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.shipped import model_name
from focus_agents.models.views import num_image_tokens

OTHER_WAY = "take the model as it was before, or serve it by vLLM and ask it as the policy openai_api"
"""Advice on a model that cannot be loaded here."""
TEST_PICTURE = (50, 70)
"""(height, width) in pixels of the picture by which an image processor is tried: no multiple of a patch."""
MOST_TEST_PIXELS = 1 << 23
"""About 2900 x 2900: no published image processor scales so small a picture up to that."""


def check_model(name_or_path: str | Path, *, max_image_tokens: int | None = None) -> VLMProcessor:
    """Check all of a model but its weights: family, quantization, tokenizer, chat template, pictures, files, adapter.

    Args:
        name_or_path: As for `load_model`.
        max_image_tokens: As for `load_processor`.

    Returns:
        Its processor.

    Raises:
        ValueError: If the model sees nothing in `max_image_tokens`.
        CheckpointError: If something is wrong; the message says what, and what to do.
    """
    source = find_source(model_name(name_or_path))
    processor = load_processor(name_or_path, max_image_tokens=max_image_tokens)
    if source.place in NEW_MODELS:
        return processor
    config = load_config(name_or_path)
    _check_quantization(source.text, config)
    check_fit(source.text, config, processor)
    _check_pictures(source.text, config, processor)
    try:
        processor.check_chat_template()
    except ValueError as error:
        raise CheckpointError(not_loaded(source.text, error)) from error
    if fault := weights_fault(source.files):
        raise CheckpointError(not_loaded(source.text, fault))
    check_generation(source.files)
    _check_weights(source, config)
    if source.adapter is not None:
        check_adapter(source.adapter, config)
        check_base(source)
    return processor


def _check_quantization(text: str, config: Any) -> None:
    """See that this machine can compute with quantized weights, where a model has such."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    try:
        AutoHfQuantizer.from_config(settings, pre_quantized=True).validate_environment(device_map=None)
    except Exception as error:  # a package or a GPU is missing, or transformers knows no such method
        reason = f"its weights are quantized by {method}, which cannot be used here ({error}); {OTHER_WAY}"
        raise CheckpointError(not_loaded(text, reason)) from error


def _check_weights(source: ModelSource, config: Any) -> None:
    """See that a model can be made of its configuration, and that the files hold its tensors.

    One far larger than its weights is refused by its size, as no tensors need be compared. A number takes a byte or
    more in a file; in 4 bits half of one.
    """
    try:
        model = empty_model(AutoModelForImageTextToText, config)
    except Exception as error:  # whatever a model's class raises
        reason = f"config.json: expected one that a {config.model_type} can be made of, got {type(error).__name__}: "
        raise CheckpointError(not_loaded(source.text, f"{reason}{error}; take the model's own config.json")) from error
    size = sum(parameter.numel() for parameter in model.parameters())
    is_quantized = getattr(config, "quantization_config", None) is not None
    tensors = stored_tensors(source.files)
    stored = weight_bytes(tensors)
    if size > stored * (2.5 if is_quantized else 1.25):
        reason = (
            f"config.json describes a model of {size:,} parameters, and its weights have {stored:,} bytes; take the "
            "config.json that belongs to them"
        )
        raise CheckpointError(not_loaded(source.text, reason))
    if fault := tensors_fault(tensors, model):
        raise CheckpointError(not_loaded(source.text, fault))


def _check_pictures(text: str, config: Any, processor: VLMProcessor) -> None:
    """See that the image processor is the family's, and makes of a picture what the family's vision tower takes."""
    whose = _own_image_processors(config)
    name = type(processor.image_processor).__name__
    # A family of another package, which does not say what its tower takes, may have image processors of more classes,
    # as LLaVA's published models have CLIP's.
    is_known = processor.family.pixel_shape(config) is not None
    if is_known and whose and name.removesuffix("Pil").removesuffix("Fast") not in whose:
        fault: str | None = "its settings are of another model"
    else:
        try:
            fault = _picture_fault(config, processor)
        except Exception as error:  # whatever one of another family raises
            fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        own = f", {' or '.join(whose)}" if whose else ""
        reason = (
            f"preprocessor_config.json: expected the image processor of a {config.model_type}{own}, got {name}, which "
            f"does not make what the model takes ({fault}); take preprocessor_config.json from where the weights are "
            "from"
        )
        raise CheckpointError(not_loaded(text, reason))


def _own_image_processors(config: Any) -> list[str]:
    """Return the classes of image processors that transformers has for a model; [] where it names none."""
    known = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type)
    names = known.values() if isinstance(known, dict) else ()
    return sorted({name.removesuffix("Pil").removesuffix("Fast") for name in names if name})


def _picture_fault(config: Any, processor: VLMProcessor) -> str | None:
    """Check that a small picture becomes what the vision tower takes; one that would be blown up is not processed."""
    family, image_processor = processor.family, processor.image_processor
    height, width = TEST_PICTURE
    wide, high = family.image_to_input_wh(image_processor)((width, height))
    if wide * high > MOST_TEST_PIXELS:
        return (
            f"{family.picture_size} and the like: expected that a picture of {width} x {height} pixels becomes at most "
            f"{MOST_TEST_PIXELS:,} pixels, got {wide:,} x {high:,}"
        )
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    grids, arrays = family.preprocess(image_processor, [picture])
    wanted = family.pixel_shape(config)
    got = next((values.shape for name, values in arrays.items() if name == "pixel_values"), None)
    if wanted is not None and got is not None and got[-len(wanted) :] != wanted:
        return (
            f"{family.picture_size}: expected pixel_values that end with {list(wanted)}, as vision_config of "
            f"config.json has it, got {list(got)}"
        )
    (views,) = processor.views([picture], grids)
    return None if num_image_tokens(views) > 0 else f"no tokens of a picture, {grids.tolist()}"
