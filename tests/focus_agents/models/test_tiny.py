"""The small offline model: its files, its weights, its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from focus_agents.models import tiny
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.tiny import SPECIAL_TOKENS, VOCAB_SIZE, build_config, build_image_processor, build_tokenizer
from focus_agents.rollout.records import Sampling
from tests.focus_agents.models.families import picture_inputs


def test_the_files_are_what_the_module_builds(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    build_image_processor().save_pretrained(tmp_path)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in tiny.ASSETS.iterdir() if path.is_file()}
    assert sorted(built) == sorted(kept)
    for name, content in built.items():
        assert content == kept[name], f"{name}: run python -m focus_agents.models.tiny"


class TestTokenizer:
    """Byte-level BPE with the special tokens of Qwen2-VL."""

    def test_ids_fit_the_model(self, processor: VLMProcessor, model: Any) -> None:
        ids = processor.tokenizer.get_vocab().values()
        assert sorted(ids) == list(range(len(processor.tokenizer)))
        assert max(ids) < VOCAB_SIZE == model.get_input_embeddings().num_embeddings

    @pytest.mark.parametrize("text", ["0123456789", "[1000, 2, 333, 40]", "12345678901234567890"])
    def test_digits_are_single_tokens(self, processor: VLMProcessor, text: str) -> None:
        pieces = processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(text)["input_ids"])
        assert "".join(pieces).replace("Ġ", " ") == text
        assert [p for p in pieces if any(c.isdigit() for c in p)] == [c for c in text if c.isdigit()]

    def test_no_token_holds_two_digits(self, processor: VLMProcessor) -> None:
        assert not [t for t in processor.tokenizer.get_vocab() if sum(c.isdigit() for c in t) > 1]

    def test_special_tokens_are_single(self, processor: VLMProcessor) -> None:
        for token in SPECIAL_TOKENS:
            assert processor.tokenizer(token)["input_ids"] == [processor.tokenizer.convert_tokens_to_ids(token)]
        assert processor.tokenizer.convert_ids_to_tokens(processor.eos_token_id) == "<|im_end|>"
        assert processor.tokenizer.convert_ids_to_tokens(processor.pad_token_id) == "<|endoftext|>"

    def test_any_text_can_be_written(self, processor: VLMProcessor) -> None:
        text = "".join(chr(code) for code in range(1, 0x2FF)) + "漢字\N{GRINNING FACE}"
        ids = processor.tokenizer(text)["input_ids"]
        assert processor.decode(ids) == processor.tokenizer.backend_tokenizer.normalizer.normalize_str(text)

    def test_the_longest_answer_fits_the_default_limit(self, processor: VLMProcessor) -> None:
        longest = processor.encode_answer("<answer>[1000, 1000, 1000, 1000]</answer>")
        assert len(longest) <= Sampling().max_completion_tokens


class TestModel:
    """Weights from a seed."""

    def test_the_seed_decides(self, processor: VLMProcessor) -> None:
        first, second, other = (tiny.build_model(processor.tokenizer, seed=seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])

    def test_the_global_random_state_is_left_alone(self, processor: VLMProcessor) -> None:
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        tiny.build_model(processor.tokenizer)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_it_is_small(self, model: Any) -> None:
        assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000

    def test_it_knows_the_tokenizers_ids(self, processor: VLMProcessor, model: Any) -> None:
        token_id = processor.tokenizer.convert_tokens_to_ids
        for name in ("image_pad", "video_pad"):
            assert getattr(model.config, name.replace("pad", "token_id")) == token_id(f"<|{name}|>")
        for name in ("vision_start", "vision_end"):
            assert getattr(model.config, f"{name}_token_id") == token_id(f"<|{name}|>")
        text_config = model.config.get_text_config()
        assert (text_config.eos_token_id, text_config.pad_token_id) == (
            processor.eos_token_id,
            processor.pad_token_id,
        )

    @pytest.mark.parametrize("hidden_size", [32, 64, 96, 160])
    def test_other_widths_work(self, processor: VLMProcessor, prompts: list[EncodedPrompt], hidden_size: int) -> None:
        """The three axes of M-RoPE share the head's rotary pairs without a rest."""
        config = build_config(processor.tokenizer, hidden_size=hidden_size, num_layers=1, vision_depth=1)
        text_config = config.get_text_config()
        head_size = text_config.hidden_size // text_config.num_attention_heads
        assert sum(text_config.rope_parameters["mrope_section"]) == head_size // 2
        network = type(tiny.build_model(processor.tokenizer))(config).eval()
        batch = processor.collate(prompts[:1])
        with torch.no_grad():
            logits = network(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                **picture_inputs(batch),
            ).logits
        assert logits.shape == (*batch.input_ids.shape, VOCAB_SIZE)
        assert logits.isfinite().all()
