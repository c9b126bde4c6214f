"""Prompts: their exact text, where the images stand, and that no category slips in."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from focus_env.boxes import CoordinateFrame
from focus_env.env import observe
from focus_env.prompts import PSEUDO_NAMES, TEMPLATES, IPLocTemplate, PromptTemplate, get_template
from focus_env.prompts.house import HOUSE
from focus_env.types import Box, ImagePart, Message, ParseStatus, TextPart
from tests.fakes import make_episode


def outline(messages: list[Message]) -> str:
    """The messages as text, with the size of each image in its place."""
    lines = []
    for message in messages:
        lines.append(f"({message.role})")
        for part in message.content:
            if isinstance(part, TextPart):
                lines.append(part.text)
            else:
                lines.append(f"<{part.image.shape[1]}x{part.image.shape[0]}>")
    return "\n".join(lines)


DEFAULT_GOLD = """\
(user)
Below are 2 example image(s) and one final image. After each example image comes the bounding box of one \
particular object, the same object every time. Find that object in the final image. \
All boxes are [x_min, y_min, x_max, y_max] with integer coordinates from 0 to 1000, \
as thousandths of the width and height of their own image. \
Reply with <answer>[x_min, y_min, x_max, y_max]</answer> and nothing else.
<40x32>
Example 1: the object is at [100, 188, 500, 688].
<48x32>
Example 2: the object is at [83, 188, 417, 719].
<80x60>
Final image: where is the object?"""

COMPACT_GOLD = """\
(user)
Find the object.
<40x32>
[100, 188, 500, 688]
<48x32>
[83, 188, 417, 719]
<80x60>
Answer:"""

QUESTIONS_GOLD = """\
(user)
Find the object.
<40x32>
What is at [10, 19, 50, 69]?\x20
<48x32>
What is at [8, 19, 42, 72]?\x20
<80x60>
Where is it? Answer:"""

IPLOC_GOLD = """\
(user)
<40x32>
<ref>object</ref>
(user)
[100, 188, 500, 688]
(user)
<48x32>
<ref>object</ref>
(user)
[83, 188, 417, 719]
(user)
<80x60>
<ref>object</ref>"""


@pytest.mark.parametrize(
    ("name", "gold"),
    [("default", DEFAULT_GOLD), ("compact", COMPACT_GOLD), ("questions", QUESTIONS_GOLD), ("iploc", IPLOC_GOLD)],
)
def test_golden_text(name: str, gold: str) -> None:
    messages = TEMPLATES[name].render(observe(make_episode()))
    assert outline(messages) == gold
    assert "category" not in outline(messages)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("default", " If the object is not in the final image, reply with <answer>none</answer>."),
        ("compact", " It may be absent."),
        ("questions", " It may be absent."),
    ],
)
def test_absent_variant_only_adds_its_sentence(name: str, ending: str) -> None:
    template = TEMPLATES[name]
    observation = observe(make_episode(shots=1))
    plain = template.render(observation)[0].content
    variant = dataclasses.replace(template, allow_absent=True).render(observation)[0].content
    assert isinstance(plain[0], TextPart)
    assert variant[0] == TextPart(plain[0].text + ending)
    assert [part for part in variant if isinstance(part, TextPart)][1:] == [
        part for part in plain if isinstance(part, TextPart)
    ][1:]


def test_images_are_passed_on_unchanged() -> None:
    observation = observe(make_episode())
    images = [p.image for p in TEMPLATES["default"].render(observation)[0].content if isinstance(p, ImagePart)]
    for image, expected in zip(images, [*observation["support_images"], observation["query_image"]], strict=True):
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("frame", "box_text", "words"),
    [
        (CoordinateFrame.PIXEL, "[4, 6, 20, 22]", "in pixels"),
        (CoordinateFrame.NORM_1, "[0.100, 0.188, 0.500, 0.688]", "from 0 to 1,"),
        (CoordinateFrame.NORM_100, "[10, 19, 50, 69]", "integer coordinates from 0 to 100,"),
        (CoordinateFrame.RESIZED_PIXEL, "[8, 12, 40, 44]", "in pixels"),
    ],
)
def test_other_frames_change_boxes_words_and_reading(frame: CoordinateFrame, box_text: str, words: str) -> None:
    template = dataclasses.replace(TEMPLATES["default"], frame=frame, image_to_input_wh=double)
    text = outline(template.render(observe(make_episode(shots=1))))
    assert box_text in text
    assert words in text
    box = Box(20, 15, 60, 45)  # whole in every frame
    result = template.parse(template.answer(box, (80, 60)), (80, 60))
    assert result.is_strict
    assert result.box == pytest.approx(box, abs=0.05)


def double(image_wh: tuple[int, int]) -> tuple[int, int]:
    return 2 * image_wh[0], 2 * image_wh[1]


def test_boxes_in_pixels_of_what_the_model_sees() -> None:
    template = dataclasses.replace(TEMPLATES["compact"], frame=CoordinateFrame.RESIZED_PIXEL, image_to_input_wh=double)
    box = Box(20, 10, 60, 40)
    assert template.answer(box, (80, 60)) == "<answer>[40, 20, 120, 80]</answer>"
    assert template.parse("[40, 20, 120, 80]", (80, 60)).box == box


def test_resized_frame_without_a_size_fails() -> None:
    template = dataclasses.replace(TEMPLATES["compact"], frame=CoordinateFrame.RESIZED_PIXEL)
    with pytest.raises(ValueError, match="needs input_wh"):
        template.answer(Box(0, 0, 1, 1), (80, 60))


def test_answer_for_an_absent_object() -> None:
    for template in HOUSE:
        thought = "<think>\n\n</think>\n\n" if template.thinking else ""
        assert template.answer(None, (80, 60)) == f"{thought}<answer>none</answer>"
        assert template.parse("<answer>none</answer>", (80, 60)).status is ParseStatus.ABSENT


def test_a_template_for_thoughts_wants_them_in_the_strict_format() -> None:
    template = TEMPLATES["thinking"]
    assert "First think between <think> and </think>" in outline(template.render(observe(make_episode())))
    thought = "<think>Not at [1, 2, 3, 4].</think>"
    assert template.parse(thought + "<answer>[0, 0, 500, 500]</answer>", (80, 60)).is_strict
    assert not template.parse("<answer>[0, 0, 500, 500]</answer>", (80, 60)).is_strict
    assert not TEMPLATES["default"].parse(thought + "<answer>[0, 0, 500, 500]</answer>", (80, 60)).is_strict


def test_empty_sentences_are_left_out() -> None:
    template = PromptTemplate(name="bare", instruction="", support_text="{box}", query_text="")
    parts = template.render(observe(make_episode(shots=1)))[0].content
    assert [type(part) for part in parts] == [ImagePart, TextPart, ImagePart]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instruction": "Find the {category}."}, r"instruction may use .* got \['category'\]"),
        ({"instruction": "Find it at {box}."}, r"instruction may use .* got \['box'\]"),
        ({"query_text": "{}"}, r"query_text may use .* got \[''\]"),
        ({"support_text": "here"}, "support_text must hold {box} exactly once"),
        ({"support_text": "{box} {box}"}, "support_text must hold {box} exactly once"),
    ],
)
def test_bad_templates(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"template 'compact': {message}"):
        dataclasses.replace(TEMPLATES["compact"], **fields)


def test_images_and_boxes_must_pair_up() -> None:
    observation = observe(make_episode(shots=2))
    observation["support_boxes"] = observation["support_boxes"][:1]
    with pytest.raises(ValueError, match="one box per support image, got 1 for 2 images"):
        TEMPLATES["default"].render(observation)


def test_registry() -> None:
    assert {name: template.name for name, template in TEMPLATES.items()} == {
        "default": "default",
        "compact": "compact",
        "questions": "questions",
        "iploc": "iploc",
        "thinking": "thinking",
        "focus_paper": "focus_paper",
        "focus_release": "focus_release",
        "iploc_release": "iploc_release",
        "iploc_id": "iploc_id",
        "r1_track": "r1_track",
        "r1_track_think": "r1_track_think",
        "r1_track_5k": "r1_track_5k",
        "r1_track_5k_think": "r1_track_5k_think",
        "qwen2_vl": "qwen2_vl",
        "qwen2_5_vl": "qwen2_5_vl",
        "qwen3_vl": "qwen3_vl",
        "internvl": "internvl",
        "llava_onevision": "llava_onevision",
        "glm4v": "glm4v",
        "gemma3": "gemma3",
        "paligemma": "paligemma",
    }
    assert get_template("compact") is get_template(TEMPLATES["compact"]) is TEMPLATES["compact"]
    assert pickle.loads(pickle.dumps(TEMPLATES["default"])) == TEMPLATES["default"]
    with pytest.raises(ValueError, match="unknown prompt template 'short'; known are default, compact"):
        get_template("short")


@pytest.mark.parametrize(
    "template", [*HOUSE, dataclasses.replace(TEMPLATES["compact"], support_text="1 {index} {box}.")]
)
def test_boxes_are_marked(template: PromptTemplate) -> None:
    template = dataclasses.replace(template, frame=CoordinateFrame.NORM_1000)
    messages = template.render(observe(make_episode()))
    texts = [part for message in messages for part in message.content if isinstance(part, TextPart)]
    marked = [part.text[slice(*part.box_span)] for part in texts if part.box_span is not None]
    assert marked == ["[100, 188, 500, 688]", "[83, 188, 417, 719]"]


class TestIPLoc:
    """The baseline that names the object."""

    def name(self, template: PromptTemplate, index: int, category: str | None = "secret category") -> str:
        assert isinstance(template, IPLocTemplate)
        return template.for_episode(dataclasses.replace(make_episode(index), category=category)).object_name

    def test_the_category_or_a_name_that_means_nothing(self) -> None:
        template = TEMPLATES["iploc"]
        by_kind = {
            kind: [self.name(dataclasses.replace(template, names=kind), index) for index in range(40)]
            for kind in ("category", "pseudo", "both")
        }
        assert set(by_kind["category"]) == {"secret category"}
        assert set(by_kind["pseudo"]) <= set(PSEUDO_NAMES)
        assert len(set(by_kind["pseudo"])) > 5
        assert 10 < by_kind["both"].count("secret category") < 30
        assert all(
            name in (a, b) for name, a, b in zip(by_kind["both"], by_kind["category"], by_kind["pseudo"], strict=True)
        )

    def test_an_episode_without_a_category_gets_a_pseudo_name(self) -> None:
        assert self.name(dataclasses.replace(TEMPLATES["iploc"], names="category"), 0, category=None) in PSEUDO_NAMES

    def test_an_evaluation_tells_the_category_only_where_that_is_asked_for(self) -> None:
        episode = make_episode()
        assert TEMPLATES["iploc"].for_question(episode) is TEMPLATES["iploc"]
        assert TEMPLATES["default"].for_question(episode) is TEMPLATES["default"]
        for name in ("iploc_release", "iploc_id"):
            asked = TEMPLATES[name].for_question(episode)
            assert "(user)\n<80x60>\n<ref>secret category</ref>" in outline(asked.render(observe(episode)))
            unknown = TEMPLATES[name].for_question(dataclasses.replace(episode, category=None))
            assert isinstance(unknown, IPLocTemplate)
            assert unknown.object_name in PSEUDO_NAMES

    def test_an_episode_keeps_its_name(self) -> None:
        names = {self.name(TEMPLATES["iploc"], 7) for _ in range(3)}
        assert len(names) == 1


def too_long(image_wh: tuple[int, int]) -> tuple[int, int]:
    """As Qwen's rule refuses a picture, without its size."""
    if max(image_wh) / min(image_wh) > 200:
        raise ValueError("absolute aspect ratio must be smaller than 200, got 201.0")
    return image_wh


def test_a_picture_that_the_model_cannot_take_is_named() -> None:
    template = dataclasses.replace(
        get_template("default"), frame=CoordinateFrame.RESIZED_PIXEL, image_to_input_wh=too_long
    )
    pictures = [np.zeros((side, 201, 3), np.uint8) for side in (4, 1)]
    observation: Any = {
        "support_images": pictures, "support_boxes": [(0, 0, 9, 4), (0, 0, 9, 1)], "query_image": pictures[0],
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"^support_images, number 2: a picture of 201 x 1 pixels: .*got 201\.0; leave"
    ):
        template.render(observation)
    with pytest.raises(ValueError, match=r"^a picture of 201 x 1 pixels: the model's image processor cannot take it"):
        template.answer(Box(0, 0, 9, 1), (201, 1))
