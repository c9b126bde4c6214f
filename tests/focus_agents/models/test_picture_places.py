"""Chat templates that write a turn's pictures first, as LLaVA's do: boxes stand behind their pictures all the same."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from focus_agents.models.picture_places import moved_picture
from focus_agents.models.processing import VLMProcessor
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.types import Message
from tests.fakes import make_episode
from tests.focus_agents.models.cases import Case, make_case
from tests.focus_agents.models.messages import as_plain_chat

TURN = "{{'<|im_start|>' + m['role'] + ' '}}PARTS{{'<|im_end|>'}}"
PICTURES = "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ 'IMAGE' }}{% endfor %}"
TEXTS = "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + c['text'] }}{% endfor %}"


def template(parts: str, image: str = "<image>") -> str:
    turns = "{% for m in messages %}" + TURN.replace("PARTS", parts) + "{% endfor %}"
    ask = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    return turns.replace("IMAGE", image) + ask


@pytest.fixture(scope="module")
def llava(processor: VLMProcessor) -> Case:
    return make_case("llava_onevision", processor)


def with_template(case: Case, chat_template: str | dict[str, str]) -> VLMProcessor:
    tokenizer = copy.deepcopy(case.processor.tokenizer)
    tokenizer.chat_template = chat_template
    return VLMProcessor(tokenizer, case.processor.image_processor, case.processor.family)


@pytest.mark.parametrize("image", ["<image>", "<image>\n", "[<image>]"])
@pytest.mark.parametrize("parts", [PICTURES + TEXTS, TEXTS + PICTURES])
def test_pictures_stand_before_their_boxes(parts: str, image: str, llava: Case) -> None:
    processor = with_template(llava, template(parts, image))
    processor.check_chat_template()
    messages = get_template("compact").render(observe(make_episode(1, shots=2)))
    prompt = processor.encode(messages)
    text = re.sub("(<image>)+", "<image>", processor.tokenizer.decode(prompt.input_ids))
    said = "".join(getattr(part, "text", image) for part in messages[0].content)
    assert text == f"<|im_start|>user \n{said}<|im_end|><|im_start|>assistant\n"
    spans = processor.locate(messages, prompt)
    first, second, query = (tokens[[0, -1]] for tokens in spans.images)
    box, other = (tokens[[0, -1]] for tokens in spans.box_texts)
    assert first[1] < box[0] < box[1] < second[0] < second[1] < other[0] < other[1] < query[0]


def test_a_template_that_keeps_their_places_is_left_alone(case: Case) -> None:
    processor = case.processor
    assert moved_picture(processor.tokenizer, processor.family.placeholder or processor.family.image_token) is None


@pytest.mark.parametrize("parts", [PICTURES, PICTURES.replace("IMAGE", "IMAGEIMAGE") + TEXTS])
def test_a_template_that_cannot_be_used_is_refused(parts: str, llava: Case) -> None:
    with pytest.raises(ValueError, match="expected <image> once for a picture, in its place"):
        with_template(llava, template(parts)).check_chat_template()


def plain_text(processor: VLMProcessor, folder: Path, messages: list[Message]) -> str:
    """The chat template's text as another program has it, from what is saved of a policy."""
    processor.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text: str = tokenizer.apply_chat_template(as_plain_chat(messages), tokenize=False, add_generation_prompt=True)
    return text


@pytest.mark.parametrize("parts", [PICTURES + TEXTS, TEXTS + PICTURES])
def test_other_programs_ask_a_saved_policy_as_it_was_trained(parts: str, llava: Case, tmp_path: Path) -> None:
    processor = with_template(llava, template(parts))
    messages = get_template("compact").render(observe(make_episode(1, shots=2)))
    asked = processor.tokenizer(plain_text(processor, tmp_path, messages), add_special_tokens=False)["input_ids"]
    assert asked == processor.chat_token_ids(messages)


def test_of_several_templates_the_default_one_is_kept_in_place(llava: Case) -> None:
    processor = with_template(llava, {"default": template(PICTURES + TEXTS), "tool": "{{ 'other' }}"})
    processor.check_chat_template()
    assert processor.tokenizer.chat_template["tool"] == "{{ 'other' }}"


def test_templates_of_early_conversions_name_pictures_otherwise(processor: VLMProcessor, tmp_path: Path) -> None:
    internvl = make_case("internvl", processor)
    fresh = template("{% for c in m['content'] %}{{ 'IMAGE' if c['type'] == 'image' else c['text'] }}{% endfor %}")
    early, late = (
        with_template(internvl, fresh.replace("<image>", written)) for written in ("<image>\n", "<IMG_CONTEXT>\n")
    )
    messages = get_template("compact").render(observe(make_episode(1, shots=2)))
    assert early.encode(messages).input_ids.tolist() == late.encode(messages).input_ids.tolist()
    assert "<IMG_CONTEXT>" in plain_text(early, tmp_path, messages)
