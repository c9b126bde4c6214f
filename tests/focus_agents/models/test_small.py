"""The small model that the project trains: its files, its tokens, its weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.models import small
from focus_agents.models.loading import SMALL, load_config, load_model, load_processor, load_template
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.small import (
    GRID,
    LARGEST_COORDINATE,
    MAX_IMAGE_TOKENS,
    MERGE_SIZE,
    NAMES,
    PHRASES,
    VOCAB_SIZE,
    build_image_processor,
    build_tokenizer,
    waves,
)
from focus_agents.models.tiny import SPECIAL_TOKENS
from focus_env.boxes import CoordinateFrame
from focus_env.env import observe
from focus_env.parsing import parse_answer
from focus_env.types import Box, ImagePart, Message, ParseStatus, TextPart
from tests.fakes import make_episode

PICTURE = np.zeros((64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def processor() -> VLMProcessor:
    return load_processor(SMALL)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(SMALL)


@pytest.fixture(scope="module")
def grammar(processor: VLMProcessor) -> AnswerGrammar:
    end = processor.eos_token_id
    return AnswerGrammar(processor.tokenizer, VOCAB_SIZE, eos_token_id=end, largest=LARGEST_COORDINATE)


def tokens(processor: VLMProcessor, text: str) -> list[str]:
    return processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(text)["input_ids"])


def test_the_files_are_what_the_module_builds(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    build_image_processor().save_pretrained(tmp_path)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in small.ASSETS.iterdir() if path.is_file()}
    assert sorted(built) == sorted(kept)
    for name, content in built.items():
        assert content == kept[name], f"{name}: run python -m focus_agents.models.small"


class TestTokenizer:
    """Bytes, and whole tokens for what prompts and answers are made of."""

    def test_ids_fit_the_model(self, processor: VLMProcessor, model: Any) -> None:
        ids = processor.tokenizer.get_vocab().values()
        assert sorted(ids) == list(range(len(processor.tokenizer)))
        assert max(ids) < VOCAB_SIZE == model.get_input_embeddings().num_embeddings

    @pytest.mark.parametrize("text", [*map(str, range(LARGEST_COORDINATE + 1)), *PHRASES, *SPECIAL_TOKENS])
    def test_coordinates_and_phrases_are_single_tokens(self, processor: VLMProcessor, text: str) -> None:
        (token,) = processor.tokenizer(text)["input_ids"]
        assert processor.tokenizer.decode([token]) == text
        assert token == processor.tokenizer.convert_tokens_to_ids(text)

    @pytest.mark.parametrize("name", NAMES)
    def test_names_are_single_tokens_with_the_space_before_them(self, processor: VLMProcessor, name: str) -> None:
        for text in (name, f" {name}"):
            (token,) = processor.tokenizer(text)["input_ids"]
            assert processor.decode([token]) == name
        assert name not in tokens(processor, f"{name}s {name}ful re{name}")

    def test_everything_has_a_token_of_its_own(self, processor: VLMProcessor) -> None:
        texts = [*map(str, range(LARGEST_COORDINATE + 1)), *PHRASES, *NAMES, *SPECIAL_TOKENS]
        assert len(set(processor.tokenizer.convert_tokens_to_ids(texts))) == len(texts)
        assert len(processor.tokenizer) == 256 + len(texts) - 10  # digits are bytes

    def test_the_longest_number_is_taken(self, processor: VLMProcessor) -> None:
        assert tokens(processor, "[100, 10, 1, 0]") == ["[", "100", ", ", "10", ", ", "1", ", ", "0", "]"]
        assert tokens(processor, "101") == ["10", "1"]

    def test_an_answer_is_numbers_commas_tags_and_the_end(self, processor: VLMProcessor) -> None:
        template, rng = load_template(SMALL), np.random.default_rng(0)
        halves = np.array([0, 0, 32, 32])  # a corner in each half, so that no box is too thin to be written as it is
        for box in [Box(0, 0, 64, 64), *(Box(*(rng.random(4) * 31 + halves)) for _ in range(200))]:
            text = template.answer(box, (64, 64))
            values = json.loads(text.removeprefix("<answer>").removesuffix("</answer>"))
            x1, y1, x2, y2 = map(str, values)
            ids = processor.encode_answer(text)
            expected = ["<answer>[", x1, ", ", y1, ", ", x2, ", ", y2, "]</answer>", "<|im_end|>"]
            assert processor.tokenizer.convert_ids_to_tokens(ids) == expected
            assert processor.decode(ids) == text
            read = parse_answer(processor.decode(ids), frame=CoordinateFrame.NORM_100, image_wh=(64, 64))
            np.testing.assert_allclose(read.box, box, rtol=0, atol=0.005 * 64 + 1e-9)

    def test_a_prompt_is_few_tokens(self, processor: VLMProcessor) -> None:
        """The instruction; for each support its picture, nine tokens of a box and two of a question; the request."""
        prompt = processor.encode(load_template(SMALL).render(observe(make_episode(shots=2))))
        num_image_tokens = int((prompt.input_ids == processor.image_token_id).sum())
        assert len(prompt.input_ids) - num_image_tokens == 1 + 1 + 3 * 2 + 2 * (9 + 2) + 5

    def test_any_text_can_be_written(self, processor: VLMProcessor) -> None:
        """Except for the spaces before names, which their tokens take with them."""
        text = "".join(chr(code) for code in range(1, 0x2FF)) + "漢字\N{GRINNING FACE}"
        ids = processor.tokenizer(text)["input_ids"]
        assert processor.decode(ids) == processor.tokenizer.backend_tokenizer.normalizer.normalize_str(text)
        assert processor.decode(processor.tokenizer("a  red star")["input_ids"]) == "aredstar"


class TestChatTemplate:
    """Questions and answers in turn."""

    def test_turns_have_no_names_and_answers_an_end(self, processor: VLMProcessor) -> None:
        messages = [
            Message("user", [ImagePart(PICTURE), TextPart("Where?")]),
            Message("assistant", [TextPart("there")]),
            Message("user", [TextPart("And?"), ImagePart(PICTURE)]),
        ]
        text = processor._chat_text(messages)
        picture = "<|vision_start|><|image_pad|><|vision_end|>"
        assert text == f"<|im_start|>{picture}Where?there<|im_end|>And?{picture}"

    def test_an_answer_follows_its_prompt_at_once(self, processor: VLMProcessor) -> None:
        """What is trained as prompt and answer is what a document holds."""
        question = Message("user", [ImagePart(PICTURE), TextPart("Answer:")])
        answer = load_template(SMALL).answer(Box(1, 2, 30, 40), (64, 64))
        whole = processor.encode([question, Message("assistant", [TextPart(answer)])]).input_ids
        assert whole.tolist() == [*processor.encode([question]).input_ids, *processor.encode_answer(answer)]


class TestPictures:
    """8 x 8 patches, 4 x 4 tokens."""

    def test_its_own_size_is_sixteen_tokens(self, processor: VLMProcessor) -> None:
        prompt = processor.encode([Message("user", [ImagePart(PICTURE)])])
        assert prompt.grids.tolist() == [[GRID // MERGE_SIZE, GRID // MERGE_SIZE]]
        assert (prompt.input_ids == processor.image_token_id).sum() == MAX_IMAGE_TOKENS == 16

    def test_larger_pictures_are_scaled_down(self, processor: VLMProcessor) -> None:
        prompt = processor.encode([Message("user", [ImagePart(np.zeros((300, 400, 3), dtype=np.uint8))])])
        assert (prompt.input_ids == processor.image_token_id).sum() == 12  # 3 x 4


class TestModel:
    """Weights from a seed, and where they start."""

    def test_the_seed_decides(self, processor: VLMProcessor) -> None:
        first, second, other = (small.build_model(processor.tokenizer, seed=seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])

    def test_the_global_random_state_is_left_alone(self, processor: VLMProcessor) -> None:
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        small.build_model(processor.tokenizer)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_it_has_a_million_and_a_half_parameters(self, model: Any) -> None:
        assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(1.5e6, rel=0.03)

    def test_it_knows_the_tokenizers_ids(self, processor: VLMProcessor, model: Any) -> None:
        token_id = processor.tokenizer.convert_tokens_to_ids
        for config in (model.config, load_config(SMALL)):
            for name in ("image_pad", "video_pad"):
                assert getattr(config, name.replace("pad", "token_id")) == token_id(f"<|{name}|>")
            for name in ("vision_start", "vision_end"):
                assert getattr(config, f"{name}_token_id") == token_id(f"<|{name}|>")
            text_config = config.get_text_config()
            assert (text_config.eos_token_id, text_config.pad_token_id) == (
                processor.eos_token_id,
                processor.pad_token_id,
            )

    def test_near_numbers_start_with_similar_vectors(self, processor: VLMProcessor, model: Any) -> None:
        numbers = processor.tokenizer.convert_tokens_to_ids([str(value) for value in range(LARGEST_COORDINATE + 1)])
        vectors = model.get_input_embeddings().weight.detach()[numbers]
        similarity = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
        by_distance = [similarity.diagonal(distance) for distance in (1, 2, 4, 8, 16, 32, 64)]
        means = [float(values.mean()) for values in by_distance]
        assert means == sorted(means, reverse=True)
        assert by_distance[0].min() > 0.8
        assert by_distance[4].max() < 0.4

    def test_near_cells_start_with_similar_vectors(self, model: Any) -> None:
        vectors = model.model.visual.pos_embed.weight.detach().view(GRID, GRID, -1)
        for line in (vectors[3], vectors[:, 3]):  # a row and a column
            similarity = torch.nn.functional.cosine_similarity(line[:, None], line[None], dim=-1)
            means = [float(similarity.diagonal(distance).mean()) for distance in range(1, 5)]
            assert means == sorted(means, reverse=True)
            assert means[0] > means[3] + 0.1
        # Neither axis is left out.
        assert not torch.allclose(vectors[0], vectors[1])
        assert not torch.allclose(vectors[:, 0], vectors[:, 1])

    def test_waves_at_points_computed_by_hand(self) -> None:
        """A quarter of a turn, and eight turns: sines first."""
        slow = math.pi / 64
        expected = [
            [0.0, 0.0, 1.0, 1.0],
            [math.sin(slow), 1.0, math.cos(slow), 0.0],
            [2**-0.5, 0.0, 2**-0.5, 1.0],
            [1.0, 0.0, 0.0, 1.0],
        ]
        turns = waves(torch.tensor([0.0, 1 / 32, 0.5, 1.0]), 4)
        torch.testing.assert_close(turns, torch.tensor(expected), rtol=0, atol=1e-5)


class TestGrammar:
    """Answers in hundredths under a grammar over these tokens."""

    def test_after_the_opening_any_coordinate_may_come(self, processor: VLMProcessor, grammar: AnswerGrammar) -> None:
        opening = torch.tensor([processor.tokenizer.convert_tokens_to_ids("<answer>[")])
        allowed = grammar.allowed(grammar.advance(grammar.start(1), opening))[0].nonzero()[:, 0].tolist()
        assert {processor.decode([token]) for token in allowed} == {str(value) for value in range(101)}

    def test_a_templates_answers_can_be_written(self, processor: VLMProcessor, grammar: AnswerGrammar) -> None:
        template, rng = load_template(SMALL), np.random.default_rng(0)
        for _ in range(100):
            box = Box(*np.sort(rng.random((2, 2)), 0).ravel() * 64)
            ids = torch.tensor(processor.encode_answer(template.answer(box, (64, 64))))
            assert grammar.allowed_along(ids).gather(-1, ids[:, None]).all()

    def test_whatever_is_drawn_is_in_the_picture(self, processor: VLMProcessor, grammar: AnswerGrammar) -> None:
        generator, states, columns = torch.Generator().manual_seed(0), grammar.start(200), []
        for _ in range(40):
            drawn = torch.multinomial(grammar.allowed(states).float(), 1, generator=generator)[:, 0]
            columns.append(drawn)
            states = grammar.advance(states, drawn)
        values = set()
        for ids in torch.stack(columns, dim=1).tolist():
            text = processor.decode(ids[: ids.index(processor.eos_token_id)])
            read = parse_answer(text, frame=CoordinateFrame.NORM_100, image_wh=(64, 64))
            assert read.is_strict
            assert read.status in {ParseStatus.OK, ParseStatus.REVERSED, ParseStatus.DEGENERATE}
            values.update(json.loads(text.removeprefix("<answer>").removesuffix("</answer>")))
        assert values <= set(range(101))
        assert len(values) > 90
