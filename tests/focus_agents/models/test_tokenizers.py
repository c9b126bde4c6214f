"""Where a prompt's boxes stand under tokenizers that split words as published ones do, for every template.

The tokenizers are trained here. `FOCUS_TEST_MODEL` names a model's folder, whose own is looked at as well.
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_env.env import observe
from focus_env.prompts import TEMPLATES, PromptTemplate
from focus_env.types import Message, TextPart
from tests.fakes import make_episode

EPISODE = make_episode(0, shots=3)
OF_TURNS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]
OF_BOXES = ["<|box_start|>", "<|box_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<ref>", "</ref>", "<box>"]
LOCATIONS = [f"<loc{number:04}>" for number in range(1024)]
OWN = os.environ.get("FOCUS_TEST_MODEL")
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTS: dict[str, Any] = {
    "single digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS]),
    "merged digits": WORDS,
    "merged marks": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    "blanks before words": pre_tokenizers.Metaspace(prepend_scheme="never"),
    "tokens of boxes": WORDS,
}
"""How a text is cut before letters are merged."""


def prompts(processor: VLMProcessor) -> dict[str, list[Message]]:
    """A prompt of every template."""
    observation = observe(EPISODE)
    return {name: processor.fit_template(template).render(observation) for name, template in TEMPLATES.items()}


def texts(messages: list[Message]) -> list[TextPart]:
    return [part for message in messages for part in message.content if isinstance(part, TextPart)]


def answers(template: PromptTemplate) -> list[str]:
    """The right ones, for an object that is there and one that is not."""
    return [template.answer(box, (80, 60)) for box in (EPISODE.target_box, None)]


def train(kind: str, words: list[str], chat_template: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are pieces of these words, as long as they can be."""
    has_bytes = "blanks" not in kind
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = CUTS[kind]
    tokenizer.decoder = decoders.ByteLevel() if has_bytes else decoders.Metaspace(prepend_scheme="never")
    alphabet = pre_tokenizers.ByteLevel.alphabet() if has_bytes else sorted({"▁", *"".join(words)})
    trainer = trainers.BpeTrainer(
        vocab_size=3000, special_tokens=OF_TURNS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    if kind in ("blanks before words", "tokens of boxes"):
        fast.add_tokens(OF_BOXES, special_tokens=True)
        fast.add_tokens(LOCATIONS)  # which decoding keeps
    fast.chat_template = chat_template
    return fast


@pytest.fixture(scope="module", params=[*CUTS, *(["of FOCUS_TEST_MODEL"] if OWN else [])])
def own(request: pytest.FixtureRequest, processor: VLMProcessor) -> VLMProcessor:
    """A processor with another tokenizer."""
    if OWN and request.param == "of FOCUS_TEST_MODEL":
        return load_processor(OWN)
    words = [part.text for messages in prompts(processor).values() for part in texts(messages)]
    words += [answer for template in TEMPLATES.values() for answer in answers(processor.fit_template(template))]
    words += [f"[{a}, {b}, {a + b}, 1000]" for a in range(0, 300, 7) for b in range(0, 500, 11)]
    # What stands around pictures and turns is part of what merges.
    words += ["user\nassistant\nsystem\nYou are a helpful assistant."] * 3
    tokenizer = train(request.param, words, processor.tokenizer.chat_template)
    return VLMProcessor(tokenizer, processor.image_processor, processor.family)


def surfaces(processor: VLMProcessor, ids: list[int]) -> list[str]:
    """What each token writes, by the whole text's decoding of one token more each time."""
    decode = processor.tokenizer.decode
    found, before = [], ""
    for count in range(1, len(ids) + 1):
        now = decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        found.append(now[len(before) :])
        before = now
    return found


def test_boxes_are_found_in_tokens(own: VLMProcessor) -> None:
    """All that writes a box, and the ends of its four numbers, whatever else the tokens at its edges write."""
    for name, messages in prompts(own).items():
        prompt = own.encode(messages)
        spans = own.locate(messages, prompt)
        marked = [part for part in texts(messages) if part.box_span is not None]
        assert len(spans.box_texts) == len(marked) == len(EPISODE.support), name
        # Pictures without their tokens, so that a token's place in the text is the sum of what stands before it.
        is_text = prompt.input_ids != own.image_token_id
        places = np.flatnonzero(is_text)
        written = surfaces(own, prompt.input_ids[is_text].tolist())
        ends = np.cumsum([len(surface) for surface in written])
        starts, text, cursor = ends - [len(surface) for surface in written], "".join(written), 0
        for part, whole, coordinates, numbers in zip(
            marked, spans.box_texts, spans.box_coordinates, spans.box_numbers, strict=True
        ):
            assert part.box_span is not None
            cursor = text.index(part.text.strip(), cursor) - (len(part.text) - len(part.text.lstrip()))
            start, stop = cursor + part.box_span[0], cursor + part.box_span[1]
            expected = places[(starts < stop) & (ends > start)]
            assert whole.tolist() == expected.tolist(), name
            of_digits = {place for place in range(start, stop) if text[place].isdigit()}
            digit_tokens = {
                int(places[token]) for token in range(len(places)) if of_digits & set(range(starts[token], ends[token]))
            }
            assert digit_tokens <= set(coordinates.tolist()) <= set(expected.tolist()), name
            last = [found.end() - 1 for found in re.finditer(r"[0-9]+(?:\.[0-9]+)?", text[start:stop])]
            last_tokens = [int(places[np.flatnonzero(ends > start + place)[0]]) for place in last]
            assert len(last) == 4
            assert numbers.tolist() == last_tokens, name
            cursor = stop


def test_answers_come_back(own: VLMProcessor) -> None:
    """Of every template, with its end token behind it and no other."""
    for template in (own.fit_template(template) for template in TEMPLATES.values()):
        for text in answers(template):
            ids = own.encode_answer(text)
            assert ids.count(own.eos_token_id) == 1
            found = template.parse(own.decode(ids), (80, 60))
            assert found.is_strict, template.name
            assert found == template.parse(text, (80, 60)), template.name
