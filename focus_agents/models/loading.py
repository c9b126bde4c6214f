"""Models by name: those that come with the package, a local folder, or a model of the hub.

Every family here follows Qwen2-VL's conventions: `<|image_pad|>` tokens, M-RoPE positions from `get_rope_index`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from focus_agents.errors import CheckpointError
from focus_agents.models import small, tiny
from focus_agents.models.adapters import add_adapters, base_model
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.vision import batch_pictures
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import PromptTemplate, get_template

Precision = Literal["fp32", "bf16"]

TINY, SMALL = "tiny", "small"
NEW_MODELS: Mapping[str, ModuleType] = {TINY: tiny, SMALL: small}
"""Built here, with weights that a seed makes."""
PROMPTS_OF_NEW_MODELS: Mapping[str, dict[str, str]] = {
    TINY: {"template": "compact"},
    SMALL: {"template": "questions", "frame": "norm_100"},
}
"""What `POLICY_FILE` says of a saved one."""

WEIGHTS = Path(__file__).parent.parent / "weights"
SHIPPED_MODELS = ("focus-small-grpo", "focus-small-sft", "focus-small-base")
"""Trained by this project, in folders of `WEIGHTS`."""
BEST_MODEL = {"focus-small": "focus-small-grpo"}
"""The name by which to ask for the best of them."""

POLICY_FILE = "focus.json"
"""What a saved policy's folder says beside the model itself."""

MIN_IMAGE_TOKENS = 4
MIN_VOCABULARY = 256
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)
"""What transformers raises at missing, cut or contradictory files."""


def load_processor(name_or_path: str, *, max_image_tokens: int | None = None) -> VLMProcessor:
    """Load the tokenizer and the image processor that belong to a model.

    Args:
        name_or_path: As for `load_model`.
        max_image_tokens: Larger pictures are scaled down to at most so many tokens (or a few more, if many times as
            long as wide); None keeps the model's own limit.

    Raises:
        ValueError: If `max_image_tokens` is less than 4, the fewest that the model sees anything in.
        CheckpointError: If it is none of these.
    """
    if max_image_tokens is not None and max_image_tokens < MIN_IMAGE_TOKENS:
        raise ValueError(f"max_image_tokens: expected at least {MIN_IMAGE_TOKENS}, got {max_image_tokens}")
    folder = NEW_MODELS[name_or_path].ASSETS if name_or_path in NEW_MODELS else _existing(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        image_processor = AutoImageProcessor.from_pretrained(folder)
    except LOADING_ERRORS as error:
        raise CheckpointError(_not_loaded(name_or_path, error)) from error
    if len(tokenizer) < MIN_VOCABULARY:
        # What transformers makes of a folder without a tokenizer's files.
        raise CheckpointError(_not_loaded(name_or_path, f"its tokenizer knows {len(tokenizer)} tokens only"))
    if max_image_tokens is not None:
        pixels_per_token = (image_processor.patch_size * image_processor.merge_size) ** 2
        least = min(MIN_IMAGE_TOKENS * pixels_per_token, image_processor.size["shortest_edge"])
        image_processor.size = {"shortest_edge": least, "longest_edge": max_image_tokens * pixels_per_token}
    return VLMProcessor(tokenizer, image_processor)


def load_model(name_or_path: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Load a model onto the CPU.

    Args:
        name_or_path: `"focus-small"` or one of `SHIPPED_MODELS`; `"tiny"` or `"small"` for a model with new weights; a
            folder written by `save_pretrained`; or a name on the hub, e.g. `"Qwen/Qwen2-VL-7B-Instruct"`. Code from the
            hub is never run.
        seed: For new weights.
        dtype: Of the weights.

    Raises:
        CheckpointError: If there is no such model.
    """
    if name_or_path in NEW_MODELS:
        return NEW_MODELS[name_or_path].build_model(load_processor(name_or_path).tokenizer, seed=seed).to(dtype)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            _existing(name_or_path), dtype=dtype, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        raise CheckpointError(_not_loaded(name_or_path, error)) from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(_not_loaded(name_or_path, f"{len(missing)} weights are missing, e.g. {missing[0]}"))
    return model


def load_trainable_model(
    name_or_path: str,
    *,
    seed: int = 0,
    precision: Precision = "fp32",
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    freeze_vision: bool = False,
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
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.

    Raises:
        CheckpointError: If there is no such model.
    """
    is_narrow = lora_rank is not None and precision == "bf16"
    model = load_model(name_or_path, seed=seed, dtype=torch.bfloat16 if is_narrow else torch.float32)
    set_focus_attention(model)
    batch_pictures(model)
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if freeze_vision:
        model.model.visual.requires_grad_(False)
    if lora_rank is not None:
        model = add_adapters(model, rank=lora_rank, alpha=lora_alpha, seed=seed)
    return model.train()


def has_frozen_vision(model: Any) -> bool:
    """Whether the vision tower stays as it is, so that what it makes of a picture can be kept."""
    return not any(parameter.requires_grad for parameter in base_model(model).model.visual.parameters())


def load_config(name_or_path: str) -> Any:
    """The configuration of a model, without its weights.

    Args:
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: If there is no such model.
    """
    if name_or_path in NEW_MODELS:
        return NEW_MODELS[name_or_path].build_config(load_processor(name_or_path).tokenizer)
    try:
        return AutoConfig.from_pretrained(_existing(name_or_path))
    except LOADING_ERRORS as error:
        raise CheckpointError(_not_loaded(name_or_path, error)) from error


def load_template(
    name_or_path: str, *, name: str | None = None, frame: CoordinateFrame | None = None
) -> PromptTemplate:
    """The prompt that a model was trained on, or another in the unit of coordinates that it was trained on.

    Args:
        name_or_path: As for `load_model`. A hub model is asked in full sentences, in thousandths.
        name: A template in place of the model's own.
        frame: A unit of coordinates in place of the model's own.

    Raises:
        CheckpointError: If the folder's `POLICY_FILE` cannot be read, or names an unknown template or frame.
        ValueError: If there is no template of the given name.
    """
    template = None if name is None else get_template(name)
    prompt = PROMPTS_OF_NEW_MODELS.get(name_or_path, {})
    file = Path(model_folder(name_or_path)) / POLICY_FILE
    try:
        if name_or_path not in NEW_MODELS and file.is_file():
            prompt = json.loads(file.read_text()).get("prompt", {})
        template = template or get_template(prompt.get("template", "default"))
        frame = frame or CoordinateFrame(prompt.get("frame", template.frame))
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: expected a saved policy's description in JSON, with a known template and frame ({error})"
        ) from error
    # A frame out of a run's stored arguments is a plain text.
    return dataclasses.replace(template, frame=CoordinateFrame(frame))


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


def _existing(name_or_path: str) -> str:
    """The name, after a check that what looks like a local path exists, so that the hub is not asked for it."""
    place = model_folder(name_or_path)
    if Path(place).is_dir():
        return place
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1:
        known = ", ".join((*BEST_MODEL, *SHIPPED_MODELS, *NEW_MODELS))
        raise CheckpointError(
            f"model {name_or_path!r}: expected one of {known}, a folder with a saved model, or a hub name such as "
            "'Qwen/Qwen2-VL-7B-Instruct'; there is no such folder"
        )
    return name_or_path


def model_folder(name_or_path: str) -> str:
    """Where a model lies: its folder, with the package or elsewhere, or else the name, which the hub may know."""
    if (name := BEST_MODEL.get(name_or_path, name_or_path)) in SHIPPED_MODELS:
        return str(WEIGHTS / name)
    folder = Path(name_or_path).expanduser()
    return str(folder) if folder.is_dir() else name_or_path


def weights_digest(name_or_path: str) -> str | None:
    """SHA-256 in hex of a model's weights, all files in the order of their names; None if they lie in no folder."""
    files = sorted(Path(model_folder(name_or_path)).glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _not_loaded(name_or_path: str, error: Exception | str) -> str:
    expected = "a built-in model, a saved one's folder or a hub name"
    return f"model {name_or_path!r} could not be loaded; expected {expected}: {error}"
