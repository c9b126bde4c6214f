"""What a saved policy says of its prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_agents.models.loading import load_model, load_processor, trained_frame
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.checkpoint import save_policy
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import get_template


def test_a_saved_policy_records_its_unit(tmp_path: Path, processor: VLMProcessor) -> None:
    model = load_model("tiny")
    template = dataclasses.replace(get_template("compact"), frame=CoordinateFrame.PIXEL)
    assert trained_frame(save_policy(tmp_path / "a", model, processor, template=template)) is CoordinateFrame.PIXEL
    assert trained_frame(save_policy(tmp_path / "b", model, processor)) is None
    assert trained_frame("focus-small") is CoordinateFrame.NORM_100
    assert trained_frame("tiny") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, None),
        ({"template": "compact"}, None),
        ({"frame": CoordinateFrame.NORM_1000}, None),
        ({"template": "native"}, "the template 'compact' with boxes in norm_1000, and asked by 'qwen2_5_vl' "),
        ({"template": "questions"}, "asked by 'questions' with boxes in norm_1000; leave `template` and `frame`"),
        ({"frame": CoordinateFrame.PIXEL}, "asked by 'compact' with boxes in pixel; leave `template` and `frame` out"),
        ({"template": "{own}"}, "asked by 'compact' in other words with boxes in norm_1000"),
    ],
)
def test_a_policy_that_is_asked_otherwise_than_it_was_trained(
    options: dict[str, Any], message: str | None, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    policy = tmp_path / "policy"
    model, processor = load_model(str(saved("qwen2_5_vl"))), load_processor(str(saved("qwen2_5_vl")))
    save_policy(policy, model, processor, template=get_template("compact"))
    own = tmp_path / "own.json"
    own.write_text('{"base": "compact", "name": "compact", "instruction": "Find it."}')
    given = {name: value.format(own=own) if name == "template" else value for name, value in options.items()}
    said = PolicySpec(text=f"vlm:{policy}", **given).other_prompt()
    assert (said is None) == (message is None)
    assert message is None or (said.startswith(f"model {policy}: ") and message in said)
    assert PolicySpec(text=f"vlm:{saved('qwen2_5_vl')}", **given).other_prompt() is None  # says nothing
    assert PolicySpec(text="random", **given).other_prompt() is None
