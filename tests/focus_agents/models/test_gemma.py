"""Prompts of Gemma 3 and PaliGemma that see themselves, and what is theirs alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor

from focus_agents.engine.forward import prompt_reach
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.inputs import IGNORED
from focus_agents.models.loading import check_model, load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.quantization import whole_modules
from focus_agents.models.shared_prefix import prompt_mask
from focus_agents.models.support_mass import support_mass
from focus_agents.runs.checkpoint import save_policy
from focus_agents.sft.data import SFTBatch, SFTExamples
from focus_agents.sft.step import token_labels
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.types import ImagePart, Message, TextPart
from tests.fakes import make_episode
from tests.focus_agents.models.cases import EPISODES, TEMPLATE, Case, make_case, pictures_of
from tests.focus_agents.models.messages import as_plain_chat
from tests.focus_agents.models.plain_mass import padding_of, random_case


@pytest.fixture(scope="module")
def gemma(processor: VLMProcessor) -> Case:
    return make_case("gemma3", processor)


@pytest.fixture(scope="module")
def paligemma(processor: VLMProcessor) -> Case:
    return make_case("paligemma", processor)


def batch_of(case: Case) -> SFTBatch:
    examples = SFTExamples(EPISODES, TEMPLATE, case.processor, target="both")
    return examples.collate([examples[index] for index in range(3)])


class TestReach:
    """How far tokens see."""

    def test_the_tokens_of_a_square_see_its_end(self, gemma: Case) -> None:
        reach = prompt_reach(gemma.model, gemma.batch)
        assert reach is not None
        for row, own in enumerate(reach.tolist()):
            is_image = gemma.batch.image_mask[row].tolist()
            for column, last in enumerate(own):
                assert last >= column
                assert all(is_image[column : last + 1]) if is_image[column] else last == column
                assert not is_image[column] or last + 1 == len(own) or not is_image[last + 1]

    def test_a_prompt_sees_its_end(self, paligemma: Case) -> None:
        reach = prompt_reach(paligemma.model, paligemma.batch)
        assert reach is not None
        assert set(reach.flatten().tolist()) == {paligemma.batch.input_ids.shape[1] - 1}

    def test_a_mask_by_hand(self) -> None:
        """Padding, a word, a picture of two tokens, a word."""
        reach = torch.tensor([[0, 1, 3, 3, 4]])
        mask = prompt_mask(torch.tensor([[0, 1, 1, 1, 1]]), reach)
        assert mask is not None
        assert mask[0, 0].int().tolist() == [
            [1, 0, 0, 0, 0],
            [0, 1, 0, 0, 0],
            [0, 1, 1, 1, 0],
            [0, 1, 1, 1, 0],
            [0, 1, 1, 1, 1],
        ]
        assert prompt_mask(torch.ones(1, 5), reach) is not None

    @pytest.mark.parametrize("family", ["gemma3", "paligemma"])
    def test_it_is_transformers_own_mask(self, processor: VLMProcessor, family: str) -> None:
        """As its layers with full attention get it."""
        case = make_case(family, processor)
        masks: list[Any] = []
        set_focus_attention(case.model)
        layer = case.family.parts(case.model).layers[1].self_attn
        hook = layer.register_forward_pre_hook(
            lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
        with torch.no_grad():
            case.family.parts(case.model).backbone(
                input_ids=case.batch.input_ids,
                attention_mask=case.batch.attention_mask,
                use_cache=False,
                **case.family.image_inputs(case.model, case.batch),
            )
        hook.remove()
        ours = prompt_mask(case.batch.attention_mask, prompt_reach(case.model, case.batch))
        assert ours is not None
        is_token = case.batch.attention_mask.bool()
        for row in range(len(is_token)):
            assert torch.equal(masks[0][row, 0][is_token[row]], ours[row, 0][is_token[row]])


class TestLabels:
    """Tokens that the one before them sees teach nothing."""

    def test_of_a_paligemma_the_answers_alone_are_learned(self, paligemma: Case) -> None:
        batch = batch_of(paligemma)
        reach = prompt_reach(paligemma.model, batch.prompts)
        assert torch.equal(token_labels(batch, "full", reach), token_labels(batch, "answer", reach))

    def test_of_a_gemma_all_but_what_lies_in_pictures(self, gemma: Case) -> None:
        batch = batch_of(gemma)
        plain = token_labels(batch, "full")
        found = token_labels(batch, "full", prompt_reach(gemma.model, batch.prompts))
        is_image = torch.nn.functional.pad(batch.prompts.image_mask, (0, batch.answer_ids.shape[1]))
        inside = is_image & torch.nn.functional.pad(is_image[:, :-1], (1, 0))
        assert torch.equal(found, plain.masked_fill(inside, IGNORED))
        assert (found != plain).any()


class TestPaliGemma:
    """Prompts as its processor writes them."""

    def test_prompts_are_those_of_its_processor(self, paligemma: Case) -> None:
        """Several pictures stay where they stand; the text begins behind the last."""
        image_processor = copy.deepcopy(paligemma.processor.image_processor)
        image_processor.image_seq_length = 16
        tokenizer = copy.deepcopy(paligemma.processor.tokenizer)
        tokenizer.bos_token, tokenizer.image_token = "<bos>", "<image>"
        tokenizer.image_token_id = paligemma.processor.image_token_id
        theirs = PaliGemmaProcessor(image_processor, tokenizer)
        pictures = [np.random.default_rng(n).integers(256, size=(40, 60, 3), dtype=np.uint8) for n in range(3)]
        for texts in (("", "", "", "detect cat"), ("one ", " two ", "", "three")):
            parts: list[Any] = []
            for text, picture in zip(texts, [*pictures, None], strict=True):
                parts += [TextPart(text)] if text else []
                parts += [] if picture is None else [ImagePart(picture)]
            ours = paligemma.processor.encode([Message("user", tuple(parts))])
            expected = theirs(text="<image>".join(texts), images=[pictures], return_tensors="np")
            assert ours.input_ids.tolist() == expected["input_ids"][0].tolist()
            np.testing.assert_allclose(ours.images["pixel_values"], expected["pixel_values"], atol=0.02)

    def test_its_processor_makes_the_same_of_a_saved_chat_template(self, paligemma: Case) -> None:
        tokenizer = copy.deepcopy(paligemma.processor.tokenizer)
        tokenizer.bos_token, tokenizer.image_token = "<bos>", "<image>"
        tokenizer.image_token_id = paligemma.processor.image_token_id
        image_processor = copy.deepcopy(paligemma.processor.image_processor)
        image_processor.image_seq_length = 16
        theirs = PaliGemmaProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template)
        messages = TEMPLATE.render(observe(EPISODES[1]))
        text = theirs.apply_chat_template(as_plain_chat(messages), add_generation_prompt=True)
        expected = theirs(text=text, images=[pictures_of(EPISODES[1])], return_tensors="np")
        assert paligemma.prompts[1].input_ids.tolist() == expected["input_ids"][0].tolist()

    @pytest.mark.parametrize("text", ["<image>a<image>b", "<image>a<image><bos>b\n"])
    def test_beginning_and_end_are_written_once(self, paligemma: Case, text: str) -> None:
        """Chat templates of policies of an older release write them themselves."""
        assert paligemma.family.complete_text(text) == "<image>a<image><bos>b\n"

    def test_its_native_prompt_ends_with_one_line_end(self, paligemma: Case) -> None:
        episode = make_episode(0, shots=2)
        messages = get_template("paligemma").render(observe(episode))
        prompt = paligemma.processor.encode(messages)
        text = paligemma.processor.tokenizer.decode(prompt.input_ids)
        assert text.endswith("detect object\n")
        assert text.startswith("<image>" * 48 + "<bos>")
        spans = paligemma.processor.locate(messages, prompt)
        assert len(spans.box_coordinates) == 2

    def test_a_tokenizer_without_a_chat_template_gets_the_familys(self, paligemma: Case, tmp_path: Path) -> None:
        folder = save_policy(tmp_path / "model", paligemma.model, paligemma.processor)
        (folder / "chat_template.jinja").unlink()
        found = check_model(str(folder)).encode(TEMPLATE.render(observe(EPISODES[0])))
        assert found.input_ids.tolist() == paligemma.prompts[0].input_ids.tolist()
        assert load_processor(str(folder)).eos_token_id == paligemma.processor.tokenizer.eos_token_id


class TestCaps:
    """Scores and logits of the second PaliGemma."""

    def test_masses_and_their_gradients_are_those_of_whole_rows(self) -> None:
        query, key, probe = random_case(dtype=torch.float64)
        mass = support_mass(query, key, probe, scaling=1.5, softcap=2.0)
        num_keys = probe.support.shape[1]
        scores = 1.5 * query @ key[:, :, :num_keys].repeat_interleave(3 - 1, 1).mT
        scores = 2.0 * (scores / 2.0).tanh()
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() & ~padding_of(probe)[:, None, None]
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).mean(1)
        rows = weights[torch.arange(len(query))[:, None], probe.rows]
        expected = (rows * probe.support[:, None]).sum(-1)
        torch.testing.assert_close(mass, expected)
        towards = torch.randn(mass.shape, dtype=mass.dtype, generator=torch.Generator().manual_seed(0))
        ours, plain = (torch.autograd.grad((part * towards).sum(), (query, key)) for part in (mass, expected))
        torch.testing.assert_close(ours, plain)
        uncapped = support_mass(query, key, probe, scaling=1.5)
        assert (uncapped - mass).abs().max() > 0.01

    def test_the_head_stays_whole_under_4_bits(self, processor: VLMProcessor) -> None:
        config = make_case("paligemma2", processor).model.config
        assert whole_modules(config) == ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
