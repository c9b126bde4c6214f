"""The ablation: which runs there are, that none is done twice, and what the report makes of their answers."""

from __future__ import annotations

import dataclasses
import importlib
import json
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from focus_agents.cli.command_line import flat, parse
from focus_agents.errors import TrainingError
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.runs.checkpoint import save_policy
from focus_agents.studies.ablation import answers, training
from focus_agents.studies.ablation.answers import EVALUATION_FILE, drawn_episodes, evaluate_run, split_episodes
from focus_agents.studies.ablation.arms import ARMS, BASE, BASES, KINDS, SPLITS
from focus_agents.studies.ablation.grid import Variant, planned
from focus_agents.studies.ablation.report import write_report
from focus_agents.studies.ablation.runs import AblationStudy
from focus_agents.studies.ablation.summary import read_scores, summarize_scores
from focus_agents.studies.ablation.tables import render_report
from focus_agents.studies.ablation.training import run_arms
from focus_env.metrics import ScoredAnswer
from focus_env.prompts import PSEUDO_NAMES, get_template


def look(arm: str) -> str:
    """A variant of the scenes that a support tells all of."""
    return f"{arm}/where/one_look"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    return save_policy(folder, load_model("small"), load_processor("small"), template=load_template("small"))


@pytest.fixture
def study(base: Path, tmp_path: Path) -> AblationStudy:
    return AblationStudy(
        folder=tmp_path / "runs",
        bases={"where": str(base)},
        variants=(Variant.parse(look("attention-grpo")),),
        seeds=(0, 1),
        num_sft_steps=2,
        num_grpo_iterations=1,
        num_episodes=3,
    )


def test_every_run_comes_after_the_one_that_it_starts_from_and_once(study: AblationStudy) -> None:
    everywhere = planned(tuple(ARMS), list(BASES), list(KINDS))
    bases = dict.fromkeys(BASES, study.bases["where"])
    runs = dataclasses.replace(study, variants=tuple(everywhere), bases=bases).runs()
    folders = [run.folder for run in runs]
    assert len(set(folders)) == len(folders) > 2 * len(ARMS)
    assert {run.variant for run in runs} >= {str(variant) for variant in everywhere}
    trained: dict[str, int] = {}
    for position, run in enumerate(runs):
        trained.setdefault(run.model, position)  # a base has a run for each kind of scenes
    for position, run in enumerate(runs):
        if run.command:
            start = run.command[run.command.index("--init-from") + 1]
            assert trained[start] < position
    assert [run.variant for run in study.runs()] == [look(BASE), *map(look, ["attention", "attention-grpo"] * 2)]


def test_every_arm_is_a_command_that_its_experiment_understands(study: AblationStudy) -> None:
    for arm in ARMS:
        scenes = list(ARMS[arm].grid)[-1]
        command = study.run(Variant(arm, "where", scenes), seed=1).command
        if not command:
            continue
        module = importlib.import_module(command[1])
        args = flat(parse(module.Args, None, words=command[2:]))
        assert (args["seed"], args["shots"], args["level"], args["distractors"]) == (1, 4, 3, "any")
        assert (args["scenes"], tuple(args["shots_drawn"])) == (scenes, (1, 2, 4))
        assert args["freeze_vision"]
        if ARMS[arm].stage == "grpo":
            assert args["num_iterations"] == 1
        elif ARMS[arm].work == "own":
            assert args["num_steps"] == max(1, round(2 * KINDS[scenes].share * ARMS[arm].share))


def test_a_run_is_kept_under_all_that_decides_it(study: AblationStudy, base: Path, tmp_path: Path) -> None:
    def folder(arm: str = "attention-grpo", seed: int = 0, **changes: object) -> str:
        return dataclasses.replace(study, **changes).run(look(arm), seed).folder.name

    assert folder() == folder()
    assert folder() == folder(jobs=2, num_episodes=7, seeds=(5,), variants=(), num_probe_episodes=15)
    other = save_policy(tmp_path / "other", load_model("small", seed=1), load_processor("small"))
    changes = ({}, {"seed": 1}, {"num_sft_steps": 4}, {"num_grpo_iterations": 2}, {"bases": {"where": str(other)}})
    assert len({folder(**change) for change in changes}) == 5
    assert folder("sft", num_grpo_iterations=2) == folder("sft")


def test_answers_are_kept_and_only_missing_ones_are_given(study: AblationStudy) -> None:
    study.folder.mkdir()
    run = study.run(look(BASE), 0)
    evaluate_run(study, run)
    file = run.folder / EVALUATION_FILE
    first = json.loads(file.read_text())
    assert set(first) == {f"{name}/{shots}" for name, split in SPLITS.items() for shots in split.shots}
    assert {key: len(values) for key, values in first.items()} == {
        key: 12 if key.startswith("unseen") else 3 for key in first
    }
    assert all(0 <= value <= 1 for values in first.values() for value in values)
    marked = first | {"unseen/4": [0.25, 0.5, 0.75] * 4}
    del marked["many/4"]
    file.write_text(json.dumps(marked))
    evaluate_run(study, run)
    assert json.loads(file.read_text()) == marked | {"many/4": first["many/4"]}


def test_iplocs_model_is_asked_by_a_name_of_its_training(study: AblationStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(env: gymnasium.Env, *_: object, **__: object) -> list[ScoredAnswer]:
        asked.append(env.get_wrapper_attr("template").object_name)
        return []

    run = study.run(look("iploc"), 0)
    save_policy(Path(run.model), load_model("small"), load_processor("small"), template=get_template("iploc"))
    monkeypatch.setattr(answers, "evaluate", answer)
    evaluate_run(study, run)
    assert set(asked) <= set(PSEUDO_NAMES)
    assert len(asked) == 4


def test_what_needs_a_failed_run_is_not_run(study: AblationStudy, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(TrainingError, match=r"base-.*\n(.*what it starts from failed\n?){4}") as error:
        run_arms(dataclasses.replace(study, bases={"where": str(broken)}), on_done=lambda run: None)
    assert "attention-grpo-where-one_look-seed1" in str(error.value)


@pytest.mark.parametrize(("jobs", "expected"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_runs_at_a_time_share_the_threads_that_torch_has(
    study: AblationStudy, jobs: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that a user gives it by OMP_NUM_THREADS, where that is set, rather than all cores."""
    given: list[int] = []

    class Here(Executor):
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def submit(self, function: Any, *arguments: Any) -> Any:
            given.append(arguments[2])
            done: Future[None] = Future()
            done.set_result(None)
            return done

    monkeypatch.setattr(training, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(training.torch, "get_num_threads", lambda: 6)
    run_arms(dataclasses.replace(study, jobs=jobs), lambda run: None)
    assert given == [expected] * 5


def test_splits_are_what_they_are_called() -> None:
    queries = {
        name: split_episodes(name, 4, 2)[0].query_frame.image() for name in ("unseen", "shuffled", "many", "same-shape")
    }
    np.testing.assert_array_equal(queries["unseen"], queries["shuffled"])
    fewer = split_episodes("unseen", 1, 2)[0]
    np.testing.assert_array_equal(queries["unseen"], fewer.query_frame.image())
    unseen, shuffled = split_episodes("unseen", 4, 2), split_episodes("shuffled", 4, 2)
    assert [x.frame.name for x in shuffled[0].support] == [x.frame.name for x in unseen[1].support]
    assert {split_episodes(name, 1, 2)[0].episode_id.split("/")[1] for name in SPLITS} == {
        "test", "train", "test_shapes",
    }  # fmt: skip


def test_report_on_answers_that_are_known(study: AblationStudy) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (2, 50))
    levels = {BASE: 0.1, "sft": 0.2, "attention": 0.6, "attention-grpo": 0.7}
    keys = [f"{name}/{shots}" for name, split in SPLITS.items() for shots in split.shots]
    scores = {look(arm): {key: dict(enumerate(level + noise)) for key in keys} for arm, level in levels.items()}
    scores[look("attention-grpo")]["unseen/4"] = dict(enumerate(0.75 + noise))
    scores[look("attention-grpo")]["shuffled/4"] = dict(enumerate(0.2 + noise))
    scores["sft/where/tracks"] = {"unseen/4": dict(enumerate(0.5 + noise))}
    floors = {"one_look": {"copy": {key: [0.0, 0.6, 0.8] for key in keys}, "oracle": {key: [1.0] for key in keys}}}
    summary = json.loads(json.dumps(summarize_scores(study, scores, floors)))
    differences = {claim["name"]: claim for claim in summary["claims"]}
    gain = differences["attention loss above plain SFT"]
    assert gain["mean"] == pytest.approx(0.4)
    assert gain["interval"] == pytest.approx([0.4, 0.4])  # the noise is shared, so pairs are free of it
    assert (gain["num_episodes"], gain["base"], gain["scenes"]) == (50, "where", "one_look")
    assert differences["GRPO on top of that"]["seeds"] == pytest.approx({"0": 0.15, "1": 0.15})
    assert differences["four shots against one, final model"]["mean"] == pytest.approx(0.05)
    assert "GRPO without the attention loss" not in differences
    main = summary["rows"][look("sft")]["cells"]["unseen/4"]
    low, high = main["interval"]
    assert low < main["mean"] < high
    at_half = summary["rows"]["sft/where/tracks"]["cells"]["unseen/4"]["acc_50"]
    assert at_half["mean"] == pytest.approx((noise >= 0).mean())
    text = render_report(summary)
    assert "iterations of GRPO, in single precision. mIoU" in text
    assert "| copy of the last support's box |  | 1 x 3 | 46.7 [0.0, 80.0] |" in text
    row = next(
        line for line in text.splitlines() if line.startswith("| SFT + attention loss + GRPO | where | 2 x 50 |")
    )
    assert row.count("|") == 13
    sentence = "The attention loss gives the jump."
    assert f"| {sentence} | one look / where |  |  |" in text
    differs = "| attention loss above plain SFT | one look / where | +40.0 [+40.0, +40.0] | 2 x 50 | +40.0, +40.0 |"
    assert f"{differs} {sentence} | holds |" in text
    published = next(line for line in text.splitlines() if line.startswith("| paper, TAO"))
    assert "| 34.3 |" in published
    assert "| 68.5 |" in published


def test_an_arm_with_fewer_seeds_is_paired_by_those_that_it_has_and_says_so(study: AblationStudy) -> None:
    scores = {
        look("attention"): {"unseen/4": {0: np.full(8, 0.5), 1: np.full(8, 0.7)}},
        look("attention-grpo"): {"unseen/4": {1: np.full(8, 0.8)}},
        look("mu-low"): {"unseen/4": {1: np.full(4, 0.6)}},
    }
    summary = json.loads(json.dumps(summarize_scores(study, scores)))
    text = render_report(summary)
    assert "| GRPO on top of that | one look / where | +10.0 [+10.0, +10.0] | 1 x 8 | -, +10.0 |" in text
    assert "| GRPO adds to stage 1 with the loss. | one look / where (1 seed) |  |  |" in text
    assert "| one look / where | 60.0 [50.0, 70.0] | 80.0 [80.0, 80.0] (1 seed) |" in text
    one_look = text.split("## One look")[1].split("##")[0]
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in one_look.splitlines() if " | where | " in line}
    mu, attention = (rows[ARMS[arm].title] for arm in ("mu-low", "attention"))
    assert (mu[1], mu[4], mu[-1]) == ("1 x 4", "60.0 [60.0, 60.0]", "-, 60.0 |")
    assert (attention[1], attention[4], attention[-1]) == ("2 x 8", "60.0 [50.0, 70.0]", "50.0, 70.0 |")
    against = f"{ARMS['mu-low'].title}, against {ARMS['attention'].title}"
    assert f"| {against} | one look / where | -10.0 [-10.0, -10.0] | 1 x 4 | -, -10.0 |  |  |" in text


def test_only_runs_that_were_answered_to_the_end_are_reported(study: AblationStudy) -> None:
    with pytest.raises(ValueError, match="expected answers of a run of this study, found none"):
        write_report(study, study.folder)
    keys = [f"{name}/{shots}" for name, split in SPLITS.items() for shots in split.shots]
    for arm, seed, num_answers in (("attention", 1, 12), ("attention", 0, 11), ("attention-grpo", 1, 12)):
        folder = study.run(look(arm), seed).folder
        folder.mkdir(parents=True)
        (folder / EVALUATION_FILE).write_text(json.dumps(dict.fromkeys(keys, [0.5] * num_answers)))
    scores = read_scores(study)
    assert {variant: list(cells["unseen/4"]) for variant, cells in scores.items()} == {
        look("attention"): [1], look("attention-grpo"): [1],
    }  # fmt: skip
    assert {key: len(values[1]) for key, values in scores[look("attention")].items()} == {
        key: 12 if key.startswith("unseen") else 3 for key in keys
    }


def test_episodes_are_drawn_once_for_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_episodes.cache_clear()
    episodes = drawn_episodes("unseen", 2, 3, "tracks")
    assert episodes[1] is drawn_episodes("unseen", 2, 3, "tracks")[1]
    assert (len(episodes), len(episodes[1].support)) == (3, 2)
    np.testing.assert_array_equal(
        episodes[1].query_frame.image(), split_episodes("unseen", 2, 3, "tracks")[1].query_frame.image()
    )
    drawn_episodes.cache_clear()


@pytest.mark.parametrize("scenes", KINDS)
def test_copies_and_the_oracle_are_worked_out_once(
    scenes: str, study: AblationStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.folder.mkdir()
    floors = answers.kept_floors(study, scenes)
    assert {name: {key: len(values) for key, values in cells.items()} for name, cells in floors.items()} == {
        key: {"unseen/1": 12, "unseen/2": 12, "unseen/4": 12} for key in answers.FLOORS
    }
    best, copies = (np.mean(floors[name]["unseen/4"]) for name in ("oracle", "copy"))
    assert best > 0.6 > copies
    monkeypatch.setattr(answers, "floor_values", None)
    assert answers.kept_floors(study, scenes) == floors


def test_a_base_is_probed_once_whatever_scenes_it_answers(study: AblationStudy) -> None:
    variants = tuple(Variant(BASE, "where", kind) for kind in KINDS)
    short = dataclasses.replace(study, variants=variants, num_probe_episodes=30)
    short.folder.mkdir()
    assert [answers.is_probed(short, run) for run in short.runs()] == [True, False, False]
    assert not answers.is_probed(short, short.run(look("sft"), 0))
    for run in short.runs():
        answers.probe_base(short, run)
    (probe,) = answers.read_probes(short).values()
    assert probe["num_test"] == 8
