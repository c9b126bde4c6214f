"""Examples and batches: tokens, labels, and which tokens are the support's."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.views import View, box_tokens
from focus_agents.sft.data import SFTBatch, SFTExamples, load_batches, support_tokens
from focus_env.boxes import CoordinateFrame
from focus_env.datasets.order import shuffled_indices
from focus_env.datasets.training import DrawnShots
from focus_env.env import observe
from focus_env.prompts import TEMPLATES, PromptTemplate, get_template
from focus_env.types import Box, Episode, Exemplar, Frame, Message, TextPart
from tests.fakes import FakeDataset, make_episode

TEMPLATE = get_template("compact")


class TestExamples:
    """Episodes as prompts and right answers."""

    def test_the_answer_is_the_right_one(self, examples: SFTExamples, processor: VLMProcessor) -> None:
        assert len(examples) == 6
        for index in range(6):
            episode = examples.episodes[index]
            answer_ids = examples[index].answer_ids
            assert answer_ids[-1] == processor.eos_token_id
            parsed = TEMPLATE.parse(processor.decode(answer_ids), episode.query_frame.image_wh)
            assert parsed.is_strict
            assert (parsed.box is None) == (episode.target_box is None) == (index == 5)

    def test_the_prompt_does_not_hold_the_answer(self, examples: SFTExamples, processor: VLMProcessor) -> None:
        example = examples[0]
        text = processor.tokenizer.decode(example.prompt.input_ids)
        assert processor.decode(example.answer_ids) not in text
        assert text.endswith("<|im_start|>assistant\n")

    def test_pixels_of_resized_pictures_are_those_of_the_processor(self) -> None:
        """Pictures of 128 x 128 have 64 tokens of 16 x 16 pixels each; a processor for 16 tokens halves them."""
        template = dataclasses.replace(TEMPLATE, frame=CoordinateFrame.RESIZED_PIXEL)
        episodes = [make_episode(0, query_wh=(128, 128), target_box=Box(32, 16, 96, 64))]
        for max_image_tokens, answer in ((None, [32, 16, 96, 64]), (16, [16, 8, 48, 32])):
            own = load_processor("tiny", max_image_tokens=max_image_tokens)
            example = SFTExamples(episodes, template, own)[0]
            assert own.decode(example.answer_ids) == f"<answer>{answer}</answer>"

    def test_collate_pads_prompts_on_the_left_and_answers_on_the_right(self, processor: VLMProcessor) -> None:
        episodes = [make_episode(0, shots=3), make_episode(1, shots=1, target_box=None), make_episode(2, shots=1)]
        examples = SFTExamples(episodes, TEMPLATE, processor, target="both")
        items = [examples[index] for index in range(3)]
        batch = examples.collate(items)
        lengths = [len(item.answer_ids) for item in items]
        assert len(set(lengths)) > 1
        assert batch.answer_ids.shape == batch.answer_mask.shape == (3, max(lengths))
        for row, item in enumerate(items):
            padding = [processor.pad_token_id] * (max(lengths) - lengths[row])
            assert batch.answer_ids[row].tolist() == item.answer_ids + padding
            assert batch.answer_mask[row].tolist() == [t < lengths[row] for t in range(max(lengths))]
            offset = batch.prompts.input_ids.shape[1] - len(item.prompt.input_ids)
            assert batch.query_mask[row].nonzero()[:, 0].tolist() == (offset + item.query_tokens).tolist()
            assert batch.support_mask[row].nonzero()[:, 0].tolist() == (offset + item.support_tokens).tolist()
        assert torch.equal(batch.prompts.input_ids, processor.collate([i.prompt for i in items]).input_ids)

    def test_they_travel_between_processes(self, examples: SFTExamples) -> None:
        assert pickle.loads(pickle.dumps(examples))[5].answer_ids == examples[5].answer_ids

    def test_a_prompt_beyond_the_context_is_refused(self, processor: VLMProcessor) -> None:
        num_tokens = len(SFTExamples([make_episode()], TEMPLATE, processor)[0].prompt.input_ids) + 25
        SFTExamples([make_episode()], TEMPLATE, processor, max_tokens=num_tokens)[0]
        with pytest.raises(ValueError, match=r"'fake/0': expected at most 50 tokens, .* lower `max_image_tokens`"):
            SFTExamples([make_episode()], TEMPLATE, processor, max_tokens=50)[0]

    def test_iploc_names_the_object_and_nothing_else_does(self, processor: VLMProcessor) -> None:
        texts = {
            name: processor.tokenizer.decode(SFTExamples([make_episode()], template, processor)[0].prompt.input_ids)
            for name, template in (
                ("iploc", dataclasses.replace(get_template("iploc"), names="category")),
                ("compact", TEMPLATE),
            )
        }
        assert texts["iploc"].count("<ref>secret category</ref>") == 3
        assert "secret" not in texts["compact"]


def make_boxed_episode(*boxes: Box, side: int = 1000) -> Episode:
    """An episode whose supports have these boxes in square pictures of 1,000 pixels, so that text and pixels agree."""
    image = np.zeros((side, side, 3), dtype=np.uint8)
    frame = Frame("square", (side, side), image)
    return Episode("boxed", tuple(Exemplar(frame, box) for box in boxes), frame, Box(1, 2, 3, 4), "thing")


def writes_plainly(template: PromptTemplate) -> bool:
    """Whether a support's box is written as `[x_min, y_min, x_max, y_max]`."""
    return (template.support_box_text or template.box_text) == get_template("default").box_text


class TestSupportTokens:
    """The very tokens that count as a support box."""

    BOXES = (Box(7, 0, 45, 8), Box(123, 4, 1000, 567))

    # Other forms: tests/focus_agents/models/test_templates.py.
    @pytest.mark.parametrize("template", [name for name in sorted(TEMPLATES) if writes_plainly(TEMPLATES[name])])
    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("coords", "7| |0| |4|5| |8" + "|" + "1|2|3| |4| |1|0|0|0| |5|6|7"),
            ("span", "[|7|,| |0|,| |4|5|,| |8|]" + "|" + "[|1|2|3|,| |4|,| |1|0|0|0|,| |5|6|7|]"),
        ],
    )
    def test_of_the_text(self, processor: VLMProcessor, template: str, target: Any, expected: str) -> None:
        words = dataclasses.replace(get_template(template), frame=CoordinateFrame.NORM_1000)
        example = SFTExamples([make_boxed_episode(*self.BOXES)], words, processor, target=target)[0]
        tokens = [processor.tokenizer.decode([i]) for i in example.prompt.input_ids[example.support_tokens]]
        # In a sentence, the tokens at the ends hold a blank or a full stop as well: " [" and "].".
        assert "|".join(token.strip(" .") or " " for token in tokens) == expected

    def test_numbers_elsewhere_do_not_count(self, processor: VLMProcessor) -> None:
        """The same digits stand in the sentence before the box."""
        template = dataclasses.replace(
            get_template("compact"), name="chatty", support_text="7, 45 and {index} and [0]: {box}, 7, 45."
        )
        example = SFTExamples([make_boxed_episode(self.BOXES[0])], template, processor, target="span")[0]
        text = processor.tokenizer.decode(example.prompt.input_ids[example.support_tokens])
        assert text.strip(" ,") == "[7, 0, 45, 8]"

    def test_of_the_picture(self, processor: VLMProcessor) -> None:
        """128 pixels make 8 x 8 tokens of 16 pixels; the box covers the centres of rows 1 to 2 and columns 3 to 5."""
        episode = make_boxed_episode(Box(50, 20, 95, 41), Box(0, 0, 128, 128), side=128)
        examples = SFTExamples([episode], TEMPLATE, processor, target="region")
        example = examples[0]
        spans = processor.locate(TEMPLATE.render(observe(episode)), example.prompt)
        assert spans.views == ((View(8, 8),),) * 3
        first, second, query = spans.images
        assert [tokens.tolist() for tokens in spans.images] == [list(range(t[0], t[0] + 64)) for t in spans.images]
        assert example.support_tokens.tolist() == [first[0] + 8 * r + c for r in (1, 2) for c in (3, 4, 5)] + list(
            second
        )
        assert example.query_tokens.tolist() == query.tolist()
        is_image = example.prompt.input_ids == processor.image_token_id
        assert is_image[example.support_tokens].all()
        assert is_image[query].all()
        assert is_image.sum() == 3 * 64

    def test_both_are_coordinates_and_picture(self, processor: VLMProcessor) -> None:
        episode = make_boxed_episode(*self.BOXES)
        by_target = {
            target: SFTExamples([episode], TEMPLATE, processor, target=target)[0].support_tokens.tolist()
            for target in ("coords", "region", "both")
        }
        assert by_target["both"] == sorted(by_target["coords"] + by_target["region"])

    @pytest.mark.parametrize(
        ("box", "cells"),
        [
            (Box(0, 0, 40, 20), [0, 1, 2, 3, 4, 5, 6, 7]),
            (Box(0, 0, 15, 5), [0, 1]),  # a centre on its edge counts
            (Box(0, 0, 4.9, 4.9), [0]),  # none inside: the cell of its own centre
            (Box(11, 11, 14, 14), [5]),
            (Box(39.5, 19.5, 40, 20), [7]),
            (Box(4, 6, 16, 9), [0, 1]),  # two columns, no row: the row of its centre
        ],
    )
    def test_cells_of_a_grid(self, box: Box, cells: list[int]) -> None:
        assert box_tokens(box, (40, 20), [View(2, 4)]).tolist() == cells

    def test_a_template_that_does_not_mark_its_boxes_is_named(self, processor: VLMProcessor) -> None:
        episode = make_boxed_episode(*self.BOXES)
        (message,) = TEMPLATE.render(observe(episode))
        bare = [part._replace(box_span=None) if isinstance(part, TextPart) else part for part in message.content]
        messages = [Message("user", bare)]
        spans = processor.locate(messages, processor.encode(messages))
        with pytest.raises(ValueError, match="expected 3 pictures and 2 marked boxes, got 3 and 0"):
            support_tokens(spans, episode, "coords")

    def test_a_tokenizer_that_swallows_a_box_is_named(self, processor: VLMProcessor) -> None:
        """Some tokenizers give no offsets for pieces that they normalise away."""
        swallowing = copy.copy(processor)
        swallowing.tokenizer = _WithoutOffsets(processor.tokenizer)
        examples = SFTExamples([make_boxed_episode(*self.BOXES)], TEMPLATE, swallowing, target="coords")
        with pytest.raises(ValueError, match=r"expected every digit of the box '\[7, 0, 45, 8\]' in some token"):
            examples[0]

    def test_a_chat_template_that_changes_words_is_named(self, processor: VLMProcessor) -> None:
        shouting = copy.copy(processor)
        shouting.tokenizer = copy.copy(processor.tokenizer)
        shouting.tokenizer.chat_template = processor.tokenizer.chat_template.replace("part.text", "part.text | upper")
        examples = SFTExamples([make_boxed_episode(*self.BOXES)], TEMPLATE, shouting)
        with pytest.raises(ValueError, match=r"chat template: expected the prompt's 'Find the object\.' word for word"):
            examples[0]


class _WithoutOffsets:
    """A tokenizer whose offsets are all empty."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        tokens = dict(self.tokenizer(text, **options))
        if "offset_mapping" in tokens:
            tokens["offset_mapping"] = [(0, 0)] * len(tokens["input_ids"])
        return tokens


class TestBatches:
    """The order of episodes is a function of seed and step, whoever draws them."""

    def batches(self, examples: SFTExamples, **options: Any) -> list[list[SFTBatch]]:
        arguments: dict[str, Any] = {"batch_size": 4, "steps": range(3), "seed": 1, "num_data_workers": 0}
        return list(load_batches(examples, **(arguments | options)))

    def assert_equal(self, first: list[list[SFTBatch]], second: list[list[SFTBatch]]) -> None:
        assert [len(step) for step in first] == [len(step) for step in second]
        for one, other in zip(itertools.chain(*first), itertools.chain(*second), strict=True):
            assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())

    def test_processes_do_not_change_them(self, examples: SFTExamples) -> None:
        first = self.batches(examples)
        torch.manual_seed(99)
        self.assert_equal(first, self.batches(examples))
        self.assert_equal(first, self.batches(examples, num_data_workers=1))

    def test_they_hold_the_episodes_in_shuffled_order(self, examples: SFTExamples) -> None:
        order = shuffled_indices(0, 12, num_episodes=6, seed=1)
        expected = [[examples.collate([examples[i] for i in order[s : s + 4]])] for s in (0, 4, 8)]
        self.assert_equal(self.batches(examples), expected)

    def test_a_run_that_goes_on_sees_what_it_would_have_seen(self, examples: SFTExamples) -> None:
        self.assert_equal(self.batches(examples)[1:], self.batches(examples, steps=range(1, 3)))
        assert self.batches(examples, steps=range(3, 3)) == []

    def test_first_steps_show_one_support_of_the_same_episodes(self, processor: VLMProcessor) -> None:
        examples = SFTExamples(FakeDataset(6, shots=3), TEMPLATE, processor)
        batches = self.batches(examples, num_one_shot_steps=2)
        order = shuffled_indices(0, 12, num_episodes=6, seed=1)
        expected = [
            [examples.collate([examples[(i, 1)] for i in order[:4]])],
            [examples.collate([examples[(i, 1)] for i in order[4:8]])],
            [examples.collate([examples[i] for i in order[8:]])],
        ]
        self.assert_equal(batches, expected)
        assert {n for (batch,) in batches[:2] for n in batch.prompts.num_images} == {2}
        assert set(batches[2][0].prompts.num_images) == {4}
        self.assert_equal(batches[1:], self.batches(examples, steps=range(1, 3), num_one_shot_steps=2))

    def test_a_step_shows_the_number_of_supports_that_is_drawn_for_it(self, processor: VLMProcessor) -> None:
        """After the steps of one support; the whole batch alike, in any process, and from whichever step on."""
        drawn = DrawnShots(FakeDataset(6, shots=4), (2, 4), seed=1)
        examples = SFTExamples(drawn, TEMPLATE, processor)
        arguments: dict[str, Any] = {"num_one_shot_steps": 1, "batch_size": 2}
        batches = self.batches(examples, steps=range(8), **arguments)
        shown = [{n - 1 for batch in step for n in batch.prompts.num_images} for step in batches]
        assert shown == [{1}, *({drawn.shots_at(step)} for step in range(1, 8))]
        assert set.union(*shown[1:]) == {2, 4}
        self.assert_equal(batches[5:], self.batches(examples, steps=range(5, 8), num_data_workers=1, **arguments))

    @pytest.mark.parametrize(
        ("num_workers", "micro_batch_size", "sizes"),
        [(1, None, [[4]]), (1, 3, [[3, 1]]), (1, 9, [[4]]), (2, None, [[2], [2]]), (3, 1, [[1, 1], [1], [1]])],
    )
    def test_workers_share_each_batch(
        self, examples: SFTExamples, num_workers: int, micro_batch_size: int | None, sizes: list[list[int]]
    ) -> None:
        order = shuffled_indices(0, 12, num_episodes=6, seed=1)
        answers = {tuple(examples[index].answer_ids): index for index in range(6)}
        assert len(answers) == 6
        seen: list[list[int]] = [[] for _ in range(3)]
        for rank in range(num_workers):
            options = {"rank": rank, "num_workers": num_workers, "micro_batch_size": micro_batch_size}
            for step, micro_batches in enumerate(self.batches(examples, **options)):
                assert [len(batch.answer_ids) for batch in micro_batches] == sizes[rank]
                for batch in micro_batches:
                    rows = zip(batch.answer_ids, batch.answer_mask, strict=True)
                    seen[step] += [answers[tuple(ids[mask].tolist())] for ids, mask in rows]
        assert [sorted(step) for step in seen] == [sorted(order[start : start + 4]) for start in (0, 4, 8)]

    def test_the_seed_counts(self, examples: SFTExamples) -> None:
        first, other = (self.batches(examples, seed=seed)[0][0].prompts.images["pixel_values"] for seed in (1, 2))
        assert first.shape != other.shape or not torch.equal(first, other)


def test_the_last_token_of_a_boxs_text(processor: VLMProcessor) -> None:
    episode = make_episode(0, shots=3)
    last, whole = (SFTExamples([episode], TEMPLATE, processor, target=target)[0] for target in ("last", "span"))
    spans = processor.locate(TEMPLATE.render(observe(episode)), last.prompt)
    assert last.support_tokens.tolist() == [text[-1] for text in spans.box_texts]
    assert set(last.support_tokens) < set(whole.support_tokens)
    assert [processor.tokenizer.decode([last.prompt.input_ids[t]])[-1] for t in last.support_tokens] == ["]"] * 3
