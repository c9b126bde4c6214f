"""Every template in every unit: what is written is read back, strict, and where a support's box stands is marked."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from focus_env.boxes import CoordinateFrame, box_to_frame
from focus_env.env import observe
from focus_env.parsing import parse_answer
from focus_env.prompts import TEMPLATES, PromptTemplate
from focus_env.prompts.house import HOUSE
from focus_env.types import Box, ImagePart, ParseStatus, TextPart
from tests.fakes import make_episode

NORM_1024, RESIZED = CoordinateFrame.NORM_1024, CoordinateFrame.RESIZED_PIXEL
SIZES = [(1, 1), (3, 2), (640, 427), (301, 200), (97, 211), (1281, 7), (5, 997), (2000, 11), (4096, 2160)]
TOKENS = "paligemma"


def resized(image_wh: tuple[int, int]) -> tuple[int, int]:
    """To multiples of 28, as Qwen2.5-VL has it, with other factors on the two sides."""
    return max(28, round(image_wh[0] / 28) * 28), max(28, round(image_wh[1] * 1.3 / 28) * 28)


def in_frame(template: PromptTemplate, frame: CoordinateFrame) -> PromptTemplate:
    return dataclasses.replace(template, frame=frame, image_to_input_wh=resized)


CASES = [
    in_frame(template, frame)
    for template in TEMPLATES.values()
    for frame in CoordinateFrame
    if template.name != TOKENS or frame is NORM_1024
]


def boxes(image_wh: tuple[int, int], count: int = 6) -> list[Box]:
    """Boxes of all sizes, from a hair to the whole image, and some at its edges."""
    width, height = image_wh
    rng = np.random.default_rng(7)
    xs, ys = np.sort(rng.uniform(0, width, (count, 2))), np.sort(rng.uniform(0, height, (count, 2)))
    drawn = [Box(float(x1), float(y1), float(x2), float(y2)) for (x1, x2), (y1, y2) in zip(xs, ys, strict=True)]
    thin = Box(width * 0.999, height * 0.4, float(width), height * 0.4 + 1e-3 * height)
    return [*drawn, Box(0.0, 0.0, float(width), float(height)), thin]


@pytest.mark.parametrize("template", CASES, ids=lambda template: f"{template.name}-{template.frame}")
def test_an_answer_is_read_back_to_half_a_unit(template: PromptTemplate) -> None:
    frame, decimals = template.frame, template.form.box.decimals(template.frame)
    assert decimals is not None  # no answer is unrounded
    for image_wh in SIZES:
        input_wh = resized(image_wh)
        for box in boxes(image_wh):
            text = template.answer(box, image_wh)
            result = template.parse(text, image_wh)
            assert (result.status, result.is_strict) == (ParseStatus.OK, True), (text, image_wh)
            assert result.box is not None
            written = box_to_frame(box, frame, image_wh=image_wh, input_wh=input_wh)
            found = box_to_frame(result.box, frame, image_wh=image_wh, input_wh=input_wh)
            unit = 10.0**-decimals
            # A side of less than a unit becomes one, and the last location token is one short of the edge.
            is_thin = min(written[2] - written[0], written[3] - written[1]) < unit
            room = unit if is_thin or template.form.box.has_location_tokens else unit / 2
            assert np.abs(np.subtract(written, found)).max() <= room * (1 + 1e-6), (text, image_wh, box)
            again = template.parse(template.answer(result.box, image_wh), image_wh)
            assert again.box == pytest.approx(result.box, abs=1e-9 * max(image_wh))


@pytest.mark.parametrize("template", CASES, ids=lambda template: f"{template.name}-{template.frame}")
def test_what_decoding_leaves_of_an_answer_is_as_strict(template: PromptTemplate) -> None:
    box, image_wh = Box(64, 30, 320, 200), (640, 427)
    for text in (template.answer(box, image_wh), template.answer(None, image_wh)):
        whole = template.parse(text, image_wh)
        for token in template.optional_tokens:
            text = text.replace(token, "")
        stripped = template.parse(f" {text}\n", image_wh)
        assert stripped.is_strict
        assert stripped == whole


@pytest.mark.parametrize("template", CASES, ids=lambda template: f"{template.name}-{template.frame}")
def test_an_answer_in_another_form_is_the_same_box_or_none(template: PromptTemplate) -> None:
    """A model that falls back to the form of another family is understood, or said not to be; never misread."""
    box, image_wh = Box(64, 30, 320, 200), (640, 427)
    for other in CASES:
        has_own_unit = other.form.box.has_location_tokens
        # Bare numbers are in the order that was asked for: nothing says that they are not.
        is_known = template.form.box.order == "xyxy" or other.form.box.order == "yxyx"
        if is_known and (other.frame is template.frame or has_own_unit):
            text = other.answer(box, image_wh)
            found, meant = template.parse(text, image_wh), other.parse(text, image_wh).box
            assert found.box is None or found.box == pytest.approx(meant, abs=1e-6), (other.name, text)
            assert found.status is not ParseStatus.ABSENT, (other.name, text)
            absent = template.parse(other.answer(None, image_wh), image_wh)
            assert absent.box is None, other.name


@pytest.mark.parametrize("template", CASES, ids=lambda template: f"{template.name}-{template.frame}")
def test_a_supports_box_is_marked(template: PromptTemplate) -> None:
    episode = make_episode()
    messages = template.render(observe(episode))
    parts = [part for message in messages for part in message.content]
    marked = [part for part in parts if isinstance(part, TextPart) and part.box_span is not None]
    assert [part.box for part in marked] == [exemplar.box for exemplar in episode.support]
    for part, exemplar in zip(marked, episode.support, strict=True):
        assert part.box_span is not None
        written = part.text[slice(*part.box_span)]
        assert written == template.write_box(exemplar.box, exemplar.frame.image_wh)
        assert "bbox" not in written
        found = parse_answer(
            written, frame=template.frame, image_wh=exemplar.frame.image_wh, input_wh=resized(exemplar.frame.image_wh),
            form=dataclasses.replace(template.form, box=template._support_box, answer="{box}"),
        )  # fmt: skip
        assert found.is_strict
        assert found.box == pytest.approx(exemplar.box, abs=0.6)
    assert [type(part) for part in parts].count(ImagePart) == 3


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda template: template.name)
def test_no_words_stand_where_the_box_is_taken_for_another(template: PromptTemplate) -> None:
    """The box is found by its place, not by its text."""
    template = in_frame(template, template.frame)
    twin = dataclasses.replace(template, support_text="[8, 13, 40, 47] {index} " + template.support_text)
    part = next(
        part
        for message in twin.render(observe(make_episode(shots=1)))
        for part in message.content
        if isinstance(part, TextPart) and part.box_span is not None
    )
    assert part.box_span is not None
    assert part.box_span[0] >= len("[8, 13, 40, 47] 1 ")


@pytest.mark.parametrize("name", sorted({*TEMPLATES} - {template.name for template in HOUSE}))
def test_published_and_native_templates_keep_their_unit(name: str) -> None:
    assert TEMPLATES[name].keeps_frame


def test_location_tokens_count_in_their_own_unit() -> None:
    with pytest.raises(ValueError, match=r"template 'paligemma': box format .* the unit norm_1024, .* got norm_1000"):
        dataclasses.replace(TEMPLATES[TOKENS], frame=CoordinateFrame.NORM_1000)


ANSWERS = {
    "focus_paper": ("<answer>[100, 70, 500, 468]</answer>", "<answer>none</answer>"),
    "focus_release": ("<answer>[100, 70, 500, 468]</answer>", "<answer>none</answer>"),
    "iploc_release": ("(100,70),(500,468)", "none"),
    "iploc_id": (
        "[100.0, 70.3, 500.0, 468.4], Do all these boxes have the same object? Yes.",
        "Do all these boxes have the same object? No.",
    ),
    "r1_track": ("[64,39,322,262]", "none"),
    "r1_track_think": (
        "<think>\n\n</think>\n\n<answer>[64,39,322,262]</answer>", "<think>\n\n</think>\n\n<answer>none</answer>",
    ),
    "qwen2_vl": ("<|box_start|>(100,70),(500,468)<|box_end|>", "none"),
    "qwen2_5_vl": ('```json\n[\n\t{"bbox_2d": [64, 39, 322, 262], "label": "object"}\n]\n```', "```json\n[]\n```"),
    "qwen3_vl": ('```json\n[\n\t{"bbox_2d": [100, 70, 500, 468], "label": "object"}\n]\n```', "```json\n[]\n```"),
    "internvl": ("<ref>the object</ref><box>[[100, 70, 500, 468]]</box>", "none"),
    "llava_onevision": ("[0.10, 0.07, 0.50, 0.47]", "none"),
    "glm4v": ("<|begin_of_box|>[[100,70,500,468]]<|end_of_box|>", "<|begin_of_box|>none<|end_of_box|>"),
    "gemma3": ('```json\n[\n  {"box_2d": [70, 100, 468, 500], "label": "object"}\n]\n```', "```json\n[]\n```"),
    "paligemma": ("<loc0072><loc0102><loc0480><loc0512> object", "none"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_the_right_answers_of_other_forms(name: str) -> None:
    template = in_frame(TEMPLATES[name], TEMPLATES[name].frame)
    assert (template.answer(Box(64, 30, 320, 200), (640, 427)), template.answer(None, (640, 427))) == ANSWERS[name]


@pytest.mark.parametrize(
    ("name", "text", "status", "is_strict"),
    [
        # Texts of the models that these forms are from.
        ("qwen2_vl", "(100,70),(500,468)", "ok", True),
        ("qwen2_vl", "<|box_start|>(100, 70), (500, 468)<|box_end|>", "ok", True),
        ("qwen2_vl", "<|object_ref_start|>a<|object_ref_end|><|box_start|>(100,70),(500,468)<|box_end|>", "ok", False),
        ("qwen2_vl", "<answer>[100, 70, 500, 468]</answer>", "ok", False),
        ("qwen3_vl", '```json\n[\n\t{"bbox_2d": [100, 70, 500, 468], "label": "red mug"}\n]\n```', "ok", True),
        ("qwen3_vl", '```json\n[{"bbox_2d": [100,70,500,468], "label": ""}]\n```', "ok", True),
        ("qwen3_vl", '[{"bbox_2d": [100, 70, 500, 468], "label": "mug"}]', "ok", False),
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [1, 2, 3, 4], "label": "b"}]', "multiple", False),
        ("internvl", "the object[[100, 70, 500, 468]]", "ok", True),
        ("internvl", "<box>[[100, 70, 500, 468]]</box>", "ok", False),
        ("llava_onevision", "[0.1, 0.07, 0.5, 0.468]", "ok", True),
        ("llava_onevision", "[100, 70, 500, 468]", "out_of_range", True),
        ("glm4v", "The object is at <|begin_of_box|>[[100,70,500,468]]<|end_of_box|>.", "ok", False),
        ("gemma3", '[{"box_2d": [70, 100, 468, 500], "label": "mug"}]', "ok", False),
        ("gemma3", "[70, 100, 468, 500]", "ok", False),
        ("gemma3", '{"x1": 100, "y1": 70, "x2": 500, "y2": 468}', "ok", False),
        ("gemma3", "<loc0072><loc0102><loc0480><loc0512>", "ok", False),
        ("gemma3", "(100, 70), (500, 468)", "ambiguous", False),
        ("gemma3", "x, y, w, h: xywh [70, 100, 468, 500]", "ambiguous", False),
        ("paligemma", "<loc0072><loc0102><loc0480><loc0512> object", "ok", True),
        ("paligemma", "<loc0072><loc0102><loc0480><loc0512> object ; <loc0072><loc0102><loc0480><loc0512> object",
         "multiple", False),
        ("paligemma", "<loc0072><loc0102><loc0480>", "no_box", False),
        ("iploc_id", "[100.0, 70.3, 500.0, 468.4], Do all these boxes have the same object? Yes.", "ok", True),
        ("iploc_id", "[100.0, 70.3, 500.0, 468.4], Do all these boxes have the same object? No.", "absent", True),
        ("iploc_id", "[100.0, 70.3, 500.0, 468.4], do all these boxes have the same object? no", "absent", False),
        ("iploc_id", "[100.0, 70.3, 500.0, 468.4]", "ok", False),
        ("iploc_id", "[0.1, 0.07, 0.5, 0.468]", "bad_numbers", False),
        ("iploc_release", "((100,70),(500,468))", "ok", False),
        ("r1_track_think", "<think>It moved.</think> <answer>[64,39,322,262]</answer>", "ok", True),
        ("r1_track", "[64, 39, 322, 262]", "ok", True),
        ("default", "<loc0072><loc0102><loc0480><loc0512>", "ok", False),
        ("default", "[100.0, 70.3, 500.0, 468.4], Do all these boxes have the same object? No.", "absent", False),
        ("default", "[100, 70, 500, 468]\nsame_object=NO", "absent", False),
        ("default", "[100, 70, 500, 468]\nsame_object=YES", "ok", False),
        ("default", "<answer>[100, 70, 500, 468], not the same object? No.</answer>", "absent", False),
    ],
)  # fmt: skip
def test_answers_in_other_forms(name: str, text: str, status: str, is_strict: bool) -> None:
    template = in_frame(TEMPLATES[name], TEMPLATES[name].frame)
    result = template.parse(text, (640, 427))
    assert (result.status, result.is_strict) == (status, is_strict)
    if status == "ok":
        assert result.box == pytest.approx(Box(64, 30, 320, 200), abs=5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_answers_in_json_are_json(name: str) -> None:
    template = in_frame(TEMPLATES[name], TEMPLATES[name].frame)
    for box, count in ((Box(64, 30, 320, 200), 1), (None, 0)):
        text = template.answer(box, (640, 427)).removeprefix("```json\n").removesuffix("\n```")
        assert len(json.loads(text)) == count


def test_numbers_of_another_order_are_told_with_x_first() -> None:
    result = TEMPLATES["gemma3"].parse('{"box_2d": [70, 100, 468, 500]}', (640, 427))
    assert result.numbers == (100, 70, 500, 468)
    assert TEMPLATES["default"].parse("<loc0072><loc0102><loc0480><loc0512>", (640, 427)).numbers is None
