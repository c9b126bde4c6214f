"""The template that a model is asked by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import (
    POLICY_FILE,
    load_template,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import save_policy
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import get_template


class _Weightless:
    """In the role of a model."""

    def save_pretrained(self, directory: Path) -> None:
        directory.mkdir()


class TestTemplates:
    """The prompt that a model was trained on."""

    @pytest.fixture
    def policy(self, tmp_path: Path) -> Callable[[str | bytes | None], str]:
        """A folder with this description of a policy, or with none."""

        def write(content: str | bytes | None) -> str:
            folder = tmp_path / "policy"
            folder.mkdir()
            if content is not None:
                (folder / POLICY_FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
            return str(folder)

        return write

    @pytest.mark.parametrize(
        ("name", "template", "frame"),
        [
            ("tiny", "compact", CoordinateFrame.NORM_1000),
            ("small", "questions", CoordinateFrame.NORM_100),
            ("Qwen/Qwen2-VL-7B-Instruct", "default", CoordinateFrame.NORM_1000),
        ],
    )
    def test_of_models_without_a_description(self, name: str, template: str, frame: CoordinateFrame) -> None:
        expected = dataclasses.replace(get_template(template), frame=frame)
        assert load_template(name) == expected

    @pytest.mark.parametrize("content", [None, "{}", '{"versions": {"focus": "0.1.0"}}', '{"prompt": {}}'])
    def test_a_folder_that_says_nothing_is_asked_in_full_sentences(
        self, policy: Callable[..., str], content: str | None
    ) -> None:
        assert load_template(policy(content)) == get_template("default")

    @pytest.mark.parametrize("name", ["default", "compact", "iploc"])
    @pytest.mark.parametrize("frame", list(CoordinateFrame))
    def test_a_saved_policys_own(
        self, tmp_path: Path, model: Any, processor: VLMProcessor, name: str, frame: CoordinateFrame
    ) -> None:
        template = dataclasses.replace(get_template(name), frame=frame)
        folder = save_policy(tmp_path / "policy", _Weightless(), processor, template=template)
        assert load_template(str(folder)) == template
        assert type(load_template(str(folder)).frame) is CoordinateFrame

    def test_a_folder_that_is_called_like_a_model_is_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "small").mkdir()
        (tmp_path / "small" / POLICY_FILE).write_text('{"prompt": {"template": "iploc"}}')
        monkeypatch.chdir(tmp_path)
        assert load_template("small").name == "questions"
        assert load_template("./small").name == "iploc"

    def test_what_is_given_stands_in_for_the_models_own(self, policy: Callable[..., str]) -> None:
        folder = policy('{"prompt": {"template": "questions", "frame": "norm_100"}}')
        for place in (folder, "small"):
            other = load_template(place, name="default")
            assert other == dataclasses.replace(get_template("default"), frame=CoordinateFrame.NORM_100)
            other = load_template(place, frame=CoordinateFrame.PIXEL)
            assert other == dataclasses.replace(get_template("questions"), frame=CoordinateFrame.PIXEL)
            other = load_template(place, name="iploc", frame=CoordinateFrame.NORM_1000)
            assert other == get_template("iploc")
        # A resumed run has it from JSON.
        stored: Any = "norm_1"
        assert load_template("tiny", frame=stored).frame is CoordinateFrame.NORM_1

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "{",
            "[1]",
            "3",
            "null",
            '"compact"',
            b"\xff\xfe{",
            '{"prompt": 3}',
            '{"prompt": null}',
            '{"prompt": "compact"}',
            '{"prompt": ["compact", "norm_100"]}',
            '{"prompt": {"template": "sonnet"}}',
            '{"prompt": {"template": null}}',
            '{"prompt": {"template": ["compact"]}}',
            '{"prompt": {"template": "compact", "frame": "inches"}}',
            '{"prompt": {"frame": null}}',
            '{"prompt": {"frame": ["norm_100"]}}',
        ],
    )
    def test_a_damaged_description_is_named(self, policy: Callable[..., str], content: str | bytes) -> None:
        folder = policy(content)
        with pytest.raises(CheckpointError, match=rf"policy/{POLICY_FILE}: expected a saved policy's description"):
            load_template(folder)

    def test_what_is_given_is_not_asked_of_the_description(self, policy: Callable[..., str]) -> None:
        """A policy of a prompt that this version does not know can be asked in one that it does."""
        folder = policy('{"prompt": {"template": "sonnet", "frame": "inches"}}')
        assert load_template(folder, name="compact", frame=CoordinateFrame.NORM_1000) == get_template("compact")

    @pytest.mark.parametrize("name", ["sonnet", ""])
    def test_an_unknown_template_is_the_callers_fault(self, policy: Callable[..., str], name: str) -> None:
        folder = policy('{"prompt": {"template": "compact"}}')
        for place in (folder, "small"):
            with pytest.raises(ValueError, match=f"unknown prompt template '{name}'; known are default, compact"):
                load_template(place, name=name)

    def test_an_unknown_frame_is_the_callers_fault(self) -> None:
        inches: Any = "inches"
        with pytest.raises(ValueError, match=r"must be one of pixel, norm_1, .*, got 'inches'"):
            load_template("small", frame=inches)
