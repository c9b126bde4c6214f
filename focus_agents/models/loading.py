"""Models by name: those that come with the package, a local folder, or a model of the hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, PreTrainedConfig

from focus_agents.errors import CheckpointError
from focus_agents.models import small, tiny
from focus_agents.models.adapters import add_adapters, family_of, model_parts
from focus_agents.models.attention import choose_attention
from focus_agents.models.family import ModelFamily
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.registry import find_family
from focus_agents.models.settings import Attention, Precision
from focus_agents.models.shipped import BEST_MODEL, SHIPPED_MODELS, WEIGHTS, model_name
from focus_agents.models.weights import bad_weights, files_folder
from focus_env.boxes import CoordinateFrame
from focus_env.files import find_folder
from focus_env.prompts import PromptTemplate, get_template

T = TypeVar("T")

TINY, SMALL = "tiny", "small"
NEW_MODELS: Mapping[str, ModuleType] = {TINY: tiny, SMALL: small}
"""Built here, with weights that a seed makes."""
PROMPTS_OF_NEW_MODELS: Mapping[str, dict[str, str]] = {
    TINY: {"template": "compact"},
    SMALL: {"template": "questions", "frame": "norm_100"},
}
"""What `POLICY_FILE` says of a saved one."""

POLICY_FILE = "focus.json"
"""What a saved policy's folder says beside the model itself."""

MIN_VOCABULARY = 256

LANGUAGE_MODELS = (
    f"one of {', '.join((*BEST_MODEL, *SHIPPED_MODELS, *NEW_MODELS))}, a folder with a saved model, or a hub name such "
    "as 'Qwen/Qwen2-VL-7B-Instruct'"
)
VISION_MODELS = (
    "a folder with its weights and the settings of its image processor, or a hub name (with HF_HUB_OFFLINE=1: one that "
    "was downloaded before)"
)
"""What messages say is expected."""


def load_family(name_or_path: str | Path) -> ModelFamily:
    """Return the family of a model, as its configuration names it; weights are not read.

    Args:
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: If there is no such model, or no family has its model type.
    """
    name_or_path = model_name(name_or_path)
    model_type = _model_type(name_or_path)
    if model_type is None:
        raise CheckpointError(_not_loaded(name_or_path, "there is no config.json with a model_type"))
    try:
        family = find_family(model_type)
        return family if name_or_path in NEW_MODELS else family.for_config(load_config(name_or_path))
    except CheckpointError as error:
        raise CheckpointError(_not_loaded(name_or_path, error)) from error


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
    tokenizer = load_part(AutoTokenizer.from_pretrained, _assets(name_or_path))
    if len(tokenizer) < MIN_VOCABULARY:
        # What transformers makes of a folder without a tokenizer's files.
        raise CheckpointError(_not_loaded(name_or_path, f"its tokenizer knows {len(tokenizer)} tokens only"))
    return VLMProcessor(tokenizer, _image_processor(name_or_path, family, max_image_tokens), family)


def load_model(name_or_path: str | Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Load a model onto the CPU.

    Args:
        name_or_path: `"focus-small"` or one of `SHIPPED_MODELS`; `"tiny"` or `"small"` for a model with new weights; a
            folder written by `save_pretrained`; or a name on the hub, e.g. `"Qwen/Qwen2-VL-7B-Instruct"`. Code from the
            hub is never run.
        seed: For new weights.
        dtype: Of the weights.

    Raises:
        CheckpointError: If there is no such model, or no family has its model type.
    """
    name_or_path = model_name(name_or_path)
    if name_or_path in NEW_MODELS:
        return NEW_MODELS[name_or_path].build_model(load_processor(name_or_path).tokenizer, seed=seed).to(dtype)
    load_family(name_or_path)  # a type without a family is refused before gigabytes are read
    return _load_whole(AutoModelForImageTextToText, name_or_path, dtype=dtype)


def load_trainable_model(
    name_or_path: str,
    *,
    seed: int = 0,
    precision: Precision = "fp32",
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    freeze_vision: bool = False,
    attention: Attention = "auto",
    gradient_checkpointing: bool = False,
) -> Any:
    """Load a model and make it ready to train, in training mode.

    Weights that are trained are in float32, since an update is often smaller than bfloat16 can resolve.

    Args:
        name_or_path: As for `load_model`.
        seed: For new weights.
        precision: "bf16" holds the frozen base under adapters in bfloat16; the caller computes under autocast.
        lora_rank: Rank of LoRA adapters on the language model; None trains all parameters.
        lora_alpha: Their scale times their rank; None: twice the rank.
        freeze_vision: Whether the vision tower stays as it is. Under adapters it does anyway.
        attention: As for `choose_attention`.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.

    Raises:
        CheckpointError: If there is no such model.
    """
    is_narrow = lora_rank is not None and precision == "bf16"
    model = load_model(name_or_path, seed=seed, dtype=torch.bfloat16 if is_narrow else torch.float32)
    choose_attention(model, attention, precision)
    family_of(model).batch_pictures(model)
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if freeze_vision:
        for parameter in model_parts(model).vision_parameters():
            parameter.requires_grad_(False)
    if lora_rank is not None:
        model = add_adapters(model, rank=lora_rank, alpha=lora_alpha, seed=seed)
    return model.train()


def has_frozen_vision(model: Any) -> bool:
    """Whether the vision tower stays as it is, so that what it makes of a picture can be kept."""
    return not any(parameter.requires_grad for parameter in model_parts(model).vision_parameters())


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


def load_template(
    name_or_path: str | Path,
    *,
    name: str | None = None,
    frame: CoordinateFrame | None = None,
    max_image_tokens: int | None = None,
) -> PromptTemplate:
    """The prompt that a model was trained on, or another in the unit of coordinates that it was trained on.

    Args:
        name_or_path: As for `load_model`. A model that says nothing of its prompt, as those of the hub, is asked in
            full sentences, in its family's own unit.
        name: A template in place of the model's own.
        frame: A unit of coordinates in place of the model's own.
        max_image_tokens: As for `load_processor`; the frame `RESIZED_PIXEL` depends on it.

    Raises:
        CheckpointError: If the folder's `POLICY_FILE` cannot be read, or names an unknown template or frame, or no
            family has the type of a model whose unit or image size is asked for.
        ValueError: If there is no template of the given name.
    """
    name_or_path = model_name(name_or_path)
    template = None if name is None else get_template(name)
    prompt = PROMPTS_OF_NEW_MODELS.get(name_or_path, {})
    file = Path(model_folder(name_or_path)) / POLICY_FILE
    try:
        if name_or_path not in NEW_MODELS and file.is_file():
            prompt = json.loads(file.read_text()).get("prompt", {})
        template = template or get_template(prompt.get("template", "default"))
        if frame is None and "frame" in prompt:
            frame = CoordinateFrame(prompt["frame"])
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: expected a saved policy's description in JSON, with a known template and frame ({error})"
        ) from error
    if frame is None and name_or_path not in NEW_MODELS:
        family = _readable_family(name_or_path)
        frame = None if family is None else family.frame
    # A frame out of a run's stored arguments is a plain text.
    template = dataclasses.replace(template, frame=CoordinateFrame(template.frame if frame is None else frame))
    if template.frame is CoordinateFrame.RESIZED_PIXEL and (family := _readable_family(name_or_path)):
        rule = family.image_to_input_wh(_image_processor(name_or_path, family, max_image_tokens))
        template = dataclasses.replace(template, image_to_input_wh=rule)
    return template


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


def load_vision_model(
    model_class: Any, name_or_path: str, *, model_types: Sequence[str], device: str | torch.device = "cpu"
) -> Any:
    """Load a model that answers no prompts, to compute with: float32, in evaluation mode, without gradients.

    Args:
        model_class: Class of transformers, with `from_pretrained`.
        name_or_path: A folder written by `save_pretrained`, or a name on the hub. Only safetensors are read, and code
            from the hub is never run. With HF_HUB_OFFLINE=1 the hub is not asked.
        model_types: Which `model_type` its configuration may have.
        device: Where it computes.

    Raises:
        CheckpointError: If there is no such model, it is of another type, or it lacks weights.
    """
    config = load_part(AutoConfig.from_pretrained, name_or_path, expected=VISION_MODELS)
    if config.model_type not in model_types:
        raise CheckpointError(
            f"model {name_or_path!r}: expected one of type {' or '.join(model_types)}, got {config.model_type}; give "
            "the folder or the hub name of such a model"
        )
    model = _load_whole(model_class, name_or_path, expected=VISION_MODELS, dtype=torch.float32, use_safetensors=True)
    return model.to(device).requires_grad_(False)  # in evaluation mode, as from_pretrained leaves it


def load_part(load: Callable[..., T], name_or_path: str, *, expected: str = LANGUAGE_MODELS, **options: Any) -> T:
    """Call a loader of transformers with a folder or a hub name; what looks like a folder is not asked of the hub.

    Args:
        load: The loader, e.g. `AutoConfig.from_pretrained`.
        name_or_path: As for `load_model`, but none of `NEW_MODELS`.
        expected: What may be given, for messages.
        options: Further arguments of the loader.

    Raises:
        CheckpointError: If there is nothing to load, or it cannot be read.
    """
    place = model_folder(name_or_path)
    looks_local = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1
    if looks_local and not Path(place).is_dir():
        raise CheckpointError(f"model {name_or_path!r}: expected {expected}; there is no such folder")
    try:
        return load(place, **options)
    except Exception as error:  # what libraries raise at missing, cut or contradictory files is no family
        raise CheckpointError(_not_loaded(name_or_path, error, expected)) from error


def _load_whole(model_class: Any, name_or_path: str, *, expected: str = LANGUAGE_MODELS, **options: Any) -> Any:
    """A model that has all its weights; transformers would make up those that are missing."""
    options["output_loading_info"] = True
    model, info = load_part(model_class.from_pretrained, name_or_path, expected=expected, **options)
    missing = sorted(info["missing_keys"])
    lack = f"{len(missing)} weights are missing, e.g. {missing[0]}" if missing else None
    if fault := lack or bad_weights(model, files_folder(model_folder(name_or_path))):
        raise CheckpointError(_not_loaded(name_or_path, fault, expected))
    return model


def _image_processor(name_or_path: str, family: ModelFamily, max_image_tokens: int | None) -> Any:
    image_processor = load_part(AutoImageProcessor.from_pretrained, _assets(name_or_path))
    if max_image_tokens is not None:
        family.limit_image_tokens(image_processor, max_image_tokens)
    return image_processor


def _assets(name_or_path: str) -> str:
    """Where a tokenizer and an image processor lie."""
    return str(NEW_MODELS[name_or_path].ASSETS) if name_or_path in NEW_MODELS else name_or_path


def _model_type(name_or_path: str) -> str | None:
    """The `model_type` of a configuration, also of one that transformers has no class for; None: there is none."""
    if name_or_path in NEW_MODELS:
        return str(NEW_MODELS[name_or_path].MODEL_TYPE)
    settings, _ = load_part(PreTrainedConfig.get_config_dict, name_or_path)
    return settings.get("model_type") if isinstance(settings, dict) else None


def _readable_family(name_or_path: str) -> ModelFamily | None:
    """The family, or None without a configuration: then nothing else can be loaded, and its loader will say so."""
    try:
        is_readable = _model_type(name_or_path) is not None
    except CheckpointError:
        is_readable = False
    return load_family(name_or_path) if is_readable else None


def model_folder(name_or_path: str) -> str:
    """Where a model lies: its folder, with the package or elsewhere, or else the name, which the hub may know."""
    name = BEST_MODEL.get(name_or_path, name_or_path)
    folder = find_folder(WEIGHTS / name if name in SHIPPED_MODELS else Path(os.path.expanduser(name_or_path)))
    return str(folder) if folder.is_dir() else name_or_path


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


def _not_loaded(name_or_path: str, error: Exception | str, expected: str = LANGUAGE_MODELS) -> str:
    reason = error if str(error).strip() else type(error).__name__  # all that a plain assertion says
    return f"model {name_or_path!r} could not be loaded; expected {expected}: {reason}"
