"""Whole supervised runs: in this process, and by Ray Train's workers."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle
from rich.console import Console

from focus_agents.errors import CheckpointError, TrainingError
from focus_agents.models.loading import load_model, load_processor
from focus_agents.monitoring.recorder import Recorder
from focus_agents.processes.names import naming_train
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.metrics import METRICS
from focus_agents.runs.terminal import PlainConsole
from focus_agents.sft import train as train_module
from focus_agents.sft.following import each_once
from focus_agents.sft.train import Workers, check_plan, check_resumable, train_sft
from focus_env.types import Episode
from tests.fakes import FakeDataset
from tests.focus_agents.sft.runs import IN_PROCESS, KeptLines, largest_difference, make_plan, metrics, parameters, train
from tests.places import ROOT


def test_a_whole_run(tmp_path: Path) -> None:
    plan, sink = make_plan(tmp_path / "run"), KeptLines()
    summary = train(plan, sinks=[sink])
    run = RunDirectory(plan.run_path)
    assert sink.lines == [(line.pop("step"), line) for line in run.read_metrics()]
    assert sink.is_closed
    assert summary["num_validation_episodes"] == 3
    assert summary["num_steps"] == 3
    assert [answer.episode_id for answer in run.read_answers("after")] == ["fake/0", "fake/1", "fake/2"]
    assert json.loads((run.path / "summary.json").read_text())["miou_end"] == summary["miou_end"]
    start, *lines = run.read_metrics()
    assert {name: start[name] for name in ("step", "validation_miou")} == {
        "step": 0,
        "validation_miou": summary["miou_start"],
    }
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {name.partition("/")[0] for line in lines for name in line} <= set(METRICS)
    for name in ("support_mass", "support_delta", "past_margin"):
        by_layer = [[line[f"{name}/{layer}"] for layer in range(3)] for line in lines]
        assert [line[name] for line in lines] == pytest.approx(np.mean(by_layer, axis=1))
    for line in lines:
        assert line["loss"] == pytest.approx(line["lm_loss"] + plan.config.beta * line["attention_loss"])
        assert line["lr"] == pytest.approx(plan.config.lr_at(line["step"] - 1))
    losses = [line["loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < losses[0] - 0.1
    assert lines[2]["support_mass"] > lines[0]["support_mass"]
    assert lines[2]["validation_miou"] == summary["miou_end"]
    start, end = load_model("tiny"), load_model(summary["checkpoint"])
    pairs = zip(start.named_parameters(), end.parameters(), strict=True)
    assert [name for (name, before), after in pairs if torch.equal(before, after)] == []


def test_a_process_that_passes_the_plan_on_loads_neither_torch_nor_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray Train's controller does, for which the workers wait."""
    given: dict[str, Any] = {}

    class Trainer:
        def __init__(self, *arguments: Any, train_loop_config: dict[str, Any], **options: Any) -> None:
            given.update(train_loop_config)

        def fit(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "TorchTrainer", Trainer)
    plan = make_plan(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(plan)
    file = tmp_path / "given"
    file.write_bytes(cloudpickle.dumps(cloudpickle.loads(cloudpickle.dumps(given))))
    code = f"""
import pathlib, pickle, sys
given = pickle.loads(pathlib.Path({str(file)!r}).read_bytes())
print([name for name in ("torch", "transformers") if name in sys.modules], given)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.startswith("[] {'plan': SFTPlan(model='tiny', ")
    opened = pickle.loads(file.read_bytes())["plan"].open()
    assert (opened.model, opened.config, opened.run_path) == (plan.model, plan.config, plan.run_path)
    assert opened.training_episodes[2].episode_id == plan.training_episodes[2].episode_id


@pytest.mark.parametrize(("num_done", "told"), [(None, [0, 1, 2, 3, 4, 5]), (3, [4, 5])], ids=["new", "resumed"])
def test_sinks_are_told_each_line_once(tmp_path: Path, num_done: int | None, told: list[int]) -> None:
    """Workers that start again go back to a checkpoint, and write the lines behind it again."""
    sink, run = KeptLines(), RunDirectory(tmp_path)
    pass_on = each_once(Recorder(run, Console(), [sink]), num_done)
    for length in (0, 1, 5, 3, 4, 6):
        pass_on([{"step": step, "loss": None, "lr": 0.5} for step in range(length)])
    assert sink.lines == [(step, {"lr": 0.5}) for step in told]


def test_each_validation_shows_its_best_and_worst_answers(tmp_path: Path) -> None:
    """Where that is asked for; those after the last step once."""
    file = io.StringIO()
    train_sft(
        make_plan(tmp_path / "run", validation_interval=1),
        IN_PROCESS,
        is_verbose=True,
        console=PlainConsole(file=file, width=200),
    )
    lines = file.getvalue().splitlines()
    tables = [number for number, line in enumerate(lines) if line.split()[:2] == ["IoU", "status"]]
    assert [lines[number - 1].split()[0] for number in tables] == ["before:", "1", "2", "after:"]
    for number in tables:
        assert [line.split()[0] for line in lines[number + 1 : number + 4]] == ["best"] * 3


def test_without_the_attention_loss(tmp_path: Path) -> None:
    train(make_plan(tmp_path / "run", beta=0.0))
    for line in metrics(tmp_path / "run"):
        assert line["loss"] == line["lm_loss"]
        assert "support_mass" not in line


def test_runs_with_one_seed_are_equal_and_with_another_differ(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(make_plan(tmp_path / name, num_steps=2, batch_size=2, seed=seed))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert largest_difference(tmp_path / "a", tmp_path / "b") == 0
    assert largest_difference(tmp_path / "a", tmp_path / "c") > 0


def test_the_learning_rate_is_the_schedules(tmp_path: Path) -> None:
    """Adam's first step moves a weight by the learning rate, whatever the gradient; the schedule starts at a tenth."""
    moved = {}
    start = {name: p.detach() for name, p in load_model("tiny").named_parameters()}
    for name, warmup in (("plateau", 0.0), ("rise", 1.0)):
        train(make_plan(tmp_path / name, num_steps=10, warmup=warmup, cooldown=0.0, patience=1, validation_interval=1))
        moved[name] = max((p - start[key]).abs().max().item() for key, p in parameters(tmp_path / name).items())
    # Two steps, since the second validation is no better than the first.
    assert moved["plateau"] == pytest.approx(2e-3, rel=0.01)
    assert moved["rise"] == pytest.approx((0.1 + 0.2) * 1e-3, rel=0.01)


class TestBeforeAnythingStarts:
    """What can be wrong is said before Ray or a model starts."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_validation_episodes": 0}, "num_validation_episodes: expected 1 or more, got 0"),
            ({"validation_interval": -1}, "validation_interval: expected 0 or more, got -1"),
            ({"checkpoint_interval": -1}, "checkpoint_interval: expected 0 or more, got -1"),
            (
                {"patience": 2, "validation_interval": 0},
                "patience: early stopping needs validations; set validation_interval above 0",
            ),
            ({"num_data_workers": -1}, "num_data_workers: expected 0 or more, got -1"),
        ],
    )
    def test_plans_out_of_range(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_plan(tmp_path / "run", **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"num_workers": -1}, "num_workers: expected 0 or more"), ({"max_failures": -1}, "max_failures: expected 0")],
    )
    def test_workers_out_of_range(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Workers(**options)

    def test_more_workers_than_examples(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"num_workers: expected at most batch_size, 3, .* got 4"):
            check_plan(make_plan(tmp_path / "run"), Workers(num_workers=4))

    def test_layers_that_the_model_does_not_have(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="attention layers '0,3': expected numbers from 0 to 2"):
            check_plan(make_plan(tmp_path / "run", attention_layers="0,3"), IN_PROCESS)

    def test_a_tokenizer_of_another_model(self, tmp_path: Path) -> None:
        processor = load_processor("tiny")
        processor.tokenizer.add_tokens([f"<extra_{number}>" for number in range(512)])
        folder = save_policy(tmp_path / "policy", load_model("tiny"), processor)
        with pytest.raises(CheckpointError, match=r"at most 512 tokens, got .* the tokenizer of another model"):
            check_plan(make_plan(tmp_path / "run", model=str(folder)), IN_PROCESS)

    def test_a_prompt_longer_than_the_context(self, tmp_path: Path) -> None:
        model = load_model("tiny")
        model.config.text_config.max_position_embeddings = 40
        folder = save_policy(tmp_path / "policy", model, load_processor("tiny"))
        with pytest.raises(ValueError, match="'fake/0': expected at most 40 tokens"):
            check_plan(make_plan(tmp_path / "run", model=str(folder)), IN_PROCESS)

    def test_a_run_without_a_checkpoint_cannot_be_resumed(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"expected a checkpoint in .* start a new run"):
            check_resumable(RunDirectory(tmp_path))


class Deadly(FakeDataset):
    """Kills a worker of a given rank at its n-th episode, the first time that it comes there."""

    def __init__(self, marker: Path, *, rank: int, after: int) -> None:
        super().__init__(3, shots=1)
        self.marker, self.rank, self.after = marker, rank, after

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        is_here = ray.train.get_context().get_world_rank() == self.rank
        if is_here and self.num_loads == self.after and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        return episode


@pytest.fixture(scope="module")
def _ray():
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


STEPS = {"num_steps": 4, "batch_size": 2, "checkpoint_interval": 1, "validation_interval": 3}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to, in this process."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    train(make_plan(folder, **STEPS))
    return folder


@ray.remote(num_cpus=0)
def own_addresses() -> tuple[str | None, str | None]:
    return os.environ.get("RAY_ADDRESS"), os.environ.get("RAY_API_SERVER_ADDRESS")


@ray.remote(num_cpus=0)
class Controller:
    """Starts another process, as Ray Train's does."""

    def addresses_of_child(self) -> tuple[str | None, str | None]:
        return ray.get(own_addresses.remote())


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
class TestRayTrain:
    """Worker processes: the same training, whoever dies."""

    def test_interrupted_and_resumed_it_ends_the_same(self, straight: Path, tmp_path: Path) -> None:
        """One worker dies at the third step, before any validation, and may not be replaced; the same call goes on."""
        deadly = Deadly(tmp_path / "died", rank=0, after=5)
        plan = make_plan(tmp_path / "run", episodes=deadly, **STEPS)
        workers = Workers(num_workers=1, max_failures=0)
        with pytest.raises(TrainingError, match="go on from the last checkpoint by `resume`") as stopped:
            train(plan, workers)
        assert (tmp_path / "died").exists(), stopped.value
        check_resumable(RunDirectory(plan.run_path))
        train(plan, workers)
        assert metrics(plan.run_path) == metrics(straight)
        assert largest_difference(plan.run_path, straight) == 0
        assert (plan.run_path / "validation/before.jsonl").read_text() == (
            straight / "validation/before.jsonl"
        ).read_text()

    def test_processes_ask_their_own_cluster(self) -> None:
        """Ray Train's cleaner asks the cluster at RAY_ADDRESS whether the training lives, or whichever it finds.

        It asks by the dashboard, and a cluster without one leads to where another's may be, which knows no such one.
        """
        naming, _ = naming_train("run", num_workers=1, at_restart=dict)
        with naming:
            controller = Controller.remote()
        own = ray.get_runtime_context().gcs_address
        assert ray.get(controller.addresses_of_child.remote()) == (own, "http://127.0.0.1:9")

    @pytest.mark.parametrize("shard_weights", [False, True], ids=["copies", "shares"])
    def test_two_workers_one_of_which_dies_train_the_same(
        self, straight: Path, tmp_path: Path, shard_weights: bool
    ) -> None:
        """Gradients are added up in another order, and Adam's first steps divide by their size."""
        deadly = Deadly(tmp_path / "died", rank=1, after=3)
        plan = make_plan(tmp_path / "run", episodes=deadly, **STEPS)
        train(plan, Workers(num_workers=2, max_failures=1, shard_weights=shard_weights))
        assert (tmp_path / "died").exists()
        for ours, theirs in zip(metrics(plan.run_path), metrics(straight), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
        assert largest_difference(plan.run_path, straight) < 1e-4
        folders = sorted(path.name for path in (plan.run_path / "checkpoints").iterdir() if path.is_dir())
        assert folders == ["final", "step_000004"]
