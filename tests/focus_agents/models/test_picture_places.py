"""Chat templates that write a turn's pictures first, as LLaVA's do: boxes stand behind their pictures all the same."""

from __future__ import annotations

import copy
import re

import pytest

from focus_agents.models.picture_places import moved_picture
from focus_agents.models.processing import VLMProcessor
from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode
from tests.focus_agents.models.cases import Case, make_case

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


def with_template(case: Case, chat_template: str) -> VLMProcessor:
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
