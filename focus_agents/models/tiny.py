"""The small offline model: transformers' own Qwen2-VL classes, a tokenizer and an image processor, no download.

It takes the same path through the code as a 7B model: the same classes, the same chat template shape, byte-level BPE
with single digits, M-RoPE. Tokenizer and image processor are files in `tiny_assets/`; the weights come from a seed.

To build the files anew: ``python -m focus_agents.models.tiny`` (a test checks that they are what this module builds).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus_env.prompts import TEMPLATES
from focus_env.spaces import Observation
from focus_env.types import Box, TextPart

ASSETS = Path(__file__).parent / "tiny_assets"
MODEL_TYPE = "qwen2_vl"

PATCH_SIZE = 8
MERGE_SIZE = 2
"""2 x 2 patches become one token, so a token stands for 16 x 16 pixels."""
MAX_IMAGE_TOKENS = 64
VOCAB_SIZE = 512
ROPE_THETA = 30.0
"""M-RoPE gives the lowest frequencies to the width axis. With the usual 10,000 these would turn by less than a
hundredth of a radian over a picture of a few tokens, and columns could not be told apart."""
INITIALIZER_RANGE = 0.04
"""Wider than the usual 0.02, with which attention in so narrow a model starts out, and long stays, nearly uniform."""

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""The special tokens of Qwen2-VL, in its order."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The shape of Qwen2-VL's template, without its default system turn."""


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Train the byte-level BPE on the project's own prompts; digits stay single tokens as in Qwen2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        special_tokens=[],
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        padding_side="left",
        model_max_length=32768,
    )
    own = {tokenizer.eos_token, tokenizer.pad_token}
    tokenizer.add_special_tokens({"additional_special_tokens": [t for t in SPECIAL_TOKENS if t not in own]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _corpus() -> list[str]:
    """Return the texts that the small model reads and writes: the words of two templates' prompts and answers.

    Another template's words are left out, since they would change the vocabulary under weights that are trained.
    """
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    question: Observation = {
        "support_images": (image, image),
        "support_boxes": np.array([[8.0, 16.0, 32.0, 48.0]] * 2),
        "query_image": image,
    }
    texts = ["user\n", "assistant\n"]
    for template in (TEMPLATES["default"], TEMPLATES["compact"]):
        (message,) = template.render(question)
        texts += [part.text for part in message.content if isinstance(part, TextPart)]
        texts += [template.answer(Box(8, 16, 32, 48), (64, 64)), template.answer(None, (64, 64))]
    return texts * 4


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Return the Qwen2-VL image processor with small patches; needs no torchvision."""
    pixels_per_token = (PATCH_SIZE * MERGE_SIZE) ** 2
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH_SIZE,
        merge_size=MERGE_SIZE,
        size={"shortest_edge": 4 * pixels_per_token, "longest_edge": MAX_IMAGE_TOKENS * pixels_per_token},
    )


def build_config(
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden_size: int = 96,
    num_layers: int = 3,
    vision_depth: int = 2,
) -> Qwen2VLConfig:
    """Return a Qwen2-VL configuration of about 0.75 million parameters that fits the tokenizer's ids."""
    num_heads = 4
    rotary_pairs = hidden_size // num_heads // 2
    height_width = rotary_pairs * 3 // 8
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen2VLConfig(
        text_config={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": hidden_size,
            "intermediate_size": 3 * hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "mrope_section": [rotary_pairs - 2 * height_width, height_width, height_width],
            },
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": INITIALIZER_RANGE,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": vision_depth,
            "embed_dim": hidden_size,
            "hidden_size": hidden_size,
            "num_heads": num_heads,
            "mlp_ratio": 2,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": 2,
            "in_channels": 3,
            "initializer_range": INITIALIZER_RANGE,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_model(tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """Return the small model with random weights, a function of the seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2VLForConditionalGeneration(build_config(tokenizer))


def main() -> None:
    """Write the tokenizer and the image processor into `tiny_assets/`."""
    build_tokenizer().save_pretrained(ASSETS)
    build_image_processor().save_pretrained(ASSETS)


if __name__ == "__main__":
    main()
