"""What a saved policy says of its prompt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from focus_agents.models.loading import load_model, trained_frame
from focus_agents.models.processing import VLMProcessor
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
