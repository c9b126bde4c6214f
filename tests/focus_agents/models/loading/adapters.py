"""Adapters in PEFT's format over small bases, as other projects publish them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.models.families import make_batch, model_inputs

FAMILY = "qwen2_5_vl"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LANGUAGE_ONLY = r"^(?!.*visual).*(?:o_proj|up_proj|k_proj|gate_proj|q_proj|v_proj|down_proj).*"
"""As LLaMA-Factory writes it, which R1-Track trains with."""


def write_adapter(folder: Path, model: Any, base: str, **lora: Any) -> Path:
    """Write an adapter whose weights are no zeros; the model is left with it."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, "task_type": "CAUSAL_LM"} | lora
    wrapped = get_peft_model(model, LoraConfig(**options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=generator)
            elif "modules_to_save" in name:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.05, generator=generator))
    wrapped.peft_config["default"].base_model_name_or_path = base
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def change_settings(folder: Path, **changes: Any) -> None:
    """Change entries of an adapter's settings."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename_tensors(folder: Path, names: Mapping[str, str]) -> None:
    """Replace parts of the names of an adapter's tensors."""
    stored = load_file(folder / ADAPTER_WEIGHTS)

    def renamed(name: str) -> str:
        for old, new in names.items():
            name = name.replace(old, new)
        return name

    save_file({renamed(name): values for name, values in stored.items()}, folder / ADAPTER_WEIGHTS)


AS_BEFORE = {
    "base_model.model.model.language_model.": "base_model.model.model.",
    "base_model.model.model.visual.": "base_model.model.visual.",
}
"""Names of a Qwen2(.5)-VL's modules before transformers 4.52."""


def load_base(base: Path) -> Any:
    """A base by transformers alone."""
    return AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)


def logits(model: Any, processor: VLMProcessor) -> torch.Tensor:
    """[N, T, V] of a batch of prompts and answers."""
    with torch.no_grad():
        return model.eval()(**model_inputs(make_batch(processor))).logits.float()
