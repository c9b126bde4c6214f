"""Where models lie: with the package, in a folder, or on the hub; and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from transformers import PreTrainedConfig

from focus_agents.errors import CheckpointError
from focus_agents.models import small, tiny
from focus_agents.models.shipped import BEST_MODEL, SHIPPED_MODELS, WEIGHTS
from focus_env.files import find_folder

T = TypeVar("T")

TINY, SMALL = "tiny", "small"
NEW_MODELS: Mapping[str, ModuleType] = {TINY: tiny, SMALL: small}
"""Built here, with weights that a seed makes."""

LANGUAGE_MODELS = (
    f"one of {', '.join((*BEST_MODEL, *SHIPPED_MODELS, *NEW_MODELS))}, a folder with a saved model, or a hub name such "
    "as 'Qwen/Qwen2-VL-7B-Instruct'"
)
VISION_MODELS = (
    "a folder with its weights and the settings of its image processor, or a hub name (with HF_HUB_OFFLINE=1: one that "
    "was downloaded before)"
)
"""What messages say is expected."""


def model_folder(name_or_path: str) -> str:
    """Where a model lies: its folder, with the package or elsewhere, or else the name, which the hub may know."""
    name = BEST_MODEL.get(name_or_path, name_or_path)
    folder = find_folder(WEIGHTS / name if name in SHIPPED_MODELS else Path(name_or_path).expanduser())
    return str(folder) if folder.is_dir() else name_or_path


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
        raise CheckpointError(not_loaded(name_or_path, error, expected)) from error


def assets_of(name_or_path: str) -> str:
    """Where a tokenizer and an image processor lie."""
    return str(NEW_MODELS[name_or_path].ASSETS) if name_or_path in NEW_MODELS else name_or_path


def model_type_of(name_or_path: str) -> str | None:
    """The `model_type` of a configuration, also of one that transformers has no class for; None: there is none."""
    if name_or_path in NEW_MODELS:
        return str(NEW_MODELS[name_or_path].MODEL_TYPE)
    settings, _ = load_part(PreTrainedConfig.get_config_dict, name_or_path)
    return settings.get("model_type") if isinstance(settings, dict) else None


def not_loaded(name_or_path: str, error: Exception | str, expected: str = LANGUAGE_MODELS) -> str:
    """Return the message for a model that could not be loaded."""
    reason = error if str(error).strip() else type(error).__name__  # all that a plain assertion says
    return f"model {name_or_path!r} could not be loaded; expected {expected}: {reason}"
