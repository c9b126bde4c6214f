"""The benchmark of rewards: what is run, what its report says, and that nothing is run twice."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from focus_agents.cli import rewards as benchmark
from focus_agents.cli.command_line import flat
from focus_agents.cli.data_arguments import TrainingDataArguments
from focus_agents.cli.grpo import TrainingArguments
from focus_agents.cli.reward import load_reward
from focus_agents.cli.watching import TENSORBOARD, WatchArguments
from focus_agents.errors import TrainingError
from focus_agents.grpo.settings import GRPOSchedule, LearningSettings, SamplingSettings
from focus_agents.reports.documents import to_html
from focus_agents.runs.folder import RunDirectory
from focus_agents.studies.rewards import report
from focus_agents.studies.rewards.runs import LOG_FILE, RewardStudy, check_rewards, run_trials
from focus_agents.studies.study import Run
from focus_env.metrics import ScoredAnswer
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box, ParseStatus

ARGUMENTS = TrainingArguments(
    data=TrainingDataArguments(level=1, shots=1),
    sampling=SamplingSettings(groups_per_iteration=2, rollout_batch_groups=2, group_size=2, max_completion_tokens=16),
    learning=LearningSettings(num_iterations=2),
    validation=GRPOSchedule(num_validation_episodes=4, checkpoint_interval=1),
)
REWARDS = {"iou": "iou:1,format:0.5", "giou": "giou:1,format:0.5"}


def make_study(folder: Path, *, arguments: TrainingArguments = ARGUMENTS, **changes: Any) -> RewardStudy:
    plan = arguments.plan(reward="iou", seed=0)
    study = {"folder": folder, "rewards": REWARDS, "seeds": (0, 1), "plan": plan, "arguments": flat(arguments)}
    return RewardStudy(**(study | changes))


@pytest.mark.parametrize("text", ["iou", "giou", "iou_at(0.5)", "iou:1,format:0.5", "iou,copy"])
def test_a_reward_means_what_it_means_for_a_training(tmp_path: Path, text: str) -> None:
    args = benchmark.Args(rewards=(text, "length(5)"), output_dir=tmp_path)
    study = benchmark.check_arguments(args)
    assert study.plan_of(study.run(text, 0)).reward == load_reward(text)
    assert WeightedReward.from_spec(study.rewards[text]) == load_reward(text)


def test_an_edited_term_of_ones_own_is_run_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "term_to_edit.py"
    module.write_text("def mine(answers): return answers.ious\n")
    study = make_study(tmp_path, rewards={"iou": "iou:1", "mine": "term_to_edit:mine:1"})
    before = study.run("mine", 0).folder, study.run("iou", 0).folder
    module.write_text("def mine(answers): return answers.ious / 2\n")
    after = study.run("mine", 0).folder, study.run("iou", 0).folder
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)
    sys.modules.pop("term_to_edit")


def test_a_run_has_a_folder_for_all_that_decides_it(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    runs = study.runs()
    assert [(run.variant, run.seed) for run in runs] == [("iou", 0), ("giou", 0), ("iou", 1), ("giou", 1)]
    assert len({run.folder for run in runs}) == 4
    assert runs == make_study(tmp_path, cpus_per_run=2).runs()
    longer = dataclasses.replace(ARGUMENTS, learning=LearningSettings(num_iterations=3))
    others = [make_study(tmp_path, arguments=longer), make_study(tmp_path, rewards={**REWARDS, "iou": "iou:2"})]
    assert all(other.run("iou", 0).folder != runs[0].folder for other in others)
    odd = make_study(tmp_path, rewards={"../iou at": "iou:1", "b": "iou:1"}).run("../iou at", 0)
    assert odd.folder.parent == tmp_path


def test_a_reward_of_ones_own_that_has_changed_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of the two would be compared as one reward's."""
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "own_reward_of_a_study.py"
    module.write_text("def term(answers): return answers.ious\n")
    study = make_study(tmp_path, rewards={**REWARDS, "mine": f"{module.stem}:term:1"})
    before = {name: study.run(name, 0).folder for name in study.rewards}
    module.write_text("def term(answers): return 2 * answers.ious\n")
    after = {name: study.run(name, 0).folder for name in study.rewards}
    assert [name for name in before if before[name] != after[name]] == ["mine"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": {"iou": "iou:1"}}, "rewards: expected two or more different ones to compare, got \\['iou'\\]"),
        ({"rewards": {**REWARDS, "x": "iuo:1"}}, "unknown term 'iuo'"),
        ({"rewards": {**REWARDS, "x": "format:0.5,iou:1.0"}}, "got 'iou' and 'x', the same reward"),
        ({"rewards": {**REWARDS, "x": "giou:1,format:0.5,copy:0"}}, "got 'giou' and 'x', the same reward"),
        ({"rewards": {**REWARDS, "start": "iou:2"}}, "rewards: expected another name than 'start', the model before"),
        ({"seeds": ()}, "seeds: expected different numbers"),
        ({"seeds": (1, 1)}, "seeds: expected different numbers"),
        ({"seeds": (-1,)}, "seeds: expected different numbers"),
        (
            {"arguments": dataclasses.replace(ARGUMENTS, data=TrainingDataArguments(split="trian"))},
            "split must be one of",
        ),
    ],
)
def test_what_is_wrong_is_found_before_training(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check_rewards(make_study(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


# ---- the report, of runs that were not run


def make_answers(ious: list[float]) -> list[ScoredAnswer]:
    return [
        ScoredAnswer(
            episode_id=f"e/{index}",
            status=ParseStatus.OK if iou else ParseStatus.NO_BOX,
            is_strict=True,
            box=Box(0, 0, 10, 10) if iou else None,
            target_box=Box(0, 0, 10, 20),
            image_wh=(40, 20),
            iou=iou,
            is_whole_image=iou == 0.6,
            is_support_copy=False,
        )
        for index, iou in enumerate(ious)
    ]


@pytest.fixture
def study(tmp_path: Path) -> RewardStudy:
    """Two seeds, four episodes: giou answers each by 0.2 more."""
    study = make_study(tmp_path)
    after = {"iou": [0.4, 0.6, 0.0, 0.5], "giou": [0.6, 0.8, 0.2, 0.7]}
    for run in study.runs():
        directory = RunDirectory.create(run.folder, {})
        directory.write_answers("before", make_answers([0.1, 0.2, 0.3, 0.4]))
        directory.write_answers("after", make_answers(after[run.variant]))
        for iteration in range(1, 21):
            directory.log(
                {"iteration": iteration, "miou": iteration / 100 + run.seed, "zero_variance_rate": iteration / 100}
            )
        (run.folder / "summary.json").write_text("{}")
    return study


def test_the_figures(study: RewardStudy) -> None:
    summary = report.summarize_study(study)
    scores = {name: {metric: found["mean"] for metric, found in row.items()} for name, row in summary["scores"].items()}
    assert list(scores) == ["start", "iou", "giou"]
    assert scores["start"]["miou"] == pytest.approx(0.25)
    expected = {"miou": 0.375, "acc_50": 0.5, "acc_75": 0.0, "parse_rate": 0.75, "whole_image_rate": 0.25}
    assert scores["iou"] == pytest.approx({**expected, "copy_rate": 0.0, "size": 0.75 * 100 / 800})
    assert summary["target_size"] == 200 / 800
    assert summary["controls"] == []
    assert scores["giou"]["acc_75"] == pytest.approx(0.25)
    # The last two of twenty iterations; all twenty.
    assert summary["sampled"]["iou"]["miou"] == pytest.approx([0.195, 1.195])
    assert summary["sampled"]["iou"]["zero_variance_rate"] == pytest.approx([0.105, 0.105])
    (miou, acc) = summary["differences"]
    assert (miou["metric"], miou["from"], miou["to"]) == ("miou", "iou", "giou")
    assert miou["mean"] == pytest.approx(0.2)
    assert miou["interval"] == pytest.approx([0.2, 0.2])
    assert acc["interval"][0] == 0.0


def test_intervals_of_several_differences_hold_together(study: RewardStudy) -> None:
    """With three rewards each of three intervals is wider than it is alone."""
    values = np.random.default_rng(0).normal(size=(2, 50))
    alone, together = (report._describe(values, confidence=c)["interval"] for c in (0.95, 1 - 0.05 / 3))
    assert together[0] < alone[0] < alone[1] < together[1]
    more = dataclasses.replace(study, rewards={**REWARDS, "copy": REWARDS["iou"]})
    for seed in study.seeds:
        (study.run("iou", seed).folder).rename(more.run("copy", seed).folder)
        (more.run("iou", seed).folder).symlink_to(more.run("copy", seed).folder)
    pairs = [(found["from"], found["to"]) for found in report.summarize_study(more)["differences"]]
    assert pairs == 2 * [("iou", "giou"), ("iou", "copy"), ("giou", "copy")]
    controls = dataclasses.replace(more, rewards={**REWARDS, "copy": "area"})
    for seed in study.seeds:
        (more.run("copy", seed).folder).rename(controls.run("copy", seed).folder)
        (more.run("iou", seed).folder).unlink()
        (more.run("iou", seed).folder).symlink_to(controls.run("copy", seed).folder)
    summary = report.summarize_study(controls)
    assert (summary["controls"], len(summary["differences"])) == (["copy"], 6)
    only = dataclasses.replace(controls, rewards={"giou": "random(0)", "copy": "area"})
    for seed in study.seeds:
        (controls.run("giou", seed).folder).rename(only.run("giou", seed).folder)
    assert [(found["from"], found["to"]) for found in report.summarize_study(only)["differences"]] == 2 * [
        ("giou", "copy")
    ]


def test_two_controls_are_not_compared_where_there_is_a_reward(study: RewardStudy) -> None:
    more = dataclasses.replace(study, rewards={"iou": "area", "giou": REWARDS["giou"], "form": "format"})
    for seed in study.seeds:
        (study.run("iou", seed).folder).rename(more.run("iou", seed).folder)
        (more.run("form", seed).folder).symlink_to(more.run("iou", seed).folder)
    pairs = [(found["from"], found["to"]) for found in report.summarize_study(more)["differences"]]
    assert pairs == 2 * [("iou", "giou"), ("giou", "form")]


def test_the_files(study: RewardStudy, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    path = report.write_report(study, folder, command="python here.py")
    text = path.read_text()
    assert "Written by `python here.py`: 2 iterations of GRPO from focus-small-sft, seeds 0, 1" in text
    assert "| giou against iou | mIoU | +20.0 [+20.0, +20.0] | +20.0, +20.0 |" in text
    assert "| iou | 37.5 [" in text
    assert "![Means over the seeds" in text
    names = {file.name for file in folder.iterdir()}
    assert names == {f"rewards_report{end}" for end in (".md", ".html", ".json", "_curves.png", "_answers.png")}
    assert json.loads((folder / "rewards_report.json").read_text())["rewards"] == REWARDS
    assert (folder / "rewards_report.html").read_text().count("data:image/png") == 2


def test_names_are_shown_as_they_are(study: RewardStudy, tmp_path: Path) -> None:
    summary = report.summarize_study(study)
    text = json.dumps({**summary, "start": "runs/<i>_a_"}).replace("giou", "<b>|`x")
    pictures = (tmp_path / "curves.png", tmp_path / "sheet.png")
    for picture in pictures:
        picture.write_bytes(b"PNG")
    found = report.render_report(json.loads(text), *pictures, command="python `here`.py --rewards '<b>|x'")
    assert "Written by `` python `here`.py --rewards '<b>|x' ``: 2 iterations of GRPO from runs/\\<i>\\_a\\_, " in found
    assert "\n| \\<b>\\|\\`x | \\<b>\\|\\`x:1,format:0.5 |  |\n" in found
    assert "`` <b>|`x `` trains better than `iou`: +20.0" in found
    page = to_html(found, tmp_path)
    assert (
        "<code>python `here`.py --rewards '&lt;b&gt;|x'</code>: 2 iterations of GRPO from runs/&lt;i&gt;_a_, " in page
    )
    assert "<td>&lt;b&gt;|`x</td>\n<td>&lt;b&gt;|`x:1,format:0.5</td>" in page
    assert "<code>&lt;b&gt;|`x</code> trains better than <code>iou</code>: +20.0" in page
    assert not re.search("<[bi]>", page)


# ---- runs


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
def test_a_study_goes_on_where_it_was(tmp_path: Path, local_ray: None) -> None:
    study = make_study(tmp_path, seeds=(0,), open_places=WatchArguments().open)
    done: list[Run] = []
    run_trials(study, done.append)
    assert {run.variant for run in done} == {"iou", "giou"}
    first, second = study.runs()
    straight = RunDirectory(first.folder).read_answers("after")

    # As a kill after the first of the two iterations leaves it: with a checkpoint, and a line too many.
    (first.folder / "summary.json").unlink()
    (first.folder / "checkpoints" / "iteration_000002").rename(first.folder / "checkpoints" / "iteration_000001")
    seen = (second.folder / "summary.json").stat().st_mtime_ns
    done.clear()
    run_trials(study, done.append)
    assert done == [first]
    assert (second.folder / "summary.json").stat().st_mtime_ns == seen
    assert [line["iteration"] for line in RunDirectory(first.folder).read_steps()] == [1, 2]
    assert len(straight) == len(RunDirectory(first.folder).read_answers("after")) == 4

    # Each is shown as a single run is.
    for run in (first, second):
        assert list((run.folder / TENSORBOARD).glob("events.*"))
        assert (run.folder / "report.html").exists()
        assert f"tensorboard: `focus tensorboard {run.folder}`" in (run.folder / LOG_FILE).read_text()

    done.clear()
    run_trials(study, done.append)
    assert done == []
    report.write_report(study, tmp_path / "report", command="test")


@pytest.mark.ray
def test_a_run_that_fails_is_named_and_the_others_finish(tmp_path: Path, local_ray: None) -> None:
    study = make_study(tmp_path, seeds=(0,), rewards={"iou": "iou:1", "broken": "no_such_term:1"})
    done: list[Run] = []
    with pytest.raises(TrainingError, match=r"1 of 2 runs did not finish \(broken seed 0\): .*no_such_term"):
        run_trials(study, done.append)
    assert [run.variant for run in done] == ["iou"]
