"""The small model that the project trains and ships: transformers' own Qwen3-VL classes, 1.5 million parameters.

It is made to learn to localize within minutes on a CPU, where `tiny` is made to test code. What it owes its speed to
was measured (see experiments/LOG.md): each coordinate from 0 to 100 is one token, so are the few phrases of its
prompts, and positions start as sines and cosines rather than noise. Its pictures are 64 x 64 pixels, 16 tokens.

Tokenizer and image processor are files in `small_assets/`; to build them anew: ``python -m focus_agents.models.small``
(a test checks that they are what this module builds).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import (
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus_agents.models.tiny import SPECIAL_TOKENS
from focus_env.answer_text import ANSWER_CLOSE, ANSWER_OPEN
from focus_env.datasets.synthetic.paints import COLOURS, TEXTURE_GROUPS
from focus_env.datasets.synthetic.shapes import COMMON_FAMILIES, HELD_OUT_FAMILIES
from focus_env.prompts import PSEUDO_NAMES

ASSETS = Path(__file__).parent / "small_assets"
MODEL_TYPE = "qwen3_vl"

PATCH_SIZE = 8
MERGE_SIZE = 2
"""2 x 2 patches become one token, so a token stands for 16 x 16 pixels."""
MAX_IMAGE_TOKENS = 16
GRID = 8
"""Patches along each side of a 64 x 64 picture."""
VOCAB_SIZE = 512
LARGEST_COORDINATE = 100

PHRASES = (
    "Find the object.", "Answer:", "? ", "Where is ", "What is at ", ", ",
    f"{ANSWER_OPEN}[", f"]{ANSWER_CLOSE}", "<ref>", "</ref>",
)  # fmt: skip
"""Phrases of prompts and answers beside numbers and names."""

NAMES = (
    *COLOURS, "solid", *(texture for group in TEXTURE_GROUPS for texture in group),
    *COMMON_FAMILIES, *HELD_OUT_FAMILIES, *PSEUDO_NAMES,
)  # fmt: skip
"""Words for objects, a token each."""

CHAT_TEMPLATE = (
    "<|im_start|>"
    "{% for message in messages %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% if message.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
"""Questions and answers in turn without a word about whose turn it is; an answer ends with the end token."""


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Build the tokenizer: bytes, and on top of them whole tokens for coordinates, phrases and names."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={character: index for index, character in enumerate(alphabet)},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        padding_side="left",
        model_max_length=4096,
    )
    own = {tokenizer.eos_token, tokenizer.pad_token}
    tokenizer.add_special_tokens({"additional_special_tokens": [t for t in SPECIAL_TOKENS if t not in own]})
    # Digits are bytes already. Of two added tokens that begin alike the longer one is taken.
    numbers = [AddedToken(str(value), normalized=False) for value in range(10, LARGEST_COORDINATE + 1)]
    phrases = [AddedToken(phrase, normalized=False) for phrase in PHRASES]
    names = [AddedToken(name, normalized=False, single_word=True, lstrip=True) for name in NAMES]
    tokenizer.add_tokens([*numbers, *phrases, *names])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Build Qwen3-VL's preparation of pictures with small patches; needs no torchvision."""
    pixels_per_token = (PATCH_SIZE * MERGE_SIZE) ** 2
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH_SIZE,
        merge_size=MERGE_SIZE,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        size={"shortest_edge": 4 * pixels_per_token, "longest_edge": MAX_IMAGE_TOKENS * pixels_per_token},
    )


def build_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """Return a Qwen3-VL configuration of about 1.5 million parameters that fits the tokenizer's ids."""
    hidden_size, num_heads, head_dim = 128, 4, 32
    rotary_pairs = head_dim // 2
    height_width = rotary_pairs * 3 // 8
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": hidden_size,
            "intermediate_size": 3 * hidden_size,
            "num_hidden_layers": 5,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_heads,
            "head_dim": head_dim,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [rotary_pairs - 2 * height_width, height_width, height_width],
                "mrope_interleaved": True,
            },
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.04,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": hidden_size,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": 2,
            "in_channels": 3,
            "num_position_embeddings": GRID**2,
            "deepstack_visual_indexes": [],
            "initializer_range": 0.04,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_model(tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """Return the small model with new weights, a function of the seed; the global random state is left as it was.

    Random weights but for two tables, which start where a model would first have to find its way to: near cells of the
    picture, and near numbers, have similar vectors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(build_config(tokenizer))
        cells = model.model.visual.pos_embed.weight
        words = model.model.language_model.embed_tokens.weight
        numbers = tokenizer.convert_tokens_to_ids([str(value) for value in range(LARGEST_COORDINATE + 1)])
        rotation = torch.linalg.qr(torch.randn(words.shape[1], words.shape[1]))[0]
        with torch.no_grad():
            centres = waves((torch.arange(GRID) + 0.5) / GRID, cells.shape[1] // 2)
            down, right = centres[:, None].expand(-1, GRID, -1), centres[None].expand(GRID, -1, -1)
            cells.copy_(0.4 * torch.cat([down, right], dim=2).flatten(0, 1))
            shares = torch.linspace(0, 1, LARGEST_COORDINATE + 1)
            words[numbers] = 0.3 * words[numbers] + 0.05 * waves(shares, words.shape[1]) @ rotation
    return model


def waves(shares: torch.Tensor, size: int) -> torch.Tensor:
    """Return [n, size] sines and cosines of [n] numbers from 0 to 1, from a quarter of a turn to eight turns in all."""
    num_frequencies = size // 2
    frequencies = math.pi * 0.5 * 2 ** torch.linspace(0, 5, num_frequencies)
    angles = shares[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def main() -> None:
    """Write the tokenizer and the image processor into `small_assets/`."""
    build_tokenizer().save_pretrained(ASSETS)
    build_image_processor().save_pretrained(ASSETS)


if __name__ == "__main__":
    main()
