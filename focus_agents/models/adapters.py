"""LoRA adapters on a language model, and the model inside them and other wrappers.

The adapter that answers and is trained is PEFT's "default". A second one, frozen, may hold the weights that a training
started from: the reference of a KL penalty.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from focus_agents.models.family import ModelFamily, ModelParts
from focus_agents.models.registry import find_family

PREFIX = "base_model.model."
"""Before the name of a module of the base in PEFT's models and files."""
ADAPTER, REFERENCE = "default", "reference"
"""Names of the adapter that is trained, and of the frozen one that it started from."""


def add_adapters(model: Any, *, rank: int, alpha: float | None = None, seed: int = 0) -> Any:
    """Freeze a model and add trainable adapters, which at first change nothing.

    Args:
        model: A model of transformers; changed in place.
        rank: r.
        alpha: Scale of the adapters times r; None: 2 * r, the paper's ratio.
        seed: For the adapters' weights; the global random state is left as it was.

    Returns:
        The PEFT model around it.
    """
    targets = family_of(model).lora_targets
    lora = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), quiet_peft():
        torch.manual_seed(seed)
        return get_peft_model(model, lora)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Keep quiet what PEFT warns of where nothing here can do otherwise."""
    with warnings.catch_warnings():
        # Peft asks a model by a name that transformers has given up; nothing here can ask otherwise.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def has_adapters(model: Any) -> bool:
    """Return whether a model is one of PEFT's around another."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def train_adapter(model: Any) -> None:
    """Make the adapter of a PEFT model what is trained, and nothing else; its weights are in float32.

    Args:
        model: The PEFT model; changed in place.
    """
    model.requires_grad_(False)
    model.peft_config[ADAPTER].inference_mode = False
    model.set_adapter(ADAPTER)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def keep_reference(model: Any) -> None:
    """Keep a frozen copy of the adapter as it is now; `reference_adapter` switches to it.

    Args:
        model: The PEFT model; the adapter that is trained stays as it is.
    """
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with quiet_peft():
        model.add_adapter(REFERENCE, copy.deepcopy(model.peft_config[ADAPTER]))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if f".{REFERENCE}" in name:
                parameter.copy_(parameters[name.replace(f".{REFERENCE}", f".{ADAPTER}")])
    model.set_adapter(ADAPTER)
    _restore(model, flags)


@contextlib.contextmanager
def reference_adapter(model: Any) -> Iterator[None]:
    """Let the copy of `keep_reference` answer in place of the adapter that is trained."""
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.set_adapter(REFERENCE)
    try:
        yield
    finally:
        model.set_adapter(ADAPTER)
        _restore(model, flags)


def _restore(model: Any, flags: dict[str, bool]) -> None:
    """Set which parameters are trained, which PEFT changes as it switches; those of the reference never are."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, False))


def merge_adapters(model: Any) -> Any:
    """Return the model with its adapters added to its weights, if it has any; the adapters are used up.

    Raises:
        ValueError: If the weights are quantized: they would be rounded anew, to other answers. Or if the adapters add
            biases where the weights have none, or change one of two weights that are one.
    """
    if has_adapters(model) and is_quantized(model):
        raise ValueError(
            "adapters: expected a base in whole weights to merge them into, got a quantized one, which would be "
            "rounded again; save the adapter (`save` adapter), and merge it by `focus export`, on the whole base"
        )
    if has_adapters(model) and (fault := merge_fault(model)) is not None:
        raise ValueError(
            f"adapters: they cannot be merged, since they {fault}; save the adapter (`save` adapter), or go on with it "
            "without `lora_rank`"
        )
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def can_merge(model: Any) -> bool:
    """Return whether merged weights would answer as the adapters do, but for the rounding of a sum.

    In bfloat16 that sum changes log-probabilities by no more than bfloat16 does anyway: experiments/LOG.md, 2026-12-01.

    Args:
        model: Of PEFT or not; a model without adapters has none to merge.
    """
    return has_adapters(model) and not is_quantized(model) and merge_fault(model) is None


def merge_fault(model: Any) -> str | None:
    """Return what adapters do that merged weights could not, as the end of a sentence about them; None: nothing.

    Args:
        model: Of PEFT, with or without memory.
    """
    for name, module in model.named_modules():
        layers = getattr(module, "lora_B", {})
        adds_bias = ADAPTER in layers and getattr(layers[ADAPTER], "bias", None) is not None
        if adds_bias and getattr(module.get_base_layer(), "bias", None) is None:
            place = str(name).removeprefix(PREFIX)
            return f"add biases (lora_bias) to modules of the base that have none, e.g. {place}"
    base = base_model(model)
    first, last = base.get_input_embeddings(), base.get_output_embeddings()
    is_tied = first is not None and last is not None and getattr(last, "weight", None) is first.weight
    if is_tied and (_is_adapted(first) or _is_adapted(last)):
        return "change the embedding of tokens or the head, which are one weight in the base (tie_word_embeddings)"
    return None


def _is_adapted(module: Any) -> bool:
    return any(ADAPTER in getattr(module, layers, {}) for layers in ("lora_A", "lora_embedding_A"))


def is_quantized(model: Any) -> bool:
    """Return whether a model, wrapped or not, has weights in fewer bits than it computes in."""
    return getattr(base_model(model).config, "quantization_config", None) is not None


def base_model(model: Any) -> Any:
    """Return the transformers model inside DDP and PEFT, as far as it is wrapped."""
    model = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def family_of(model: Any) -> ModelFamily:
    """Return the family of a model, wrapped or not.

    Raises:
        CheckpointError: If no family has its model type.
    """
    config = base_model(model).config
    return find_family(config.model_type).for_config(config)


def model_parts(model: Any) -> ModelParts:
    """Return the modules of a model, wrapped or not, adapters included."""
    return family_of(model).parts(base_model(model))
