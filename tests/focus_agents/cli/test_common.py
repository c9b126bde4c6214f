"""Arguments that commands share: rewards as text and as files, and the prompt."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import sys
from pathlib import Path

import pytest

from focus_agents.cli.command_line import flat, parse
from focus_agents.cli.common import ModelArguments, PolicyArguments
from focus_agents.cli.reward import load_reward
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import PromptTemplate, get_template
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box, ParseResult, ParseStatus
from tests.fakes import DEFAULT_TARGET, make_episode
from tests.places import ROOT, load_experiment


def test_a_reward_as_text() -> None:
    assert load_reward("iou:1,iou_at(0.5):0.5") == WeightedReward.from_spec("iou:1,iou_at(0.5):0.5")


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_reward_in_a_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rewards{suffix}"
    file.write_text(
        "# what counts\niou: 1\n'piecewise(0.5, 0.75)': 2\niou_at(0.75): 1e-1\n"
        "focus_env.rewards.terms:iou_reward: 0.5\n"
    )
    expected = "iou:1,piecewise(0.5, 0.75):2,iou_at(0.75):0.1,focus_env.rewards.terms:iou_reward:0.5"
    assert load_reward(str(file)) == WeightedReward.from_spec(expected)
    file.write_text("{iou: 1.0, format: 0.5}")
    assert load_reward(str(file)) == WeightedReward.default()


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module and its file: gold earns the most, and a box as large a little further on nearly as much."""
    page = (ROOT / "docs/rewards.md").read_text(encoding="utf-8")
    (code,), (rewards,) = (re.findall(rf"^```{kind}\n(.*?)^```$", page, re.M | re.S) for kind in ("python", "yaml"))
    assert code.startswith("# my_rewards.py\n")
    (tmp_path / "my_rewards.py").write_text(code)
    (tmp_path / "rewards.yaml").write_text(rewards)
    monkeypatch.syspath_prepend(tmp_path)
    # Not deleted, so that what the import leaves there goes after the test.
    monkeypatch.setitem(sys.modules, "my_rewards", None)
    del sys.modules["my_rewards"]
    reward = load_reward(str(tmp_path / "rewards.yaml"))
    boxes = [DEFAULT_TARGET, Box(24, 10, 64, 40), Box(0, 0, 80, 60), None]
    parses = [ParseResult(ParseStatus.OK if box else ParseStatus.NO_BOX, box, is_strict=True) for box in boxes]
    totals, values = reward(AnswerBatch.from_parses([make_episode()] * 4, parses))
    assert values["my_rewards:centre_reward"].tolist() == pytest.approx([1, 0.95, 1 - 5 / 60, 0])
    assert totals.tolist() == pytest.approx([1.7, 36 / 44 + 0.5 + 0.19, 0.25 + 0.2 * 55 / 60 - 0.5, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "expected lines such as 'iou: 1'", id="empty"),
        pytest.param("iou:1\nformat:0.5\n", "expected lines such as 'iou: 1'", id="no blank after the colon"),
        pytest.param("- iou\n- format\n", "expected lines such as 'iou: 1'", id="a list"),
        pytest.param("iou:\n  weight: 1\n", "expected lines such as 'iou: 1'", id="nested"),
        pytest.param("iou: [1\n", "expected YAML, got a fault in line 2, column 1: expected ',' or ']'", id="not YAML"),
        pytest.param("iou:\n", "the weight of 'iou' must be a number, as in 'iou:0.5', got ''", id="no weight"),
        pytest.param("iou: true\n", "the weight of 'iou' must be a number, as in 'iou:0.5', got 'true'", id="a truth"),
        pytest.param("iou: 1\nformat: 1\niou: 2\n", "the term 'iou' appears twice; give it one weight", id="twice"),
        pytest.param("iuo: 1\n", "unknown term 'iuo', did you mean 'iou'", id="unknown"),
        pytest.param("!!python/name:os.abort {}: 1\n", "expected lines such as 'iou: 1'", id="an object"),
        pytest.param("[" * 10_000, "expected YAML, got maximum recursion depth exceeded", id="too deep"),
    ],
)
def test_files_that_hold_no_reward(tmp_path: Path, text: str, message: str) -> None:
    """The file is named, and nothing in it is run."""
    file = tmp_path / "rewards.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_reward(str(file))
    assert str(file) in str(caught.value)


def test_a_pipe_for_a_file_of_a_reward(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rewards.yaml")
    with pytest.raises(OSError, match=r"a pipe \(FIFO\), no regular file: .*rewards\.yaml"):
        load_reward(str(tmp_path / "rewards.yaml"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rewards\.yaml"):
        load_reward(str(tmp_path / "rewards.yaml"))


@pytest.mark.parametrize(
    ("flags", "template", "frame"),
    [
        ([], "questions", "norm_100"),
        (["--model", "tiny"], "compact", "norm_1000"),
        (["--model", "small"], "questions", "norm_100"),
        (["--model", "small", "--frame", "norm_1000"], "questions", "norm_1000"),
        (["--model", "small", "--template", "default"], "default", "norm_100"),
        (["--frame", "pixel", "--template", "iploc"], "iploc", "pixel"),
    ],
)
def test_the_prompt_is_the_models_own_unless_another_is_asked_for(flags: list[str], template: str, frame: str) -> None:
    expected = dataclasses.replace(get_template(template), frame=CoordinateFrame(frame))
    run_sft, run_grpo = load_experiment("run_sft"), load_experiment("run_grpo")
    assert run_sft.check_arguments(run_sft.parse_arguments(flags))[0].template == expected
    _, config = run_grpo.check_arguments(parse(run_grpo.Args, None, words=flags))
    assert config.env_config["template"] == config.validation_env_config["template"] == expected


class TestOwnTemplates:
    """Words of a file or a module, in every command."""

    FAULTS = r"mine.yaml: expected a file|import path|unknown prompt|base must be one"

    @pytest.fixture
    def file(self, tmp_path: Path) -> str:
        (tmp_path / "mine.yaml").write_text("base: default\nquery_text: Well?\nframe: pixel\n")
        return str(tmp_path / "mine.yaml")

    @property
    def expected(self) -> PromptTemplate:
        pixel = CoordinateFrame.PIXEL
        return dataclasses.replace(
            get_template("default"), name="mine", query_text="Well?", frame=pixel, keeps_frame=True
        )

    def test_both_stages_take_a_file_and_keep_its_words(self, file: str) -> None:
        run_sft, run_grpo = load_experiment("run_sft"), load_experiment("run_grpo")
        sft = run_sft.with_words(run_sft.parse_arguments(["--template", file]))
        grpo = run_grpo.with_spec(parse(run_grpo.Args, None, words=["--template", file]))
        Path(file).unlink()
        assert run_sft.check_arguments(sft)[0].template == self.expected
        assert run_grpo.check_arguments(grpo)[1].env_config["template"] == self.expected
        for args in (sft, grpo):
            assert json.loads(flat(args)["template"])["query_text"] == "Well?"
        assert run_sft.with_words(sft) == sft
        assert run_grpo.with_spec(grpo) == grpo

    def test_a_policy_takes_a_file_and_keeps_its_words(self, file: str) -> None:
        specs = [PolicyArguments(template=file).spec(text) for text in ("vlm:tiny", "center")]
        Path(file).unlink()
        assert [spec.load_template() for spec in specs] == [self.expected] * 2
        assert pickle.loads(pickle.dumps(specs)) == specs

    def test_native_is_asked_of_the_models_family(self) -> None:
        assert ModelArguments(model="tiny", template="native").load_template() == get_template("qwen2_vl")
        assert PolicyArguments(template="native").spec("vlm:tiny").load_template() == get_template("qwen2_vl")
        with pytest.raises(ValueError, match="template 'native': expected a model that is loaded here"):
            PolicyArguments(template="native").spec("center")

    @pytest.mark.parametrize("template", ["mine.yaml", "nowhere:MINE", "sonnet", '{"base": "sonnet"}'])
    def test_what_is_no_template_is_said_at_once(self, template: str) -> None:
        with pytest.raises(ValueError, match=self.FAULTS):
            PolicyArguments(template=template).spec("vlm:tiny")
        with pytest.raises(ValueError, match=self.FAULTS):
            ModelArguments(model="tiny", template=template).with_words()
