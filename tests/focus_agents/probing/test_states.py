"""Which tokens stand for a box, whatever the tokenizer writes, and the hidden states there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.engine.forward import image_inputs
from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.probing.states import PLACES, BoxPlaces, box_places, collect_states, encode_question, states_at
from focus_env.boxes import CoordinateFrame
from focus_env.env import observe
from focus_env.prompts import TEMPLATES, PromptTemplate, get_template
from focus_env.types import Box, Episode, Exemplar
from tests.fakes import make_episode, make_frame

BOX = Box(3.0, 20.0, 100.0, 55.0)


def make_question(box: Box = BOX) -> Episode:
    """An episode whose support is of 100 x 100 pixels, so that hundredths of its sides are its pixels."""
    support = Exemplar(make_frame("support", (100, 100), box), box)
    return dataclasses.replace(make_episode(shots=1), support=(support,))


def hundredths(name: str) -> PromptTemplate:
    template = get_template(name)
    return template if template.keeps_frame else dataclasses.replace(template, frame=CoordinateFrame.NORM_100)


class TestPlaces:
    """Positions in a prompt."""

    @pytest.mark.parametrize(
        ("model", "ends"),
        [
            ("small", ["3", "20", "100", "55"]),  # a number is a token
            ("tiny", ["3", "0", "0", "5"]),  # a digit is a token: the last one of each number
        ],
    )
    def test_numbers_end_where_they_are_written_whole(self, model: str, ends: list[str]) -> None:
        processor = load_processor(model)
        prompt, places = encode_question(processor, hundredths("compact"), make_question())
        assert [processor.decode([token]) for token in prompt.input_ids[places.numbers]] == ends
        before = processor.decode(prompt.input_ids[: places.numbers[-1] + 1].tolist())
        assert before.endswith("[3, 20, 100, 55"), "the number of x2 or y2, and not a token beside it"
        for number, end in zip(("3", "20", "100", "55"), places.numbers, strict=True):
            assert processor.decode(prompt.input_ids[: end + 1].tolist()).endswith(number)

    @pytest.mark.parametrize("model", ["small", "tiny"])
    def test_the_text_ends_with_its_bracket(self, model: str) -> None:
        processor = load_processor(model)
        prompt, places = encode_question(processor, hundredths("compact"), make_question())
        assert processor.decode([prompt.input_ids[places.text_end]]).startswith("]")
        assert places.text_end == places.numbers[-1] + 1

    @pytest.mark.parametrize("name", sorted(TEMPLATES))
    def test_every_template_has_four_numbers(self, processor: VLMProcessor, name: str) -> None:
        """With decimals, location tokens, two pairs of brackets, and keys that hold digits of their own."""
        template = processor.fit_template(get_template(name))
        prompt, places = encode_question(processor, template, make_question())
        assert len(places.numbers) == 4
        assert all(processor.decode([token])[-1:].isdigit() for token in prompt.input_ids[places.numbers])
        assert (np.diff(places.numbers) > 0).all()
        assert places.numbers[-1] <= places.text_end

    def test_of_decimals_the_last_digit_counts(self, processor: VLMProcessor) -> None:
        prompt, places = encode_question(processor, get_template("llava_onevision"), make_question())
        assert [processor.decode([token]) for token in prompt.input_ids[places.numbers]] == ["3", "0", "0", "5"]

    def test_the_region_is_the_supports_and_inside_the_box(self) -> None:
        """4 x 4 tokens of 25 pixels: of a box over the upper left quarter the four there."""
        processor = load_processor("small")
        episode = make_question(Box(0.0, 0.0, 50.0, 50.0))
        prompt, places = encode_question(processor, hundredths("questions"), episode)
        first = int(np.flatnonzero(prompt.input_ids == processor.image_token_id)[0])
        assert (places.region - first).tolist() == [0, 1, 4, 5]

    def test_of_several_supports_one_is_chosen(self, processor: VLMProcessor) -> None:
        episode = make_episode(shots=3)
        messages = get_template("compact").render(observe(episode))
        prompt = processor.encode(messages)
        spans = processor.locate(messages, prompt)
        chosen = [box_places(spans, episode.support, number) for number in range(3)]
        assert [place.text_end for place in chosen] == [int(text[-1]) for text in spans.box_texts]
        assert all(set(place.region) <= set(spans.images[number]) for number, place in enumerate(chosen))

    def test_a_prompt_without_marked_boxes_is_refused(self, processor: VLMProcessor) -> None:
        episode = make_episode(shots=2)
        messages = get_template("compact").render(observe(episode))
        spans = processor.locate(messages, processor.encode(messages))
        with pytest.raises(ValueError, match="marked box of 4 numbers for each of the 2 supports, got boxes of no num"):
            box_places(dataclasses.replace(spans, box_numbers=()), episode.support)
        odd = (spans.box_numbers[0], spans.box_numbers[1][:3])
        with pytest.raises(ValueError, match=r"2 supports, got boxes of \[4, 3\] numbers"):
            box_places(dataclasses.replace(spans, box_numbers=odd), episode.support)


def test_states_are_those_of_the_places() -> None:
    """Each token's state is its column and its row, so a shift by one token would show."""
    column = torch.arange(12.0).expand(2, 12)
    state = torch.stack([column, torch.tensor([[100.0], [200.0]]).expand(2, 12)], dim=-1)
    places = [
        BoxPlaces(np.array([3, 4, 6, 8]), 9, np.array([1, 2])),
        BoxPlaces(np.array([5, 6, 7, 10]), 11, np.array([0])),
    ]
    found = states_at(state, places)
    assert list(found) == list(PLACES)
    assert found["numbers"].tolist() == [[3, 100, 4, 100, 6, 100, 8, 100], [5, 200, 6, 200, 7, 200, 10, 200]]
    assert found["last_number"].tolist() == [[8, 100], [10, 200]]
    assert found["text_end"].tolist() == [[9, 100], [11, 200]]
    assert found["region"].tolist() == [[1.5, 100], [0, 200]]


def test_padding_changes_nothing(model: Any, processor: VLMProcessor) -> None:
    """Prompts of several lengths in a batch, and each alone, by transformers' own hidden states."""
    episodes = [make_episode(number, shots=1, query_wh=(48 + 32 * number, 48)) for number in range(3)]
    template = get_template("compact")
    together = collect_states(model, processor, template, episodes)
    assert len({len(encode_question(processor, template, episode)[0].input_ids) for episode in episodes}) > 1
    for number, episode in enumerate(episodes):
        prompt, places = encode_question(processor, template, episode)
        batch = processor.collate([prompt])
        with torch.no_grad():
            states = model.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                output_hidden_states=True,
                use_cache=False,
                **image_inputs(model, batch),
            ).hidden_states
        assert {len(found) for found in together.values()} == {len(states)}
        for layer, state in enumerate(states[:-1]):  # the last one is normed there
            for name, expected in states_at(state, [places]).items():
                np.testing.assert_allclose(together[name][layer, number], expected[0].numpy(), atol=2e-4, rtol=1e-3)
