"""Answers as models write them: thoughts, words for "not there", boxes in many forms, and other units."""

from __future__ import annotations

import re

import pytest

from focus_env.boxes import CoordinateFrame
from focus_env.parsing import parse_answer, write_answer
from focus_env.types import Box, ParseResult, ParseStatus
from tests.focus_env.hostile import find_faults
from tests.places import ROOT

OK, ABSENT, NO_BOX = ParseStatus.OK, ParseStatus.ABSENT, ParseStatus.NO_BOX
BAD_NUMBERS, MULTIPLE, AMBIGUOUS = ParseStatus.BAD_NUMBERS, ParseStatus.MULTIPLE, ParseStatus.AMBIGUOUS

BOX = Box(1, 2, 30, 40)


def parse(text: str) -> ParseResult:
    """In an image where pixels and thousandths are the same numbers."""
    return parse_answer(text, frame=CoordinateFrame.NORM_1000, image_wh=(1000, 1000))


ABSENT_TEXTS = [
    "None.",
    "NONE",
    "null",
    "Null.",
    '"none"',
    "`none`",
    "**None**",
    "No Objects",
    "no object.",
    "Not found!",
    "N/A",
    "There are none.",
    "Answer: none",
    "[]",
    "[ ]",
    "[[]]",
    "{}",
    "[null]",
    "[None, None, None, None]",
    "```json\n[]\n```",
    '{"bbox_2d": null}',
    '[{"bbox_2d": [], "label": "a mug"}]',
    '{"label": "mug", "bbox": "none"}',
    '{"bbox_2d": None}',
    '{"found": false}',
    '{"present": false, "bbox": null}',
    "(none)",
    "<none>",
    "- none",
    "none<|im_end|>",
    "<|begin_of_box|>none<|end_of_box|>",
    "none</s>",
    r"$\boxed{\text{None}}$",
    "n.a.",
    "No object found.",
    "There is no such object in the image.",
    "No matching object is visible in the query image.",
    "The object is not present.",
    "The target object was not found in the last frame",
    "It is not visible.",
    "Not in the picture.",
    "the object is absent",
]

TABLE = [
    # Decimals in a unit of whole numbers are another unit.
    ("[0.19, 0.14, 0.46, 0.43]", BAD_NUMBERS, False),
    ("[0.0, 0.0, 1.0, 1.0]", BAD_NUMBERS, False),
    ("[190.5, 140, 460, 430]", BAD_NUMBERS, False),
    ("(0.19, 0.14), (0.46, 0.43)", BAD_NUMBERS, False),
    ('{"x1": 0.19, "y1": 0.14, "x2": 0.46, "y2": 0.43}', BAD_NUMBERS, False),
    ("<answer>0.19, 0.14, 0.46, 0.43</answer>", BAD_NUMBERS, False),
    # Letters that are other letters when case is ignored.
    ("[\u0131nf,1]", NO_BOX, False),
    ("(\u0130nf 51)", NO_BOX, False),
    ("[1,2,3,inf\u0131n\u0131ty]", BAD_NUMBERS, False),
    ("[\u0131nf, 1, 2, 3]", BAD_NUMBERS, False),
    # An order that is not known.
    ('[{"box_2d": [2, 1, 40, 30], "label": "mug"}]', AMBIGUOUS, False),
    ("box_2d = [2, 1, 40, 30]", AMBIGUOUS, False),
    ('{"box2d": [2, 1, 40, 30]}', AMBIGUOUS, False),
    ("[y1, x1, y2, x2] = [2, 1, 40, 30]", AMBIGUOUS, False),
    ("(ymin, xmin, ymax, xmax): (2, 1, 40, 30)", AMBIGUOUS, False),
    ("[x, y, w, h] = [1, 2, 29, 38]", AMBIGUOUS, False),
    ("bbox (cx, cy, w, h): [15, 21, 29, 38]", AMBIGUOUS, False),
    ('{"bbox_xywh": [1, 2, 29, 38]}', AMBIGUOUS, False),
    ("In yxyx format: [2, 1, 40, 30]", AMBIGUOUS, False),
    ("[1, 2, 29, 38] (xywh)", AMBIGUOUS, False),
    ("[x1, y1, x2, y2] = [1, 2, 30, 40]", OK, False),
    ("[left, top, right, bottom] = [1, 2, 30, 40]", OK, False),
    ("xyxy: [1, 2, 30, 40]", OK, False),
    # Absent.
    ("No object in the first image.", NO_BOX, False),
    ("The object is not a mug.", NO_BOX, False),
    ("There is no mug in the image.", NO_BOX, False),
    ("<ANSWER>none</ANSWER> not [1, 2, 30, 40]", ABSENT, False),
    *[(f"<answer>{word}</answer>", ABSENT, False) for word in ABSENT_TEXTS],
    *[(word, ABSENT, False) for word in ABSENT_TEXTS],
    *[(f"The supports are at [1, 2, 30, 40]. <answer>{word}</answer>", ABSENT, False) for word in ABSENT_TEXTS],
    ("<answer>[]</answer><answer>null</answer>", MULTIPLE, False),
    ("[1, 2, 30, 40] none", OK, False),
    ("<answer>none" + " " * 300 + "</answer>", ABSENT, False),
    ("<answer>no" + " " * 300 + "object</answer>", NO_BOX, False),
    # Thoughts.
    ("<think>Example box [100, 100, 200, 200].</think>\n[1, 2, 30, 40]", OK, False),
    ("Example box [100, 100, 200, 200].</think>\n<answer>[1, 2, 30, 40]</answer>", OK, False),
    ("<think>I write <answer>[9, 9, 10, 10]</answer>.</think><answer>[1, 2, 30, 40]</answer>", OK, False),
    ("<think>As <think> says, <answer>none</answer>.</think> or so</think> [1, 2, 30, 40]", OK, False),
    ("<THINKING>[9, 9, 10, 10]</Thinking> (1, 2, 30, 40)", OK, False),
    ("[THINK][9, 9, 10, 10][/THINK][1, 2, 30, 40]", OK, False),
    ("◁think▷[9, 9, 10, 10]◁/think▷[1, 2, 30, 40]", OK, False),
    ("<seed:think>[9, 9, 10, 10]</seed:think>[1, 2, 30, 40]", OK, False),
    ("[1, 2, 30, 40]<think>or [9, 9, 10, 10]</think>", OK, False),
    ("<answer><think>[9, 9, 10, 10]</think>[1, 2, 30, 40]</answer>", OK, False),
    ("<think>a</think>[1, 2, 30, 40]<think>or is it [9, 9, 10, 10]", OK, False),
    ("<think>[9, 9, 10, 10]</think> none.", ABSENT, False),
    ("<think>[1, 2, 30, 40]", NO_BOX, False),
    ("<think><answer>[1, 2, 30, 40]</answer></think>", NO_BOX, False),
    ("<think>[1, 2, x, 40]</think> I do not know", NO_BOX, False),
    ("<think>hm</think> [1, 2, 30, 40] or [5, 6, 70, 80]", MULTIPLE, False),
    *[
        (f"{opening}it may be [9, 9, 10, 10]{closing}[1, 2, 30, 40]", OK, False)
        for opening, closing in (
            ("<think >", "</think >"),
            ('<think type="x">', "</think>"),
            ("<reason>", "</reason>"),
            ("<analysis>", "</analysis>"),
            ("<scratchpad>", "</scratchpad>"),
            ("<Thoughts>", "</Thoughts>"),
            ("<|think|>", "<|/think|>"),
            ("<|begin_of_thought|>", "<|end_of_thought|>"),
            ("<|START_THINKING|>", "<|END_THINKING|>"),
            ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
            ("analysis", "assistantfinal"),
            ("analysisWe see it, ", "assistantcommentary to=look {}assistantfinal"),
            (" commentaryHm, ", "assistantanalysisassistantfinal"),
            ("We see it, ", "assistantfinal"),
            ("<|channel>thought\n", "<channel|>"),
        )
    ],
    ("<|channel|>analysis<|message|>it may be [1, 2, 30, 40]", NO_BOX, False),
    ("analysisIt may be [1, 2, 30, 40]", NO_BOX, False),
    ("analysisIt may be [1, 2, 30, 40]assistantcommentaryHm", NO_BOX, False),
    ("analysisIt may be [1, 2, 30, 40]assistantfinal", NO_BOX, False),
    ("analysisIt may be [9, 9, 10, 10]assistantfinalNone.", ABSENT, False),
    ("analysisIt may be [9, 9, 10, 10]assistantfinal[1, 2, 30, 40] or [9, 9, 10, 10]", MULTIPLE, False),
    # These are words of a sentence, not names of channels.
    ("Analysis: it is at [1, 2, 30, 40]", OK, False),
    ("analysis: it is at [1, 2, 30, 40]", OK, False),
    ("By my analysisIt is [1, 2, 30, 40]", OK, False),
    ("[1, 2, 30, 40] is the assistant final answer", OK, False),
    ("[1, 2, 30, 40] AssistantFinal", OK, False),
    # Forms of boxes.
    ("【1, 2, 30, 40】", OK, False),
    ("［1，2，30，40］", OK, False),
    ("（1，2），（30，40）", OK, False),
    ("[\u22121, 2, 30, 40]", ParseStatus.CLIPPED, False),
    ("<|begin_of_box|>1, 2, 30, 40<|end_of_box|>", OK, False),
    ("<answer><|begin_of_box|>[[1, 2, 30, 40]]<|end_of_box|></answer>", OK, False),
    ("<|box_start|>(1,2),(30,40)<|box_end|>", OK, False),
    ("<Answer>[1, 2, 30, 40]</Answer> as in [9, 9, 10, 10]", OK, False),
    ("x1=1, y1=2, x2=30, y2=40", OK, False),
    ("x_min: 1\ny_min: 2\nx_max: 30\ny_max: 40.", OK, False),
    ("<answer>x1: 1 y1: 2 x2: 30 y2: 40</answer>", OK, False),
    ("(x1: 1, y1: 2), (x2: 30, y2: 40)", OK, False),
    ('{"top_left": {"x": 1, "y": 2}, "bottom_right": {"x": 30, "y": 40}}', OK, False),
    ('{"cx": 15.5, "cy": 21, "w": 29, "h": 38}', BAD_NUMBERS, False),
    ('{"x_center": 15, "y_center": 21, "width": 28, "height": 38}', OK, False),
    ("in x1=1, y1=2, x2=30, y2=40 it is", NO_BOX, False),
    ("<answer>1, 2, 30, 40</answer>", OK, False),
    ("<answer> 1 2 30 40 </answer>", OK, False),
    ("<box>1, 2, 30, 40</box>", OK, False),
    ("<box>[[1, 2, 30, 40]]</box>", OK, False),
    ("<bbox>1 2 30 40</bbox>", OK, False),
    ("{1, 2, 30, 40}", OK, False),
    ("\\[1, 2, 30, 40\\]", OK, False),
    ("[1, 2, 30, 40,]", OK, False),
    ("[1; 2; 30; 40]", OK, False),
    ("[1，2，30，40]", OK, False),
    ('["1", "2", "30", "40"]', OK, False),
    ("(1, 2) to (30, 40)", OK, False),
    ("(1, 2) - (30, 40)", OK, False),
    ("(1,2)->(30,40)", OK, False),
    ("top-left: (1, 2), bottom-right: (30, 40)", OK, False),
    ("from the top left corner (1, 2) to the bottom right corner at (30, 40)", OK, False),
    ('{"top_left": [1, 2], "bottom_right": [30, 40]}', OK, False),
    ("[x_min=1, y_min=2, x_max=30, y_max=40]", OK, False),
    ('{"x1": 1, "y1": 2, "x2": 30, "y2": 40}', OK, False),
    ('{"label": "mug", "xmin": "1", "ymin": "2", "xmax": "30", "ymax": "40", "score": 0.9}', OK, False),
    ("(y2: 40, x2: 30, y1: 2, x1: 1)", OK, False),
    ('{"left": 1, "top": 2, "right": 30, "bottom": 40}', OK, False),
    ('{"x": 1, "y": 2, "width": 29, "height": 38}', OK, False),
    ('```json\n{"bbox": {"x": 1, "y": 2, "w": 29, "h": 38}}\n```', OK, False),
    ('{"x1": 1, "y1": 2, "x2": 30}', NO_BOX, False),
    ('{"x1": 1, "y1": 2, "x1": 30, "y2": 40}', NO_BOX, False),
    ('{"x1": 1, "y1": 2, "x2": 30, "y2": 40, "w": 29, "h": 38, "x": 1, "y": 2}', NO_BOX, False),
]


@pytest.mark.parametrize(("text", "status", "is_strict"), TABLE, ids=[ascii(row[0])[:60] for row in TABLE])
def test_table(text: str, status: ParseStatus, is_strict: bool) -> None:
    expected = {OK: BOX, ParseStatus.CLIPPED: Box(0, 2, 30, 40)}.get(status)
    if "x_center" in text:
        expected = Box(1, 2, 29, 40)
    assert parse(text) == ParseResult(status, expected, is_strict)


@pytest.mark.parametrize("frame", [frame for frame in CoordinateFrame if frame is not CoordinateFrame.NORM_1])
@pytest.mark.parametrize("values", ["0.1, 0.2, 0.3, 0.4", "0.0, 0.0, 1.0, 1.0", "0, 0, 1, 1.5", "1e-1, 0, 2, 2"])
def test_decimals_are_no_box_in_a_frame_of_integers(frame: CoordinateFrame, values: str) -> None:
    result = parse_answer(f"<answer>[{values}]</answer>", frame=frame, image_wh=(80, 60), input_wh=(160, 30))
    assert (result.status, result.box, result.is_strict) == (BAD_NUMBERS, None, False)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("[1, 2, 3000, 4000]", (1, 2, 3000, 4000)),
        ("[1, 2, 30, 40]", (1, 2, 30, 40)),
        ("[1, 2, 30, 40] [1, 2, 30, 40]", None),
        ("none", None),
    ],
)
def test_numbers_are_told_whatever_the_status(text: str, numbers: tuple[float, ...] | None) -> None:
    assert parse(text).numbers == numbers


@pytest.mark.parametrize(
    ("text", "status", "is_strict"),
    [
        ("Box [9, 9, 10, 10] is near [1, 2", NO_BOX, False),
        ("Example 1 is at [1, 2, 30, 40], so", NO_BOX, False),
        ("none", NO_BOX, False),
        ("<answer>[1, 2, 30, 40]</answer>", OK, False),
        ("<think>I see</think>[1, 2, 30, 40]", OK, False),
        ("<think>a</think><think>b</think><answer>[1, 2, 30, 40]</answer>", OK, False),
        ("<think>a<think>b</think><answer>[1, 2, 30, 40]</answer>", OK, False),
        ("a</think>b</think><answer>[1, 2, 30, 40]</answer>", OK, False),
        ("Well. <think>I see</think><answer>[1, 2, 30, 40]</answer>.", OK, False),
        ("<think>[9, 9, 10, 10]</think>\n\n<answer>[1, 2, 30, 40]</answer>\n", OK, True),
        ("like <answer>none</answer></think><answer>[1, 2, 30, 40]</answer>", OK, True),
        ("<think></think><answer>none</answer>", ABSENT, True),
    ],
)
def test_answers_with_thoughts(text: str, status: ParseStatus, is_strict: bool) -> None:
    result = parse_answer(text, frame=CoordinateFrame.NORM_1000, image_wh=(1000, 1000), thinking=True)
    assert result == ParseResult(status, BOX if status is OK else None, is_strict)


@pytest.mark.parametrize("box", [None, BOX])
def test_the_right_answer_with_thoughts_is_strict(box: Box | None) -> None:
    text = write_answer(box, frame=CoordinateFrame.NORM_1000, image_wh=(1000, 1000), thinking=True)
    result = parse_answer(text, frame=CoordinateFrame.NORM_1000, image_wh=(1000, 1000), thinking=True)
    assert result == ParseResult(ABSENT if box is None else OK, box, True)


def test_the_page_says_what_is_so() -> None:
    page = (ROOT / "docs" / "answers.md").read_text()
    rows = re.findall(r"^\| `(.+)` \| `(\w+)` \|$", page, re.MULTILINE)
    assert {text: parse(text).status for text, _ in rows} == dict(rows)
    assert {status for _, status in rows} == set(ParseStatus)
    assert re.findall(r"^\| `(\w+)` \| \w", page, re.MULTILINE) == list(ParseStatus)


def test_hostile_texts_break_nothing() -> None:
    statuses, faults = find_faults(20_000, seed=4)
    assert faults == []
    assert set(statuses) == set(ParseStatus)
