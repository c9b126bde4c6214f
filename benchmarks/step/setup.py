"""A model, what it is asked, and what trains it, in the sizes that are compared."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import Qwen2VLForConditionalGeneration

from benchmarks.measuring import NUM_PICTURES, small_config
from focus_agents.models.adapters import add_adapters, base_model
from focus_agents.models.inputs import EncodedPrompt, PromptBatch
from focus_agents.models.loading import TINY, load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.tiny import MERGE_SIZE, build_config
from focus_env.prompts import TEMPLATES
from focus_env.types import Message, TextPart

ModelName = Literal["small", "7b"]

TEXT_TOKENS = 104
"""Of a prompt, what is neither a cell of a picture nor filled in: markers, four boxes, question, chat template."""
LEAST_PICTURE_SIDE = 2
"""In tokens; the image processor scales up what is smaller."""
LORA_RANK = 8
LEARNING_RATE = 1e-6

SEED = 0


@dataclass(frozen=True)
class Size:
    """P, G and T of a case."""

    prompt_tokens: int
    group_size: int
    answer_tokens: int

    @property
    def token_ratio(self) -> float:
        """Tokens with the prompt repeated for each answer, over those with one prompt."""
        own = self.group_size * self.answer_tokens
        return (self.group_size * self.prompt_tokens + own) / (self.prompt_tokens + own)


@dataclass(frozen=True)
class Setup:
    """A model, what it is asked, and what trains it.

    Attributes:
        model: In training mode; no layer of it behaves otherwise there.
        processor: The project's.
        messages: One conversation for each group.
        optimizer: Of what is trained of the model.
        device: Where the model is.
        size: Of prompts and answers.
        is_narrow: Whether it computes under bfloat16 autocast, as a training with `precision` bf16 does.
    """

    model: Any
    processor: VLMProcessor
    messages: tuple[tuple[Message, ...], ...]
    optimizer: torch.optim.Optimizer
    device: str
    size: Size
    is_narrow: bool = False

    @classmethod
    def build(cls, size: Size, *, model_name: ModelName = "small", device: str = "cpu", num_prompts: int = 1) -> Setup:
        """Random weights, pictures and digits, functions of a seed."""
        tokenizer = load_processor(TINY).tokenizer
        if model_name == "small":
            torch.manual_seed(SEED)
            model: Any = Qwen2VLForConditionalGeneration(small_config(tokenizer)).to(device)
        else:
            model = build_adapted(large_config(tokenizer), device)
        return cls.around(model, size, device=device, num_prompts=num_prompts)

    @classmethod
    def around(
        cls, model: Any, size: Size, *, device: str = "cpu", num_prompts: int = 1, is_narrow: bool = False
    ) -> Setup:
        """Return what asks and trains a model, in training mode from now on."""
        processor = build_processor(base_model(model).config)
        messages = tuple(build_messages(size.prompt_tokens, processor, seed=seed) for seed in range(num_prompts))
        trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
        return cls(model, processor, messages, optimizer, device, size, is_narrow)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that forward passes run in."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.is_narrow)

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """Parameters that are trained."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def banned_token_ids(self) -> list[int]:
        """Tokens that no answer holds, on any side: its end, padding, and tokens of pictures."""
        processor = self.processor
        return sorted({*processor.banned_token_ids, processor.eos_token_id, processor.pad_token_id})

    def encode(self) -> list[EncodedPrompt]:
        """Return the prompts as arrays."""
        return [self.processor.encode(messages) for messages in self.messages]

    def collate(self, encoded: Sequence[EncodedPrompt]) -> PromptBatch:
        """Return prompts as tensors, where the model is."""
        return self.processor.collate(encoded).to(self.device)

    def use_stock_attention(self) -> None:
        """Have the model compute as transformers wrote it, for peers."""
        base_model(self.model).set_attn_implementation({"text_config": "sdpa"})

    def take_gradients(self) -> torch.Tensor:
        """Return [values] the gradients of all that is trained, one behind the other; the parameters lose them."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        self.optimizer.zero_grad()
        return torch.cat([gradient.flatten() for gradient in gradients])


def build_adapted(config: Any, device: str) -> Any:
    """Return a model with random weights in bfloat16, a function of a seed, which adapters leave frozen."""
    torch.manual_seed(SEED)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    return add_adapters(model, rank=LORA_RANK)


def large_config(tokenizer: Any) -> Any:
    """Return the shape of Qwen2-VL-7B, with ids of the small tokenizer."""
    config = build_config(tokenizer, hidden_size=3584, num_layers=28, vision_depth=32)
    text, vision = config.text_config, config.vision_config
    text.vocab_size, text.intermediate_size = 152064, 18944
    text.num_attention_heads, text.num_key_value_heads = 28, 4
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text.initializer_range = vision.initializer_range = 0.02
    config.tie_word_embeddings = text.tie_word_embeddings = False
    vision.embed_dim, vision.num_heads, vision.mlp_ratio, vision.patch_size = 1280, 16, 4, 14
    return config


def build_processor(config: Any) -> VLMProcessor:
    """Return the small tokenizer, and an image processor with a model's patches, which scales no picture."""
    processor = load_processor(TINY)
    processor.image_processor.patch_size = config.vision_config.patch_size
    pixels_per_token = (config.vision_config.patch_size * MERGE_SIZE) ** 2
    most = config.text_config.max_position_embeddings
    processor.image_processor.size = {"shortest_edge": pixels_per_token, "longest_edge": most * pixels_per_token}
    return processor


def build_messages(num_tokens: int, processor: VLMProcessor, *, seed: int) -> tuple[Message, ...]:
    """Return a prompt of `num_tokens`: the project's own, with five square pictures as large as fit, then digits."""
    rng = np.random.default_rng(seed)
    side = math.isqrt((num_tokens - TEXT_TOKENS) // NUM_PICTURES)
    pixels = side * MERGE_SIZE * processor.image_processor.patch_size
    *support, query = rng.integers(256, size=(NUM_PICTURES, pixels, pixels, 3), dtype=np.uint8)
    (message,) = TEMPLATES["compact"].render(
        {
            "support_images": tuple(support),
            "support_boxes": np.array([[pixels / 4, pixels / 4, 3 * pixels / 4, 3 * pixels / 4]] * len(support)),
            "query_image": query,
        }
    )
    num_missing = num_tokens - len(processor.encode([message]).input_ids)
    # A digit is a token in each place.
    digits = "".join(map(str, rng.integers(10, size=num_missing)))
    return (Message(message.role, [*message.content, TextPart(digits)]),)
