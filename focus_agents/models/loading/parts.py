"""Load the parts of a model beside its weights: its configuration, family, tokenizer and image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from focus_agents.errors import CheckpointError
from focus_agents.models.family import ModelFamily
from focus_agents.models.loading.fields import size_fault
from focus_agents.models.loading.part_files import (
    GENERATION_FILE,
    TEMPLATE_TEXT,
    check_picture_files,
    check_template_ends,
    load_tokenizer,
    read_config,
    read_text,
)
from focus_agents.models.loading.places import NEW_MODELS, ModelFiles, not_loaded
from focus_agents.models.loading.sources import ModelSource, find_source, load_files
from focus_agents.models.processing import PROCESSOR_FILE, VLMProcessor
from focus_agents.models.references import LANGUAGE_MODELS
from focus_agents.models.registry import find_family
from focus_agents.models.shipped import model_name

MIN_VOCABULARY = 256
TEMPLATE_FILES = (TEMPLATE_TEXT, "chat_template.json")
"""Where a chat template lies that is not in `tokenizer_config.json`."""


def load_config(name_or_path: str | Path) -> Any:
    """Return the configuration of a model, without its weights.

    Args:
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: If there is no such model, or its `config.json` describes none.
    """
    source = find_source(name_or_path)
    if source.place in NEW_MODELS:
        return NEW_MODELS[source.place].build_config(load_processor(source.place).tokenizer)
    _model_type(source)
    return read_config(source.files)


def load_family(name_or_path: str | Path) -> ModelFamily:
    """Return the family of a model, as its configuration names it; weights are not read.

    Args:
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: If there is no such model, or no family has its model type.
    """
    return family_of_source(find_source(model_name(name_or_path)))


def family_of_source(source: ModelSource) -> ModelFamily:
    """Return the family of a model that was found; see `load_family`."""
    model_type = _model_type(source)
    if model_type is None:
        reason = "there is no config.json with a model_type"
        raise CheckpointError(not_loaded(source.text, reason, LANGUAGE_MODELS))
    try:
        family = find_family(model_type)
    except CheckpointError as error:
        settings = source.files.read_json("config.json")
        sees = "vision_config" in settings or model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        advice = (
            "it is of a family that is not known here, so serve it by vLLM and ask it as the policy openai_api"
            if sees
            else "it sees no pictures, so take a vision-language model"
        )
        raise CheckpointError(not_loaded(source.text, f"{advice}: {error}")) from error
    if source.place in NEW_MODELS:
        return family
    config = read_config(source.files)
    try:
        return family.for_config(config)
    except CheckpointError as error:
        raise CheckpointError(not_loaded(source.text, error)) from error


def readable_source(name_or_path: str) -> ModelSource | None:
    """Return the model, or None without a configuration: then nothing else can be loaded, and its loader says so."""
    try:
        source = find_source(name_or_path)
        return source if _model_type(source) is not None else None
    except CheckpointError:
        return None


def load_processor(name_or_path: str | Path, *, max_image_tokens: int | None = None) -> VLMProcessor:
    """Load the tokenizer and the image processor that belong to a model.

    Those that an adapter has brought stand in for its base's.

    Args:
        name_or_path: As for `load_model`.
        max_image_tokens: Larger pictures are scaled down to at most so many tokens (or a few more, if many times as
            long as wide); None keeps the model's own limit.

    Raises:
        ValueError: If the model sees nothing in `max_image_tokens`.
        CheckpointError: If there is no such model, or no family has its model type.
    """
    source = find_source(model_name(name_or_path))
    family = family_of_source(source)
    files, folder = source.files_with("tokenizer_config.json", "tokenizer.json")
    tokenizer = load_tokenizer(files, folder)
    if len(tokenizer) < MIN_VOCABULARY:
        # What transformers makes of a folder without a tokenizer's files.
        raise CheckpointError(not_loaded(source.text, f"its tokenizer knows {len(tokenizer)} tokens only"))
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _read_template(files, folder) or _read_template(source.files, "")
        tokenizer.chat_template = tokenizer.chat_template or family.chat_template
    check_template_ends(files, tokenizer)
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _end_of_generation(source, tokenizer)
    limited, own = (load_image_processor(source, family, limit) for limit in (max_image_tokens, None))
    try:
        return VLMProcessor(tokenizer, limited, family, own_image_processor=own, settings=_settings_of(source))
    except ValueError as error:
        raise CheckpointError(not_loaded(source.text, error)) from error


def _settings_of(source: ModelSource) -> dict[str, Any]:
    """Return a processor's own settings in transformers, without its parts, which have files of their own, or code."""
    files, folder = source.files_with(PROCESSOR_FILE)
    name = f"{folder}/{PROCESSOR_FILE}" if folder else PROCESSOR_FILE
    if not files.has(name):
        return {}
    left_out = ("image_processor", "tokenizer", "auto_map")
    return {field: value for field, value in files.read_json(name).items() if field not in left_out}


def load_image_processor(source: ModelSource, family: ModelFamily, max_image_tokens: int | None) -> Any:
    """Load the image processor of a model that was found; see `load_processor`."""
    files, folder = source.files_with("preprocessor_config.json")
    check_picture_files(files, folder)
    reads = "preprocessor_config.json"
    image_processor = load_files(AutoImageProcessor.from_pretrained, files, folder=folder, reads=reads)
    if fault := size_fault(image_processor):
        reason = f"{reads}: {fault}; take the model's own {reads}"
        raise CheckpointError(not_loaded(files.text, reason))
    if max_image_tokens is not None:
        family.limit_image_tokens(image_processor, max_image_tokens)
    return image_processor


def check_fit(name_or_path: str, config: Any, processor: VLMProcessor) -> None:
    """Check that a tokenizer and an image processor belong to a model.

    Args:
        name_or_path: Names all in messages.
        config: The model's configuration.
        processor: Holds the tokenizer and the image processor.

    Raises:
        CheckpointError: If the image token is another, an id lies beyond the model's vocabulary, or the image processor
            cuts pictures into other patches than the model's vision tower.
    """
    whose = f"model {name_or_path!r}: expected the tokenizer that it was trained with"
    advice = (
        "the folder holds the tokenizer of another model; take tokenizer.json and tokenizer_config.json from where the "
        "weights are from"
    )
    image_token, known = processor.family.image_token, processor.tokenizer.get_vocab()
    if image_token not in known:
        raise CheckpointError(f"{whose}, got one without the image token {image_token}; {advice}")
    image_token_id, vocab_size = getattr(config, "image_token_id", None), config.get_text_config().vocab_size
    if known[image_token] != image_token_id:
        raise CheckpointError(
            f"{whose}, in which {image_token} is {image_token_id}, as config.json has it, got one in which it is "
            f"{known[image_token]}; {advice}"
        )
    if len(processor.tokenizer) > vocab_size:
        raise CheckpointError(
            f"{whose}, by config.json with at most {vocab_size} tokens, got {len(processor.tokenizer)}; {advice}"
        )
    _check_patches(name_or_path, config, processor.image_processor)


def _check_patches(name_or_path: str, config: Any, image_processor: Any) -> None:
    """See that pictures are cut as the vision tower wants them."""
    vision = getattr(config, "vision_config", None)
    for own, name in (
        ("patch_size", "patch_size"),
        ("temporal_patch_size", "temporal_patch_size"),
        ("merge_size", "spatial_merge_size"),
    ):
        wanted, got = getattr(vision, name, None), getattr(image_processor, own, None)
        if isinstance(wanted, int) and isinstance(got, int) and wanted != got:
            raise CheckpointError(
                f"model {name_or_path!r}: expected its own image processor, with {own} {wanted} by config.json, "
                f"got one with {got}; take preprocessor_config.json from where the weights are from"
            )


def _model_type(source: ModelSource) -> str | None:
    """Return a configuration's `model_type`, also of one that transformers has no class for; None: there is none."""
    if source.place in NEW_MODELS:
        return str(NEW_MODELS[source.place].MODEL_TYPE)
    if not source.files.has("config.json"):
        return None
    found = source.files.read_json("config.json").get("model_type")
    return None if found is None else str(found)


def _end_of_generation(source: ModelSource, tokenizer: Any) -> str | None:
    """Return the token at which the model's own generation ends; None: its settings name none."""
    if not source.files.has(GENERATION_FILE):
        return None
    found = source.files.read_json(GENERATION_FILE).get("eos_token_id")
    first = found[0] if isinstance(found, list) and found else found
    is_known = isinstance(first, int) and 0 <= first < len(tokenizer)
    token = tokenizer.convert_ids_to_tokens(first) if is_known else None
    return token if isinstance(token, str) else None


def _read_template(files: ModelFiles, folder: str) -> str | None:
    """Return the chat template of a file beside the tokenizer's; None: there is none."""
    for name in TEMPLATE_FILES:
        path = f"{folder}/{name}" if folder else name
        if not files.has(path):
            continue
        if name.endswith(".json"):
            template = files.read_json(path).get("chat_template")
            if not isinstance(template, str):
                raise CheckpointError(
                    not_loaded(files.text, f"{path}: expected a text under 'chat_template', got {json.dumps(template)}")
                )
            return template
        return read_text(files, path)
    return None
