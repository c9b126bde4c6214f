"""What belongs to a model beside its weights: its configuration, family, tokenizer and image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from focus_agents.errors import CheckpointError
from focus_agents.models.family import ModelFamily
from focus_agents.models.loading.places import NEW_MODELS, assets_of, load_part, model_type_of, not_loaded
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.registry import find_family
from focus_agents.models.shipped import model_name

MIN_VOCABULARY = 256


def load_config(name_or_path: str) -> Any:
    """The configuration of a model, without its weights.

    Args:
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: If there is no such model.
    """
    if name_or_path in NEW_MODELS:
        return NEW_MODELS[name_or_path].build_config(load_processor(name_or_path).tokenizer)
    return load_part(AutoConfig.from_pretrained, name_or_path)


def load_family(name_or_path: str | Path) -> ModelFamily:
    """Return the family of a model, as its configuration names it; weights are not read.

    Args:
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: If there is no such model, or no family has its model type.
    """
    name_or_path = model_name(name_or_path)
    model_type = model_type_of(name_or_path)
    if model_type is None:
        raise CheckpointError(not_loaded(name_or_path, "there is no config.json with a model_type"))
    try:
        return find_family(model_type)
    except CheckpointError as error:
        raise CheckpointError(not_loaded(name_or_path, error)) from error


def readable_family(name_or_path: str) -> ModelFamily | None:
    """The family, or None without a configuration: then nothing else can be loaded, and its loader will say so."""
    try:
        is_readable = model_type_of(name_or_path) is not None
    except CheckpointError:
        is_readable = False
    return load_family(name_or_path) if is_readable else None


def load_processor(name_or_path: str | Path, *, max_image_tokens: int | None = None) -> VLMProcessor:
    """Load the tokenizer and the image processor that belong to a model.

    Args:
        name_or_path: As for `load_model`.
        max_image_tokens: Larger pictures are scaled down to at most so many tokens (or a few more, if many times as
            long as wide); None keeps the model's own limit.

    Raises:
        ValueError: If the model sees nothing in `max_image_tokens`.
        CheckpointError: If there is no such model, or no family has its model type.
    """
    name_or_path = model_name(name_or_path)
    family = load_family(name_or_path)
    tokenizer = load_part(AutoTokenizer.from_pretrained, assets_of(name_or_path))
    if len(tokenizer) < MIN_VOCABULARY:
        # What transformers makes of a folder without a tokenizer's files.
        raise CheckpointError(not_loaded(name_or_path, f"its tokenizer knows {len(tokenizer)} tokens only"))
    return VLMProcessor(tokenizer, load_image_processor(name_or_path, family, max_image_tokens), family)


def load_image_processor(name_or_path: str, family: ModelFamily, max_image_tokens: int | None) -> Any:
    """Load the image processor of a model; see `load_processor`."""
    image_processor = load_part(AutoImageProcessor.from_pretrained, assets_of(name_or_path))
    if max_image_tokens is not None:
        family.limit_image_tokens(image_processor, max_image_tokens)
    return image_processor


def check_fit(name_or_path: str, config: Any, processor: VLMProcessor) -> None:
    """Check that a tokenizer belongs to a model: the same image token, and no id beyond its vocabulary.

    Args:
        name_or_path: Names both in messages.
        config: The model's configuration.
        processor: Holds the tokenizer.

    Raises:
        CheckpointError: If they do not fit.
    """
    image_token_id, vocab_size = getattr(config, "image_token_id", None), config.get_text_config().vocab_size
    if processor.image_token_id != image_token_id or len(processor.tokenizer) > vocab_size:
        raise CheckpointError(
            f"model {name_or_path!r}: expected a tokenizer whose image token is {image_token_id} and with at most "
            f"{vocab_size} tokens, got {processor.image_token_id} and {len(processor.tokenizer)}; the folder holds the "
            "tokenizer of another model"
        )
