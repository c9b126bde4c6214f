"""Scripted answers, read in every unit: a wrong one is seen, a right or a poor one is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from focus_agents.diagnosis.findings import Section, Verdict, conclusion
from focus_agents.diagnosis.question import Question, ask, cut, read_boxes
from focus_agents.diagnosis.units import check_right_answer, describe_answer, read_in_units
from focus_agents.diagnosis.words import check_boxes, in_terminal
from focus_agents.models.processing import VLMProcessor
from focus_agents.rollout.records import Completion
from focus_env.boxes import CoordinateFrame, box_to_frame
from focus_env.prompts import get_template
from tests.fakes import make_episode

WH = (200, 120)


@pytest.fixture
def question(processor: VLMProcessor) -> Question:
    return ask(processor, get_template("compact"), make_episode(0, shots=1, query_wh=WH))


def completion(text: str) -> Completion:
    return Completion(text, np.arange(9), np.zeros(9, np.float32), is_finished=True)


@pytest.mark.parametrize("meant", list(CoordinateFrame))
def test_a_wrong_unit_is_seen(meant: CoordinateFrame, question: Question) -> None:
    assert question.template.frame is CoordinateFrame.NORM_1000
    target = question.episode.target_box
    assert target is not None
    values = box_to_frame(target, meant, image_wh=WH, input_wh=question.input_whs[-1])
    section = Section("unit", "the unit")
    describe_answer(section, question, completion(f"<answer>[{', '.join(f'{v:.3f}' for v in values)}]</answer>"))
    best = max(section.facts["iou"], key=section.facts["iou"].get)
    assert section.facts["iou"][meant] == pytest.approx(section.facts["iou"][best])
    warnings = [text for text in section.of(Verdict.WARNING) if "far better" in text]
    if meant in (CoordinateFrame.NORM_1000, CoordinateFrame.NORM_1024):  # these two overlap nearly
        assert warnings == []
    else:
        assert len(warnings) == 1
        assert "than norm_1000, in which it was asked for" in warnings[0]
        assert conclusion([section]).startswith("the model can be used, with a warning on the unit")


@pytest.mark.parametrize(("trained", "is_warned"), [("norm_1000", False), ("pixel", True), (None, True)])
def test_a_policy_asked_in_its_own_unit_gets_no_other_advice(
    trained: str | None, is_warned: bool, question: Question
) -> None:
    """One poor answer may fit better in another unit by chance."""
    target, section = question.episode.target_box, Section("unit", "the unit")
    assert target is not None
    answer = completion(f"<answer>[{', '.join(f'{v:.0f}' for v in target)}]</answer>")
    describe_answer(section, question, answer, trained=None if trained is None else CoordinateFrame(trained))
    assert any("far better" in text for text in section.of(Verdict.WARNING)) == is_warned


@pytest.mark.parametrize("text", ["I see nothing.", "", "[1, 2, 3]", "<answer>none</answer>"])
def test_an_answer_without_numbers(text: str, question: Question) -> None:
    section = Section("unit", "the unit")
    assert describe_answer(section, question, completion(text)) is None
    assert read_in_units(question, text) == []
    assert section.verdict is Verdict.WARNING
    assert "the answer holds no four numbers" in section.of(Verdict.WARNING)[0]


def test_a_poor_answer_blames_no_unit(question: Question) -> None:
    section = Section("unit", "the unit")
    describe_answer(section, question, completion("<answer>[700, 700, 900, 900]</answer>"))
    assert section.verdict is Verdict.OK


def test_a_reversed_box_has_no_overlap(question: Question) -> None:
    assert {reading.iou for reading in read_in_units(question, "[900, 900, 100, 100]")} == {0.0}


def test_a_unit_too_coarse_for_the_picture(processor: VLMProcessor) -> None:
    from dataclasses import replace

    from focus_env.types import Box

    tiny_box = Box(1000.0, 500.0, 1007.0, 506.0)
    episode = make_episode(0, shots=1, query_wh=(2000, 1000), target_box=tiny_box)
    template = replace(get_template("compact"), frame=CoordinateFrame.NORM_100)
    coarse = ask(processor, template, episode)
    section = Section("unit", "the unit")
    check_right_answer(section, coarse, processor.decode(list(coarse.answer_ids)))
    assert section.verdict is Verdict.FAULT
    assert "choose a finer `frame`" in section.of(Verdict.FAULT)[0]


def test_a_box_that_is_not_the_episode_s_is_a_fault(processor: VLMProcessor, question: Question) -> None:
    from dataclasses import replace

    boxes = read_boxes(processor, question, processor.locate(question.messages, question.prompt))
    section = Section("prompt", "the prompt")
    check_boxes(section, boxes)
    assert section.verdict is Verdict.OK
    moved = replace(boxes[0], box=boxes[0].true_box._replace(x1=boxes[0].true_box.x1 + 3))
    lost = replace(boxes[0], tokens=("[", "1", "]"))
    unread = replace(boxes[0], box=None)
    for wrong, message in ((moved, "units beside"), (lost, "changes what is written"), (unread, "cannot be read back")):
        section = Section("prompt", "the prompt")
        check_boxes(section, [wrong])
        assert message in section.of(Verdict.FAULT)[0]


def test_merged_tokens_are_shown_as_they_are(processor: VLMProcessor, question: Question) -> None:
    from dataclasses import replace

    (box,) = read_boxes(processor, question, processor.locate(question.messages, question.prompt))
    section = Section("prompt", "the prompt")
    check_boxes(section, [replace(box, tokens=('">' + box.tokens[0], *box.tokens[1:]))])
    assert section.verdict is Verdict.OK
    assert "(merged: '\">[' also holds '\">')" in section.notes[0].text


def test_the_terminal_shows_marks_without_colours(processor: VLMProcessor, question: Question) -> None:
    spans = processor.locate(question.messages, question.prompt)
    shown = in_terminal(cut(processor, question, spans)).plain
    assert "<support 1: " in shown
    assert "<query: " in shown
    assert f" => {question.answer}|" in shown
    assert shown.count("{[") == shown.count("]}") == 1
