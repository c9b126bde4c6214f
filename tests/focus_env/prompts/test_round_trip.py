"""Right answers that a template would read back as something else: refused, by the field, when the template is made."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from focus_env.boxes import CoordinateFrame
from focus_env.prompts import TEMPLATES, PromptTemplate, get_template
from focus_env.types import Box, ParseStatus

BARE, COMMAS = "{x1} {y1} {x2} {y2}", "{x1},{y1},{x2},{y2}"


def own(folder: Path, **fields: Any) -> PromptTemplate:
    """A template out of a file."""
    file = folder / "own.json"
    file.write_text(json.dumps({"base": "default", "frame": "norm_1000"} | fields))
    return get_template(str(file))


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("answer_text", {"answer_text": "{label} {box}", "box_text": BARE}),
        ("answer_text", {"answer_text": "{label}{box}", "box_text": COMMAS}),
        ("answer_text", {"answer_text": "{box}{label}", "box_text": COMMAS}),
        ("answer_text", {"answer_text": "{label} {box}", "box_text": "{x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f}"}),
        ("box_text", {"box_text": "{x1}0{y1}0{x2}0{y2}"}),
        ("box_text", {"box_text": "{x1:.1f}0{y1:.1f}0{x2:.1f}0{y2:.1f}"}),
        ("optional_tokens", {"answer_text": "5{box}", "box_text": COMMAS, "optional_tokens": ["5"]}),
        ("optional_tokens", {"answer_text": "{box}", "optional_tokens": ["[", "]"]}),
        ("rejected_answer_text", {"rejected_answer_text": "<answer>{box}</answer>"}),
    ],
)
def test_a_field_by_which_a_right_answer_is_misread(field: str, fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"own\.json: {field} must let right answers be read as they are written"):
        own(tmp_path, **fields)
    made = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    with pytest.raises(ValueError, match=rf"template 'default': {field} must let"):
        dataclasses.replace(TEMPLATES["default"], **made)


def test_the_message_shows_the_answer_and_how_it_is_read(tmp_path: Path) -> None:
    message = (
        "in norm_1000 'object 100 80 500 500' says the box 100 80 500 500 and is read as the box [0, 80, 500, 500]"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        own(tmp_path, answer_text="{label} {box}", box_text=BARE)


def test_a_unit_that_may_stand_in_for_the_templates_own(tmp_path: Path) -> None:
    """Shares have a point of their own, which stands behind the label here."""
    fields = {"answer_text": "{label}.{box}", "box_text": BARE}
    template = own(tmp_path, **fields)
    assert template.parse(template.answer(Box(1, 2, 3, 4), (10, 10)), (10, 10)).box == Box(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"template 'own': answer_text must let .* in norm_1 '"):
        dataclasses.replace(template, frame=CoordinateFrame.NORM_1)
    with pytest.raises(ValueError, match=r"own\.json: answer_text must let .* in norm_1 '"):
        own(tmp_path, **fields, keeps_frame=False)


@pytest.mark.parametrize(
    ("frame", "fields"),
    [
        ("norm_1000", {"box_text": "{x1}\n{y1}\n{x2}\n{y2}", "answer_text": "{box}"}),
        ("norm_1000", {"box_text": "[\n\t{x1},\n\t{y1},\n\t{x2},\n\t{y2}\n]\n"}),
        ("norm_1000", {"box_text": "\t{x1}\t{y1}\t{x2}\t{y2} "}),
        ("norm_1", {"box_text": "{x1!r} {y1!r} {x2!r} {y2!r}", "answer_text": "{box}"}),
        ("norm_1", {"box_text": "[{x1!r}, {y1!r}, {x2!r}, {y2!r}]"}),
        ("pixel", {"box_text": "[{x1!r}, {y1!r}, {x2!r}, {y2!r}]"}),
        ("norm_1000", {"answer_text": "{label}, {box}", "box_text": COMMAS}),
        ("norm_1000", {"answer_text": "{label}: {box}", "box_text": BARE}),
        ("norm_1000", {"answer_text": "{label} {box}"}),
        ("norm_1000", {"answer_text": "{label}\n{box}", "box_text": COMMAS}),
        ("norm_1000", {"answer_text": "{label}{box}", "box_text": "{x1:04} {y1:04} {x2:04} {y2:04}"}),
    ],
)
def test_formats_that_look_odd_and_are_read(frame: str, fields: dict[str, Any], tmp_path: Path) -> None:
    template = own(tmp_path, frame=frame, **fields)
    for box in (Box(0.2, 0.1, 3.7, 2.2), Box(0.01, 1e-3, 639.9, 399.99), Box(64, 32, 320, 200)):
        text = template.answer(box, (640, 400))
        found = template.parse(text, (640, 400))
        assert (found.status, found.is_strict) == (ParseStatus.OK, True), text
        assert "e-" not in text
        assert found.box == pytest.approx(box, abs=1e-9 if "!r" in template.box_text else 0.7)


def test_shipped_templates_pass_from_a_file(tmp_path: Path) -> None:
    for name, shipped in TEMPLATES.items():
        made = own(tmp_path, base=name, name=name, frame=str(shipped.frame), keeps_frame=shipped.keeps_frame)
        assert made == shipped
