"""Sizes of published bases, written down, so that a run of theirs is counted without a download.

They are those of the files `config.json` and `preprocessor_config.json` on the hub.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import LlavaOnevisionConfig, Qwen2Config, Qwen2VLConfig, Qwen3VLConfig, SiglipVisionConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus_agents.models.budget import PromptSize
from focus_agents.models.family import ModelFamily
from focus_agents.models.llava_onevision import LLAVA_ONEVISION
from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.qwen import QWEN2_VL, QWEN3_VL
from focus_agents.models.shape import ModelShape, shape_of
from focus_agents.models.views import View, num_image_tokens
from focus_env.prompts import get_template


@dataclass(frozen=True, eq=False)
class Base:
    """A base model by its sizes.

    Args:
        config: Makes its configuration.
        family: Its family.
        patch_size: Side of a patch in pixels; a token is two by two of them.
        limits: Least and most pixels of a picture, as its folder on the hub has them.
        fixed_tokens: Tokens of every picture, where all have as many whatever their size; None: the size decides.
    """

    config: Callable[[], Any]
    family: ModelFamily
    patch_size: int
    limits: tuple[int, int]
    fixed_tokens: int | None = None

    @functools.cached_property
    def shape(self) -> ModelShape:
        """The sizes that decide what it costs."""
        return shape_of(self.config())

    @functools.lru_cache(maxsize=64)  # noqa: B019 - bases live as long as the process
    def prompt(self, picture_wh: tuple[int, int], *, shots: int, max_image_tokens: int | None) -> PromptSize:
        """Measure a prompt in full sentences; its words are cut by the tiny tokenizer, which cuts them finer.

        Args:
            picture_wh: (width, height) of all pictures.
            shots: Supports.
            max_image_tokens: Most tokens of a picture; None: the model's own limit.

        Raises:
            ValueError: If all pictures have more tokens than that.
        """
        if self.fixed_tokens is not None:
            return self._prompt_of_fixed(shots + 1, self.fixed_tokens, max_image_tokens)
        least, most = self.limits
        size = {"shortest_edge": least, "longest_edge": most}
        image_processor = Qwen2VLImageProcessorPil(patch_size=self.patch_size, merge_size=2, size=size)
        if max_image_tokens is not None:
            self.family.limit_image_tokens(image_processor, max_image_tokens)
        picture = np.zeros((picture_wh[1], picture_wh[0], 3), dtype=np.uint8)
        box = [0.1 * picture_wh[0], 0.1 * picture_wh[1], 0.5 * picture_wh[0], 0.7 * picture_wh[1]]
        question: Any = {
            "support_images": (picture,) * shots,
            "support_boxes": np.array([box] * shots),
            "query_image": picture,
        }
        processor = VLMProcessor(load_processor("tiny").tokenizer, image_processor, self.family)
        encoded = processor.encode(get_template("default").render(question))
        return PromptSize.of(encoded, self.shape, image_token_id=processor.image_token_id)

    def _prompt_of_fixed(self, num_pictures: int, fixed_tokens: int, max_image_tokens: int | None) -> PromptSize:
        """Return the same where all pictures have as many tokens; the words are those of Qwen2-VL's language model."""
        if max_image_tokens is not None:
            self.family.limit_image_tokens(None, max_image_tokens)
        words = BASES["qwen2-vl-7b"].prompt((56, 56), shots=num_pictures - 1, max_image_tokens=None)
        values = num_pictures * 3 * self.config().vision_config.image_size ** 2
        return PromptSize(
            tokens=words.tokens - words.visual_tokens + num_pictures * fixed_tokens,
            visual_tokens=num_pictures * fixed_tokens,
            num_pictures=num_pictures,
            patches=-(-values // self.shape.values_per_patch),
            pixel_bytes=4 * values,
        )


def _qwen2_vl(*, hidden: int, intermediate: int, layers: int, heads: int) -> Qwen2VLConfig:
    text = {
        "vocab_size": 152064, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 4 if hidden == 3584 else 8,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {
        "depth": 32, "embed_dim": 1280, "hidden_size": hidden, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
    }  # fmt: skip
    return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)


def _qwen3_vl_8b() -> Qwen3VLConfig:
    text = {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
    }  # fmt: skip
    vision = {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "out_hidden_size": 4096,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    }  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)


def _llava_onevision_7b() -> LlavaOnevisionConfig:
    text = Qwen2Config(
        vocab_size=152000, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=32768,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=26, num_attention_heads=16, image_size=384,
        patch_size=14, vision_use_head=False,
    )  # fmt: skip
    return LlavaOnevisionConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)


BASES: Mapping[str, Base] = {
    "qwen2-vl-7b": Base(
        functools.partial(_qwen2_vl, hidden=3584, intermediate=18944, layers=28, heads=28),
        QWEN2_VL,
        patch_size=14,
        limits=(3136, 12845056),
    ),
    "qwen2-vl-72b": Base(
        functools.partial(_qwen2_vl, hidden=8192, intermediate=29568, layers=80, heads=64),
        QWEN2_VL,
        patch_size=14,
        limits=(3136, 12845056),
    ),
    "llava-onevision-7b": Base(
        _llava_onevision_7b,
        LLAVA_ONEVISION,
        patch_size=14,
        limits=(384 * 384, 384 * 384),
        fixed_tokens=num_image_tokens([View(*LLAVA_ONEVISION.grid, end=1)]),
    ),
    "qwen3-vl-8b": Base(_qwen3_vl_8b, QWEN3_VL, patch_size=16, limits=(65536, 16777216)),
}
"""By the names that recipes use."""
