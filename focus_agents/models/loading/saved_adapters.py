"""Adapters in PEFT's format on the model that they were trained on: each tensor finds its place, or none is loaded.

PEFT fills what fits and is silent about the rest. Here the names and shapes of an adapter are compared with the base
first, by the base's configuration alone, and again when the weights are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    PeftModelForCausalLM,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import ADAPTER, PREFIX, quiet_peft
from focus_agents.models.loading.adapter_settings import adapter_fault, check_patterns, read_settings
from focus_agents.models.loading.places import POLICY_FILE, ModelFiles
from focus_agents.models.loading.sources import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ModelSource,
    SavedAdapter,
    recorded_folder,
)
from focus_agents.models.loading.weight_files import digest_of_weights
from focus_agents.models.shipped import SHIPPED_MODELS, WEIGHTS
from focus_agents.models.weights import FLOATS, is_finite

_LORA_PART = ".lora_"
_LORA = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight)?$")


def check_base(source: ModelSource) -> None:
    """Check that the base of an adapter has the weights that it was trained on, as far as can be seen.

    This package notes a digest of them beside the adapters that it writes. Of others the base that they name may be a
    folder here, though another one was given.

    Raises:
        CheckpointError: If it has others.
    """
    adapter = source.adapter
    if adapter is None:
        return
    file, folder, then = adapter.name_of(POLICY_FILE), recorded_folder(adapter), None
    told = adapter.files.read_json(file).get("base") if adapter.files.has(file) else None
    if isinstance(told, dict):
        then = told.get("weights")
    elif folder is not None and source.files.hub is None and folder.resolve() != Path(source.files.place).resolve():
        then = digest_of_weights(ModelFiles(adapter.text, str(folder)))
    now = None if then is None else digest_of_weights(source.files)
    # Of the hub there are commits, of folders digests; one says nothing of the other.
    if isinstance(then, str) and now is not None and len(now) == len(then) and now != then:
        reason = (
            f"the weights of its base {source.files.place} are others than those it was trained on; name that model "
            "by `base_model`, as a folder or as NAME@COMMIT"
        )
        raise CheckpointError(adapter_fault(adapter, reason))


def put_adapter(model: Any, adapter: SavedAdapter, *, is_trainable: bool = False) -> Any:
    """Put a saved adapter on its base.

    Args:
        model: The base; changed in place.
        adapter: The adapter.
        is_trainable: Whether it is to be trained on; its weights are in float32 either way, if they are floats of less.

    Returns:
        The PEFT model around the base.

    Raises:
        CheckpointError: If it is no LoRA adapter in safetensors, or not one of this base.
    """
    path = adapter_weights(adapter)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(adapter_fault(adapter, f"{path.name} cannot be read ({error})")) from error
    _check_floats(adapter, {name: values.is_floating_point() for name, values in tensors.items()})
    if bad := [name for name, values in tensors.items() if not is_finite(values)]:
        raise CheckpointError(adapter_fault(adapter, f"{bad[0]} holds numbers that are not finite"))
    return _fill(model, adapter, tensors, is_trainable=is_trainable)


def check_adapter(adapter: SavedAdapter, config: Any) -> None:
    """Check that an adapter belongs to a base, by names and shapes; no weights are read.

    Args:
        adapter: The adapter.
        config: The base's configuration.

    Raises:
        CheckpointError: As `put_adapter`.
    """
    path = adapter_weights(adapter)
    try:
        with safe_open(path, framework="pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
            shapes = {name: found.get_shape() for name, found in slices.items()}
            is_float = {name: found.get_dtype() in FLOATS for name, found in slices.items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(adapter_fault(adapter, f"{path.name} cannot be read ({error})")) from error
    _check_floats(adapter, is_float)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        _fill(model, adapter, {name: torch.empty(shape) for name, shape in shapes.items()}, is_empty=True)


def _check_floats(adapter: SavedAdapter, is_float: Mapping[str, bool]) -> None:
    """Refuse an adapter of whole numbers: cast to floats without their scales, they would be another one."""
    if bad := [name for name, is_floating in is_float.items() if not is_floating]:
        raise CheckpointError(
            adapter_fault(adapter, f"expected floats in {ADAPTER_WEIGHTS}, got whole numbers in {bad[0]}")
        )


def note_base(model: Any, source: ModelSource) -> None:
    """Note in the settings of an adapter which base it is of, for whoever loads it when it is saved.

    Args:
        model: The PEFT model.
        source: What its base was loaded from; a model of the package goes by its name.
    """
    settings, place = model.peft_config[ADAPTER], source.files.place
    name = Path(place).name
    settings.base_model_name_or_path = name if name in SHIPPED_MODELS and Path(place).parent == WEIGHTS else place
    settings.revision = source.files.revision


def adapter_weights(adapter: SavedAdapter) -> Path:
    """Return the path of an adapter's weights on this machine.

    Raises:
        CheckpointError: If there are none in safetensors.
    """
    if adapter.files.has(adapter.name_of(ADAPTER_WEIGHTS)):
        return adapter.files.path(adapter.name_of(ADAPTER_WEIGHTS))
    if adapter.files.has(adapter.name_of("adapter_model.bin")):
        raise CheckpointError(
            adapter_fault(
                adapter,
                f"expected {ADAPTER_WEIGHTS}, got adapter_model.bin, a pickle, which can run any code as it is loaded; "
                "ask its author for safetensors, or convert it where you trust it",
            )
        )
    raise CheckpointError(adapter_fault(adapter, f"expected {ADAPTER_WEIGHTS} beside {ADAPTER_CONFIG}, found none"))


def _fill(
    model: Any,
    adapter: SavedAdapter,
    tensors: Mapping[str, torch.Tensor],
    *,
    is_trainable: bool = False,
    is_empty: bool = False,
) -> Any:
    """Put an adapter's tensors on a model; with `is_empty` both are shapes alone."""
    config = read_settings(adapter)
    config.inference_mode = not is_trainable
    names = _names_of_today(model, tensors)
    modules = {name for name, _ in model.named_modules()}
    check_patterns(adapter, config, modules.union(map(_module_of, names), map(_module_of, names.values())))
    _fit_targets(config, model, names)
    renamed = {names[name]: values for name, values in tensors.items()}
    wrapped = wrap_base(model, adapter, config, is_empty=is_empty)
    _check_ranks(adapter, wrapped, renamed)
    with quiet_peft():
        try:
            result = set_peft_model_state_dict(wrapped, renamed, ADAPTER, low_cpu_mem_usage=is_empty)
        except MemoryError:
            raise
        except KeyError as error:  # PEFT looks for tensors that the settings say there are
            reason = f"tensors are missing in {ADAPTER_WEIGHTS} that its {ADAPTER_CONFIG} names, e.g. {error.args[0]}"
            raise CheckpointError(adapter_fault(adapter, f"{reason}; one of both is another adapter's")) from error
        except Exception as error:  # of other shapes, or whatever PEFT stumbles over
            raise CheckpointError(_of_another_base(adapter, _first_line(error))) from error
    own = {name for name, _ in wrapped.named_parameters() if _is_of_adapter(name)}
    if lost := sorted(result.unexpected_keys):
        raise CheckpointError(_of_another_base(adapter, f"{len(lost)} of its tensors find no place, e.g. {lost[0]}"))
    if missing := sorted(own.intersection(result.missing_keys) | (_biases(wrapped, config) - renamed.keys())):
        reason = f"{len(missing)} of its tensors are missing in {ADAPTER_WEIGHTS}, e.g. {missing[0]}"
        # Modules without any tensor are those of a deeper base; a module that has one has lost the others.
        absent, there = ({name.partition(_LORA_PART)[0] for name in names} for names in (missing, renamed))
        is_deeper = all(_LORA_PART in name for name in missing) and absent.isdisjoint(there)
        raise CheckpointError(_of_another_base(adapter, reason) if is_deeper else adapter_fault(adapter, reason))
    return wrapped.eval()


def wrap_base(model: Any, adapter: SavedAdapter, config: LoraConfig, *, is_empty: bool) -> Any:
    """Return a base with room for an adapter, as its settings have it.

    Args:
        model: The base; changed in place.
        adapter: The adapter, for messages.
        config: Its settings.
        is_empty: Whether both are shapes alone.

    Raises:
        CheckpointError: If PEFT cannot make it.
    """
    wrap = PeftModelForCausalLM if config.task_type == "CAUSAL_LM" else PeftModel
    with quiet_peft():
        try:
            return wrap(model, config, ADAPTER, low_cpu_mem_usage=is_empty)
        except MemoryError:
            raise
        except Exception as error:  # whatever PEFT stumbles over: its checks of settings are few
            told = f"{type(error).__name__}: {_first_line(error)}"
            if isinstance(error, ValueError) and "not found in the base model" in told:
                reason = f"its settings name modules that the base has not; unless they are mistaken, {told}"
                raise CheckpointError(_of_another_base(adapter, reason)) from error
            reason = f"PEFT cannot make it from its {ADAPTER_CONFIG}: {told}; correct that, or take the adapter's own"
            raise CheckpointError(adapter_fault(adapter, reason)) from error


def _check_ranks(adapter: SavedAdapter, wrapped: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """See that the settings give the ranks that the tensors have, where all else of their shapes fits."""
    own = {name.replace(f".{ADAPTER}.", "."): values.shape for name, values in wrapped.named_parameters()}
    for name, values in tensors.items():
        axis = 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
        there, expected = tuple(values.shape), tuple(own.get(name, ()))
        if axis is None or len(there) < 2 or len(there) != len(expected) or there[axis] == expected[axis]:
            continue
        if there[:axis] + there[axis + 1 :] == expected[:axis] + expected[axis + 1 :]:
            reason = (
                f"{ADAPTER_CONFIG}: r or rank_pattern gives rank {expected[axis]} to {_module_of(name)}, whose "
                f"tensors have rank {there[axis]}"
            )
            raise CheckpointError(
                adapter_fault(adapter, f"{reason}; correct that, unless {_other_base(adapter)} (size mismatch)")
            )


def _biases(wrapped: Any, config: LoraConfig) -> set[str]:
    """Return names of the biases of the base that PEFT saves with an adapter, which has trained them."""
    if config.bias == "none":
        return set()
    saved = get_peft_model_state_dict(wrapped, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name for name in saved if name.endswith(".bias") and "lora_" not in name}


def _names_of_today(model: Any, tensors: Iterable[str]) -> dict[str, str]:
    """Return by name of a tensor in the file the name that this transformers release gives its module or parameter."""
    renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]
    known = {name for name, _ in (*model.named_modules(), *model.named_parameters())}
    found = {}
    for name in tensors:
        bare = name.removeprefix(PREFIX)
        old = _LORA.sub("", bare)
        new = old if old in known else rename_source_key(old, renamings, [])[0]
        found[name] = PREFIX + new + bare.removeprefix(old) if new in known else name
    return found


def _fit_targets(config: LoraConfig, model: Any, names: Mapping[str, str]) -> None:
    """Name the adapted modules as this release of transformers does; patterns of older ones match names of then."""
    if all(new == old for old, new in names.items()):
        return  # names of today, which PEFT matches itself
    if isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear":
        return
    old_names = {_module_of(new): _module_of(old) for old, new in names.items() if _LORA.search(old)}
    heads = sorted({_heads(new, old) for new, old in old_names.items()}, key=lambda head: len(head[0]), reverse=True)
    for name, _ in model.named_modules():  # those that the file should have, too
        for new, old in heads:
            if name not in old_names and name.startswith(f"{new}."):
                old_names[name] = old + name.removeprefix(new)
    for patterns in (config.rank_pattern, config.alpha_pattern):
        for pattern, value in list(patterns.items()):
            found = re.compile(rf"(.*\.)?({pattern})$")
            del patterns[pattern]
            patterns.update({new: value for new, old in old_names.items() if found.match(old)})
    config.target_modules = {new for new, old in old_names.items() if check_target_module_exists(config, old)}
    config.layers_to_transform = config.layers_pattern = config.exclude_modules = None


def _module_of(name: str) -> str:
    """Return the module that a tensor of an adapter belongs to."""
    return _LORA.sub("", name.removeprefix(PREFIX))


def _heads(new: str, old: str) -> tuple[str, str]:
    """Return the beginnings of two names, without what follows alike in both."""
    news, olds = new.split("."), old.split(".")
    while len(olds) > 1 and news[-1] == olds[-1]:
        news.pop()
        olds.pop()
    return ".".join(news), ".".join(olds)


def _is_of_adapter(name: str) -> bool:
    """Return whether a parameter of the wrapped model is the adapter's own."""
    return f".{ADAPTER}" in name and any(part in name for part in ("lora_", "modules_to_save", "trainable_tokens"))


def _first_line(error: Exception) -> str:
    """Return torch's line about the first tensor that does not fit; it has a line for each."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("size mismatch")), lines[0] if lines else repr(error))


def _of_another_base(adapter: SavedAdapter, reason: str) -> str:
    return adapter_fault(adapter, f"{_other_base(adapter)} ({reason})")


def _other_base(adapter: SavedAdapter) -> str:
    recorded = adapter.settings.get("base_model_name_or_path")
    return f"it is of another base, of {recorded!r} as it says itself; name that by `base_model`"
