"""Check by names and shapes that the tensors in a model's files are those that its configuration describes.

Of the files the headers alone are read. Transformers' own rules rename, join and split tensors that have no memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from focus_agents.models.loading.weight_files import StoredTensor
from focus_agents.models.weights import kind_fault

ADVICE = "take config.json and the weights from one place"


def empty_model(model_class: Any, config: Any) -> Any:
    """Return a model without memory.

    Args:
        model_class: Class of transformers, or one of its Auto classes.
        config: Of the model.
    """
    with torch.device("meta"):
        return model_class.from_config(config) if hasattr(model_class, "from_config") else model_class(config)


def tensors_fault(stored: Mapping[str, StoredTensor], model: Any) -> str | None:
    """Return which tensor of a model's files does not fit its configuration, and what to do; None: all do.

    Of quantized weights the numbers of layers alone are compared.

    Args:
        stored: The tensors in the model's files.
        model: Without memory, as `empty_model` makes it. Its parameters are replaced.
    """
    mapping = get_model_conversion_mapping(model)
    options = LoadStateDictConfig(device_map={"": "meta"}, weight_mapping=mapping)
    shapes = {name: tuple(values.shape) for name, values in model.state_dict().items()}
    values = {name: torch.empty(tensor.shape, device="meta") for name, tensor in stored.items()}
    with _without_progress():
        info, _ = convert_and_load_state_dict_in_model(model, values, options)
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(info)
    if fault := layers_fault(model, info.unexpected_keys):
        return fault
    if getattr(model.config, "quantization_config", None) is not None:
        return None
    wrong = {name: list(got) for name, got, _ in info.mismatched_keys}
    if bad := sorted({*wrong, *info.conversion_errors}):
        sources = _sources(model, mapping, stored, shapes, bad[0])
        return _shape_fault(bad[0], shapes.get(bad[0]), wrong.get(bad[0]), sources)
    kinds = (kind_fault(tensor.file, name, tensor.kind) for name, tensor in stored.items())
    return missing_fault(info.missing_keys) or next(filter(None, kinds), None)


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """Hide the progress bar, since no weights are loaded."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def missing_fault(missing: Collection[str]) -> str | None:
    """Return that weights are missing, by the names that transformers has for them; None: none is."""
    return f"{len(missing)} weights are missing, e.g. {min(missing)}" if missing else None


def layers_fault(model: Any, unused: Collection[str]) -> str | None:
    """Return which field of a configuration has fewer layers than the weights; None: none.

    Args:
        model: Made of the configuration.
        unused: Names of tensors that it has no place for.
    """
    most: dict[str, int] = {}
    for name in unused:
        found = _beyond(model, name.split("."))
        if found is not None:
            most[found[0]] = max(most.get(found[0], 0), found[1])
    if not most:
        return None
    path = min(most)
    layers, count = model.get_submodule(path), most[path] + 1
    field = _layers_field(model.config, path, len(layers))
    return (
        f"config.json: {field}: expected {count}, as the weights have {path}.0 to {path}.{most[path]}, "
        f"got {len(layers)}; take the config.json that belongs to them"
    )


def _beyond(model: Any, parts: Sequence[str]) -> tuple[str, int] | None:
    """Return the path of a list of layers and the index that lies beyond its end; None: a name of no such layer."""
    module = model
    for depth, part in enumerate(parts):
        if isinstance(module, torch.nn.ModuleList) and part.isdigit() and int(part) >= len(module):
            return ".".join(parts[:depth]), int(part)
        module = getattr(module, part, None)
        if not isinstance(module, torch.nn.Module):
            return None
    return None


def _layers_field(config: Any, path: str, count: int) -> str:
    """Return the field that says how many layers a list has, or the list's own name."""
    part = "vision_config" if "vis" in path else "text_config"
    for prefix, holder in ((f"{part}.", getattr(config, part, None)), ("", config)):
        for name in ("depth", "num_hidden_layers"):
            if holder is not None and getattr(holder, name, None) == count:
                return f"{prefix}{name}"
    return f"the number of {path}"


def _sources(
    model: Any, mapping: Sequence[Any], stored: Mapping[str, StoredTensor], names: Collection[str], target: str
) -> dict[str, StoredTensor]:
    """Return the tensors of the files that become one of a model's parameters."""
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    known = dict.fromkeys(names)
    found = {}
    for name, tensor in stored.items():
        renamed, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if renamed == target:
            found[name] = tensor
    return found


def _shape_fault(
    name: str, expected: Sequence[int] | None, got: Sequence[int] | None, sources: Mapping[str, StoredTensor]
) -> str:
    """Say which tensors of which file do not make a parameter."""
    wanted = f"of shape {list(expected)}, as config.json has it" if expected is not None else "as config.json has it"
    (own, tensor), *others = sources.items() or [(name, StoredTensor("weights", tuple(got or ()), "", 0))]
    if not others and got is not None and tuple(got) == tensor.shape:
        return f"{tensor.file}: {own}: expected a tensor {wanted}, got {list(got)}; {ADVICE}"
    told = f"{list(tensor.shape)}" + (f" and {len(others)} more tensors" if others else "")
    result = f", which makes {list(got)}" if got is not None else ""
    return f"{tensor.file}: {own}: expected what becomes {name} {wanted}, got {told}{result}; {ADVICE}"
