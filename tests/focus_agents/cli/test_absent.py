"""Absent targets from the command line: which episodes there are, what the model is told, and what is said before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from focus_agents.cli import evaluate, find, grpo, labelstudio, sft
from focus_agents.cli.data_arguments import DataArguments
from focus_agents.cli.data_checks import untold_absence
from focus_agents.cli.errors import as_flags
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.checkpoint import save_policy
from focus_env.datasets.training import with_shots
from focus_env.prompts import TEMPLATES, allowing_absent, get_template
from tests.focus_agents.cli.commands import main_error

WORDS = ["--scenes", "mixed", "--absent-fraction", "0.5", "--shots", "4", "--shots-drawn", "1", "2", "4"]


@pytest.mark.parametrize("command", [sft, grpo])
def test_both_stages_train_and_validate_on_absent_targets(command: Any) -> None:
    data = command.parse_arguments(WORDS).data
    training, validation = data.load_training(), data.load_validation()
    for episodes in (training, validation):
        absent = [with_shots(episodes, index, 2).target_box is None for index in range(60)]
        assert 15 <= sum(absent) <= 45
        kinds = {with_shots(episodes, index, 1).episode_id.split("/")[1] for index in range(3)}
        assert kinds == {"train" if episodes is training else "val", "parts", "tracks"}


def test_the_model_of_a_run_is_told_and_so_is_who_asks_it_later(tmp_path: Path) -> None:
    args = sft.parse_arguments([*WORDS, "--model", "tiny", "--no-freeze-vision", "--allow-absent"])
    plan, _ = sft.check_arguments(args)
    assert plan.template == allowing_absent(get_template("compact"))
    folder = tmp_path / "trained"
    save_policy(folder, load_model("tiny"), load_processor("tiny"), template=plan.template)
    assert load_template(folder).allow_absent
    spec = PolicySpec(text=f"vlm:{folder}")
    assert spec.load_template().allow_absent
    assert PolicySpec(text=f"vlm:{folder}", allow_absent=True).other_prompt() is None
    later = grpo.parse_arguments([*WORDS, "--init-from", str(folder)])
    assert later.model.load_template().allow_absent
    assert untold_absence(later.data, later.model.load_template()) is None


def test_without_the_flag_nobody_is_told() -> None:
    plan, _ = sft.check_arguments(sft.parse_arguments(["--model", "tiny", "--no-freeze-vision"]))
    assert plan.template == get_template("compact")
    assert not PolicySpec(text="vlm:focus-small").load_template().allow_absent
    assert sft.PRESETS["paper"].model.allow_absent is grpo.PRESETS["paper"].model.allow_absent is False
    assert sft.PRESETS["paper"].data.absent_fraction == 0


def test_a_policy_that_was_not_trained_so_is_named() -> None:
    said = PolicySpec(text="vlm:focus-small", allow_absent=True).other_prompt()
    assert said is not None
    assert "in other words" in said
    assert said.endswith("leave `allow_absent` out to ask it as it was trained")


@pytest.mark.parametrize("command", [evaluate, find, labelstudio])
def test_all_who_ask_policies_have_the_flag(command: Any) -> None:
    assert command.Args().policies.allow_absent is False
    assert not hasattr(command.Args(), "allow_absent")


@pytest.mark.parametrize("script", ["run_sft", "evaluate"])
def test_a_template_without_words_is_refused(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = main_error(script, ["--template", "iploc", "--allow-absent", "--output-dir", str(tmp_path)], capsys)
    assert (
        "--allow-absent: expected a template with words for an object that is not there, got 'iploc', which has none; "
        "leave it out, or choose another --template"
    ) in error


@pytest.mark.parametrize(
    ("data", "template", "message"),
    [
        ({"absent_fraction": 0.2}, "questions", r"\(--absent-fraction\), .* 'questions' does not .*; pass --allow-abs"),
        ({"absent_fraction": 0.2}, "iploc", r"\(--absent-fraction\), .* no words for that; choose another --template"),
        ({"dataset": "got10k", "absent": "keep"}, "default", r"\(--absent\), .* 'default' .*; pass --allow-absent"),
        ({"dataset": "synthetic:1,tao:1", "absent_fraction": 0.2}, "default", r"\(--absent-fraction\)"),
        ({}, "questions", None),
        ({"absent": "keep"}, "questions", None),
        ({"dataset": "got10k", "absent_fraction": 0.2}, "questions", None),
        ({"dataset": "got10k"}, "questions", None),
    ],
)
def test_what_a_model_is_not_told_is_said(data: dict[str, Any], template: str, message: str | None) -> None:
    arguments, words = DataArguments(**data), get_template(template)
    said = untold_absence(arguments, words)
    if message is None:
        assert said is None
        return
    assert said is not None
    assert re.search(message, as_flags(said, sft.Args)), said
    if words.absent_text:
        assert untold_absence(arguments, allowing_absent(words)) is None


def test_a_template_that_takes_boxes_back_tells_it() -> None:
    rejecting = next(template for template in TEMPLATES.values() if template.rejected_answer_text)
    assert untold_absence(DataArguments(absent_fraction=0.2), rejecting) is None


@pytest.mark.parametrize(("words", "is_said"), [([], True), (["--allow-absent"], False)])
def test_a_run_says_it_before_it_starts(
    words: list[str], is_said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [
        "focus evaluate", "--policy", "vlm:focus-small", "center", "--absent-fraction", "0.5", "--num-episodes", "1",
        "--shots", "1", "--output-dir", str(tmp_path / "table"), *words,
    ])  # fmt: skip
    evaluate.main()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: queries may lack")]
    assert len(warnings) == int(is_said)
