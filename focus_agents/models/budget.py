"""Estimate the cost of a model before it runs: tokens, memory, work; arithmetic from its sizes and the settings.

Memory is counted in bytes of the tensors that the package's own code holds at once. The coefficients below were
counted on narrow models, and `tests/focus_agents/models/test_budget.py` counts them again. The driver's own memory,
gaps between tensors and work space of kernels come on top: `RESERVE` is kept for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from focus_agents.models.inputs import LOGITS_PER_CHUNK, MAX_BATCH_TOKENS, EncodedPrompt
from focus_agents.models.quantization import bytes_in_4_bits
from focus_agents.models.settings import FinetuningSettings, Precision
from focus_agents.models.shape import ModelShape

GB = 1e9
RESERVE = 0.05
"""Share of a GPU's memory that the count leaves free."""
COPIES_SHARE = 0.25
"""Share of a device's memory that merged copies of weights may take; of all of it, so that a run can be repeated."""
NUMBER_BYTES: Mapping[Precision, int] = {"fp32": 4, "bf16": 2}


class Coefficients(NamedTuple):
    """Bytes for a token, as multiples of a model's widths."""

    hidden: float
    intermediate: float
    key_value: float = 0.0
    constant: float = 0.0

    def of(self, shape: ModelShape) -> float:
        """Return the bytes for a token of the language model."""
        widths = (shape.hidden, shape.intermediate, shape.key_value_width, 1.0)
        return sum(factor * width for factor, width in zip(self, widths, strict=True))

    def of_vision(self, shape: ModelShape) -> float:
        """Return the bytes for a patch of the vision tower."""
        return self.hidden * shape.vision_width + self.intermediate * shape.vision_intermediate + self.constant


Kind = tuple[bool, Precision]
"""Whether the model has adapters, and the precision."""
KEPT: Mapping[Kind, Coefficients] = {
    (True, "bf16"): Coefficients(24, 8, 4, 140),
    (True, "fp32"): Coefficients(28, 16, 8, 240),
    (False, "bf16"): Coefficients(32, 8, 6, 30),
    (False, "fp32"): Coefficients(36, 16, 8, 30),
}
"""Memory that a decoder layer keeps of a token for the backward pass."""
KEPT_OF_HEADS: Mapping[Precision, float] = {"bf16": 4.8, "fp32": 7.6}
"""The same for each width of queries and keys, where these are normalized."""
PASSING: Mapping[Kind, Coefficients] = {
    (True, "bf16"): Coefficients(13.6, 4.2, 1.6, 215),
    (True, "fp32"): Coefficients(15.5, 2.9, 0, 500),
    (False, "bf16"): Coefficients(24.3, 0, 1.6, 130),
    (False, "fp32"): Coefficients(19.3, 3.0, 0, 520),
}
"""Memory that the backward pass holds of a token beyond that."""
KEPT_BETWEEN: Mapping[Kind, Coefficients] = {
    (True, "bf16"): Coefficients(2, 0),
    (True, "fp32"): Coefficients(4, 0),
    (False, "bf16"): Coefficients(4, 0),
    (False, "fp32"): Coefficients(4, 0),
}
"""Memory that gradient checkpointing keeps of a token between two layers."""
MADE_AGAIN: Mapping[Kind, Coefficients] = {
    (True, "bf16"): Coefficients(36.4, 13.9, 4.6, 194),
    (True, "fp32"): Coefficients(33.7, 23, 10, 390),
    (False, "bf16"): Coefficients(32.8, 12.4, 5.1, 9),
    (False, "fp32"): Coefficients(36.8, 24.4, 7.1, 7),
}
"""Memory of a token beside these, of the one layer that is made again and gone back through."""
ENCODING: Mapping[Kind, Coefficients] = {
    (True, "bf16"): Coefficients(9, 8, 0, 46),
    (True, "fp32"): Coefficients(18, 16, 0, 46),
    (False, "bf16"): Coefficients(9, 6, 0, 46),
    (False, "fp32"): Coefficients(18, 12, 0, 46),
}
"""Memory that a layer holds at once of a token of a prompt where nothing is kept for a backward pass."""
VISION_ENCODING: Mapping[Precision, Coefficients] = {"bf16": Coefficients(36, 0), "fp32": Coefficients(22, 10)}
"""The same of a patch in the vision tower."""
VISION_KEPT: Mapping[Precision, Coefficients] = {"bf16": Coefficients(22, 6), "fp32": Coefficients(44, 12)}
"""Memory that a layer of the vision tower keeps of a patch where the tower is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSize:
    """The size of a prompt.

    Attributes:
        tokens: All of them.
        visual_tokens: Those of pictures.
        num_pictures: Pictures.
        patches: Patches that the vision tower encodes for them.
        pixel_bytes: Bytes of the pictures as the tower takes them.
    """

    tokens: int
    visual_tokens: int
    num_pictures: int
    patches: int
    pixel_bytes: int

    @classmethod
    def of(cls, prompt: EncodedPrompt, shape: ModelShape, *, image_token_id: int) -> PromptSize:
        """Measure an encoded prompt of a model."""
        values = sum(array.size for array in prompt.images.values())
        return cls(
            tokens=len(prompt.input_ids),
            visual_tokens=int((prompt.input_ids == image_token_id).sum()),
            num_pictures=len(prompt.grids),
            patches=-(-values // shape.values_per_patch),
            pixel_bytes=sum(array.nbytes for array in prompt.images.values()),
        )

    def describe(self) -> str:
        """Return it in words, as in "2,002 tokens, 1,750 of them 5 pictures"."""
        return f"{self.tokens:,} tokens, {self.visual_tokens:,} of them {self.num_pictures} pictures"


Memory = Mapping[str, float]
"""Bytes by what they hold."""


def total(memory: Memory) -> float:
    """Return all bytes of a count."""
    return sum(memory.values())


def add(*counts: Memory) -> Memory:
    """Return counts of what is there at the same time as one."""
    return {name: sum(c.get(name, 0.0) for c in counts) for name in dict.fromkeys(n for c in counts for n in c)}


def in_words(size: float) -> str:
    """Return a number of bytes as in "31.2 GB" or "0.05 GB", in one unit, so that figures can be compared."""
    return f"{_in_gigabytes(size)} GB"


def _in_gigabytes(size: float) -> str:
    """Return a number with two digits that count, or as many as there are down to 0.01."""
    return f"{size / GB:.1f}" if size >= GB else f"{size / GB:.2f}" if size >= 0.005 * GB else "under 0.01"


def describe(memory: Memory) -> str:
    """Return a count in words, as in "31.2 GB (weights 16.6, activations 14.1, optimizer 0.2, gradients 0.1)"."""
    parts = sorted(memory.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{name} {_in_gigabytes(size)}" for name, size in parts if size >= 0.05 * GB)
    return in_words(total(memory)) + (f" ({listed})" if listed else "")


# ---- what stays


def trained_parameters(shape: ModelShape, settings: FinetuningSettings) -> int:
    """Count the parameters that a training changes."""
    if settings.lora_rank is not None:
        return settings.lora_rank * shape.adapter_width
    return shape.language_parameters + (0 if settings.freeze_vision else shape.vision_parameters)


def held(shape: ModelShape, settings: FinetuningSettings) -> Memory:
    """Count the weights of a model that is made ready to train: trained ones in float32, the base under adapters not.

    Under autocast, weights that are trained are there once more in bfloat16. Of a base in 4 bits the linear layers are
    in these, all else is in bfloat16, and one layer at a time is unpacked to that.
    """
    trained = trained_parameters(shape, settings)
    has_adapters, is_narrow = settings.lora_rank is not None, settings.precision == "bf16"
    unpacked: Memory = {}
    if settings.quantization == "4bit":
        base = 2 * (shape.parameters - sum(shape.linear_weights)) + sum(map(bytes_in_4_bits, shape.linear_weights))
        unpacked = {"unpacked": 2 * max(shape.linear_weights, default=0)}
    else:
        base = shape.parameters * (2 if has_adapters and is_narrow else 4)
    copies = 2 * trained if is_narrow else 0
    return {"weights": base + (4 * trained if has_adapters else 0) + copies, **unpacked}


def optimized(shape: ModelShape, settings: FinetuningSettings, *, num_replicas: int = 1) -> Memory:
    """Count what a training holds beside weights: gradients, and the two means of AdamW, in float32.

    Processes that share a step exchange gradients by buckets, which hold all of them once more.
    """
    trained = trained_parameters(shape, settings)
    buckets = {"buckets": 4 * trained} if num_replicas > 1 else {}
    return {"gradients": 4 * trained, "optimizer": 8 * trained, **buckets}


# ---- what comes and goes


def learning(
    shape: ModelShape, settings: FinetuningSettings, *, tokens: float, scored_tokens: float, patches: float
) -> Memory:
    """Count what one forward and backward pass holds at once.

    Args:
        shape: The model's.
        settings: What is trained, and how.
        tokens: Columns of all rows of the pass.
        scored_tokens: Tokens whose logits are made.
        patches: Patches that the vision tower encodes in the pass; 0 where features take their place.
    """
    kind: Kind = (settings.lora_rank is not None, settings.precision)
    if settings.gradient_checkpointing:
        kept = shape.num_layers * KEPT_BETWEEN[kind].of(shape) + MADE_AGAIN[kind].of(shape)
    else:
        heads = (shape.query_width + shape.key_value_width) * KEPT_OF_HEADS[settings.precision]
        layer = KEPT[kind].of(shape) + (heads if shape.normalizes_heads else 0)
        kept = shape.num_layers * layer + PASSING[kind].of(shape)
    activations = tokens * kept
    if settings.lora_rank is None and not settings.freeze_vision:
        vision = patches * shape.vision_layers * VISION_KEPT[settings.precision].of_vision(shape)
    else:  # over before the first layer of the language model
        vision = max(0.0, patches * encoding_patch(shape, settings.precision) - activations)
    rows = min(scored_tokens, max(256, LOGITS_PER_CHUNK // shape.vocabulary))
    # Those of the head, wide ones, their log-probabilities, and the gradient of one of these.
    logits = rows * shape.vocabulary * (3 * 4 + NUMBER_BYTES[settings.precision])
    pictures = 4 * patches * shape.values_per_patch
    return {"activations": activations, "vision": vision, "logits": logits, "pictures": pictures}


def encoding_patch(shape: ModelShape, precision: Precision) -> float:
    """Return the bytes that the vision tower holds at once for a patch, where it keeps nothing for a backward pass."""
    return VISION_ENCODING[precision].of_vision(shape) + NUMBER_BYTES[precision] * shape.values_per_patch


def answering(
    shape: ModelShape,
    precision: Precision,
    *,
    prompt: PromptSize,
    num_prompts: int,
    num_answers: int = 1,
    answer_tokens: int,
    has_adapters: bool = False,
    copies: float = 0.0,
) -> Memory:
    """Count what a batch of prompts holds at once while it is answered, beside the weights.

    Args:
        shape: The model's.
        precision: Of the computation.
        prompt: Its size; all of a batch are taken for as large.
        num_prompts: Prompts that are asked for together; more than fit into `MAX_BATCH_TOKENS` come one batch after the
            other.
        num_answers: Answers to each.
        answer_tokens: Most tokens of an answer.
        has_adapters: Whether the model has adapters beside its weights.
        copies: Bytes of the merged weights with which it answers, see `merged_copies`; 0: it adds its adapters.
    """
    num_prompts = min(num_prompts, max(1, MAX_BATCH_TOKENS // prompt.tokens))
    width = NUMBER_BYTES[precision]
    columns = num_prompts * (prompt.tokens + num_answers * answer_tokens)
    cache = 2 * shape.num_layers * columns * shape.key_value_width * width
    logits = num_prompts * num_answers * shape.vocabulary * (3 * 4 + width)
    encoding = num_prompts * prompt.tokens * ENCODING[has_adapters and not copies, precision].of(shape)
    vision = num_prompts * prompt.patches * encoding_patch(shape, precision)
    return {
        "cache": cache,
        "prompts": max(encoding, logits, vision - cache),  # the tower is done before there is a cache
        "merged copies": copies,
        "pictures": num_prompts * prompt.pixel_bytes,
    }


def copies_fit(num_bytes: float, device_bytes: float) -> bool:
    """Return whether merged copies of so many bytes are made on a device with so much memory."""
    return num_bytes <= COPIES_SHARE * device_bytes


def merged_copies(shape: ModelShape, settings: FinetuningSettings, device_bytes: float | None) -> float:
    """Return the bytes of the merged weights with which a model in training answers; see `lean_adapters`.

    Args:
        shape: The model's.
        settings: How it is trained; neither whole weights nor a base in 4 bits are copied.
        device_bytes: Memory of its device; None: not known, and taken for enough.
    """
    if settings.lora_rank is None or settings.quantization == "4bit":
        return 0.0
    size = NUMBER_BYTES[settings.precision] * shape.adapted_weights
    return float(size) if device_bytes is None or copies_fit(size, device_bytes) else 0.0


# ---- work

COMPUTE_SHARE = 0.4
"""Share of a GPU's peak that long passes reach; a guess."""


def forward_flops(shape: ModelShape, *, tokens: float, patches: float = 0.0) -> float:
    """Return the operations of one forward pass: two for each weight and token, and those of attention left out."""
    language = 2 * shape.layer_parameters * tokens
    return language + 2 * shape.vision_parameters * patches


def learning_flops(shape: ModelShape, settings: FinetuningSettings, *, tokens: float, patches: float = 0.0) -> float:
    """Return the operations of a forward and a backward pass.

    Backward is a forward pass for the gradients of activations, and one more for those of weights where the base is
    trained; checkpointing adds one.
    """
    passes = 2 + (settings.lora_rank is None) + settings.gradient_checkpointing
    trains_vision = settings.lora_rank is None and not settings.freeze_vision
    vision = 2 * shape.vision_parameters * patches * (3 if trains_vision else 1)
    return passes * forward_flops(shape, tokens=tokens) + vision
