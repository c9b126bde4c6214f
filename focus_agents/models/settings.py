"""Settings of the model that a stage trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from focus_agents.settings import Ceiling, Settings

Precision = Literal["fp32", "bf16"]
"""Precision of the computation: bfloat16, or single precision."""
SavedForm = Literal["merged", "adapter", "both"]
"""Saved form of a model with adapters: whole weights with the adapters added, the adapters alone, or both."""

ExportForm = Literal["merged", "adapter"]
ExportDtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Type of exported weights; auto: as they are kept."""
Attention = Literal["auto", "sdpa", "flash"]
"""Attention of the language model and the vision tower: by PyTorch's SDPA, or by flash attention."""
Quantization = Literal["none", "4bit"]
"""In how many bits the frozen base under adapters is held."""
Engine = Literal["transformers", "vllm"]
"""Engine that answers prompts: the package's own sampling with models of transformers, or vLLM."""
VLLM_TEMPERATURES = (0.01, 2.0)
"""At which vLLM samples as it is told: it raises lower ones in silence, and refuses higher ones."""


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings(Settings):
    """The share of the model that is trained, and the precision."""

    lora_rank: Annotated[int, Ge(1), Ceiling(4096)] | None = None
    """Rank of LoRA adapters on the language model, far below the width of its layers; None: train all parameters."""
    lora_alpha: Annotated[float, Gt(0)] | None = None
    """Scale of the adapters times their rank; None: twice the rank."""
    freeze_vision: bool = True
    """Do not train the vision tower; with adapters it is never trained. GRPO then encodes each image once for sampling
    and all passes of learning."""
    precision: Precision = "fp32"
    """bf16 computes in bfloat16; weights that are trained stay in float32."""
    attention: Attention = "auto"
    """flash uses flash attention, in bf16 on a GPU; auto uses it if it is installed, else sdpa."""
    quantization: Quantization = "none"
    """4bit holds the base under adapters in 4 bits (QLoRA), and saves only the adapter; needs the extra quantized and a
    GPU."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, to save memory."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings(FinetuningSettings):
    """The model that is trained, and its training; the keys of RLlib's ``.rl_module(model_config={...})``."""

    model: str = "focus-small-sft"
    """Name or folder, as for `focus_agents.models.loading.load_model`."""
    max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per image; larger images are scaled down. None: as in the folder of a saved policy, else the limit of
    the model's image processor."""
    validation_max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per image in validation; None: as in that folder, else as in training."""
