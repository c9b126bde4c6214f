"""The template that a model is asked by."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import CheckpointError
from focus_agents.models.family import ModelFamily
from focus_agents.models.loading import (
    POLICY_FILE,
    load_template,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.qwen import ResizedWh
from focus_agents.models.registry import FAMILIES
from focus_agents.runs.checkpoint import save_policy
from focus_env.boxes import CoordinateFrame, box_to_frame
from focus_env.env import observe
from focus_env.prompts import TEMPLATES, IPLocTemplate, PromptTemplate, get_template
from focus_env.types import Box
from tests.fakes import make_episode


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

    @pytest.mark.parametrize("kind", [PromptTemplate, IPLocTemplate])
    def test_ones_own_words_come_back_wherever_the_policy_is_loaded(
        self, tmp_path: Path, processor: VLMProcessor, monkeypatch: pytest.MonkeyPatch, kind: type[PromptTemplate]
    ) -> None:
        template = kind(
            name="mine",
            instruction="Look.",
            support_text="<b>{box}</b>",
            query_text="?",
            box_text="{x1} {y1} {x2} {y2}",
            answer_text="at {box}",
            absent_answer_text="gone",
            frame=CoordinateFrame.PIXEL,
            allow_absent=True,
        )
        folder = save_policy(tmp_path / "policy", _Weightless(), processor, template=template)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        folder.rename(tmp_path / "moved")
        found = load_template(tmp_path / "moved")
        assert found == template
        assert type(found) is kind
        again = save_policy(tmp_path / "again", _Weightless(), processor, template=found)
        assert load_template(again) == template
        assert load_template(again, name="compact").frame is CoordinateFrame.PIXEL

    def test_a_changed_template_of_this_package_comes_back_changed(
        self, tmp_path: Path, processor: VLMProcessor
    ) -> None:
        template = dataclasses.replace(get_template("default"), allow_absent=True, query_text="Well?")
        assert load_template(save_policy(tmp_path / "policy", _Weightless(), processor, template=template)) == template

    def test_a_description_runs_nothing(self, policy: Callable[..., str], tmp_path: Path) -> None:
        file = tmp_path / "mine.json"
        file.write_text('{"base": "default"}')
        for name in (str(file), "os:environ", "antigravity:fly"):
            shutil.rmtree(tmp_path / "policy", ignore_errors=True)
            folder = policy(json.dumps({"prompt": {"template": name}}))
            with pytest.raises(CheckpointError, match="unknown prompt template"):
                load_template(folder)

    def test_native_is_the_form_of_the_family(self, policy: Callable[..., str]) -> None:
        folder = policy('{"prompt": {"template": "questions", "frame": "norm_100"}}')
        (Path(folder) / "config.json").write_text('{"model_type": "qwen3_vl"}')
        assert load_template(folder, name="native") == get_template("qwen3_vl")
        assert load_template(folder, name="native", frame=CoordinateFrame.NORM_100).frame is CoordinateFrame.NORM_100
        assert load_template("tiny", name="native") == get_template("qwen2_vl")
        (Path(folder) / "config.json").unlink()
        with pytest.raises(CheckpointError, match="could not be loaded"):
            load_template(folder, name="native")

    def test_a_template_with_a_unit_of_its_own_keeps_it(self, policy: Callable[..., str], tmp_path: Path) -> None:
        folder = policy('{"prompt": {"template": "questions", "frame": "norm_100"}}')
        (tmp_path / "mine.json").write_text('{"base": "default", "frame": "norm_1"}')
        assert load_template(folder, name=str(tmp_path / "mine.json")).frame is CoordinateFrame.NORM_1
        assert load_template(folder, name="qwen3_vl").frame is CoordinateFrame.NORM_1000
        assert load_template(folder, name="qwen3_vl", frame=CoordinateFrame.PIXEL).frame is CoordinateFrame.PIXEL
        with pytest.raises(ValueError, match="the unit norm_1024"):
            load_template(folder, name="paligemma", frame=CoordinateFrame.PIXEL)

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
            '{"prompt": {"template": "mine"}}',
            '{"prompt": {"template": "mine", "fields": 3}}',
            '{"prompt": {"template": "mine", "fields": {}}}',
            '{"prompt": {"template": "mine", "fields": {"base": "default", "tone": "kind"}}}',
            '{"prompt": {"template": "mine", "fields": {"base": "default", "support_text": "{box} {box}"}}}',
        ],
    )
    def test_a_damaged_description_is_named(self, policy: Callable[..., str], content: str | bytes) -> None:
        folder = policy(content)
        with pytest.raises(CheckpointError, match=rf"policy/{POLICY_FILE}: expected a saved policy's description"):
            load_template(folder)

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ('{"prompt": 5}', "expected an object in braces as prompt, got 5"),
            ('{"prompt": "compact"}', 'expected an object in braces as prompt, got "compact"'),
            ('{"prompt": null}', "expected an object in braces as prompt, got null"),
            ('["compact"]', r'expected an object in braces, got \["compact"\]'),
            ("[" * 100_000, "nested too deep"),
        ],
    )
    def test_another_type_is_named(self, policy: Callable[..., str], content: str, told: str) -> None:
        with pytest.raises(CheckpointError, match=rf"policy/{POLICY_FILE}: expected a saved policy's descr.*{told}"):
            load_template(policy(content))

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


@pytest.mark.parametrize("family", FAMILIES.built_in.values(), ids=lambda family: family.name)
def test_a_family_has_a_native_template_in_its_unit(family: ModelFamily) -> None:
    template = TEMPLATES[family.native_template]
    assert not template.keeps_frame or template.frame is family.frame


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_attention_finds_the_numbers_of_each_support(processor: VLMProcessor, name: str) -> None:
    """Tokens of its numbers, whatever stands around them: brackets, tags, JSON, location tokens."""
    template, episode = processor.fit_template(get_template(name)), make_episode()
    messages = template.render(observe(episode))
    prompt = processor.encode(messages)
    spans = processor.locate(messages, prompt)
    assert len(spans.box_coordinates) == len(spans.box_texts) == 2
    for tokens, whole, exemplar in zip(spans.box_coordinates, spans.box_texts, episode.support, strict=True):
        written = template.write_box(exemplar.box, exemplar.frame.image_wh)
        marked = [processor.tokenizer.decode([token]) for token in prompt.input_ids[tokens]]
        digits = [character for character in written if character.isdigit()]
        assert [character for token in marked for character in token if character.isdigit()] == digits
        assert all(any(map(str.isdigit, token)) or set(token) <= set(" .") for token in marked)
        assert set(tokens.tolist()) <= set(whole.tolist())
        assert "bbox" not in processor.tokenizer.decode(prompt.input_ids[whole])


@pytest.mark.parametrize("most", [12_845_056, 352 * 784, 36 * 784])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "r1_track", "default"])
def test_pixels_of_the_resized_picture_come_back_to_the_pixel(name: str, most: int) -> None:
    """Odd sizes and extreme shapes, through the rule by which Qwen2.5-VL resizes."""
    rule = ResizedWh(28, 3136, most)
    template = dataclasses.replace(get_template(name), frame=CoordinateFrame.RESIZED_PIXEL, image_to_input_wh=rule)
    for image_wh in ((1281, 7), (11, 2000), (301, 200), (97, 211), (1, 1), (4001, 3001), (28, 28), (640, 427)):
        width, height = image_wh
        for box in (
            Box(0, 0, width, height),
            Box(width * 0.1, height * 0.2, width * 0.7, height * 0.9),
            Box(width * 0.98, height * 0.97, width, height),
        ):
            result = template.parse(template.answer(box, image_wh), image_wh)
            assert result.is_strict
            assert result.box is not None
            sizes = {"image_wh": image_wh, "input_wh": rule(image_wh)}
            meant, found = (box_to_frame(b, template.frame, **sizes) for b in (box, result.box))
            assert max(abs(a - b) for a, b in zip(meant, found, strict=True)) <= 1
