"""Pretraining: its settings, and runs that are killed, resumed and finished."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from focus_agents.models.inputs import IGNORED
from focus_agents.models.loading import SMALL, load_model, load_processor, load_template
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.small import VOCAB_SIZE
from focus_agents.pretraining import train
from focus_agents.pretraining.data import DocumentBatch, PretrainingBatches, name_tokens, number_values
from focus_agents.pretraining.settings import PretrainingConfig
from focus_agents.pretraining.train import SCORES, Pretraining
from focus_agents.probing.settings import ProbeSettings
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.metrics import METRICS

TEMPLATE = load_template(SMALL)


class TestConfig:
    """Settings of a run."""

    def test_lr_at_points_computed_by_hand(self) -> None:
        config = PretrainingConfig(num_steps=100, lr=0.1, warmup=0.1, cooldown=0.5, lr_end=0.2)
        expected = {0: 0.01, 4: 0.05, 9: 0.1, 10: 0.1, 50: 0.1, 60: 0.084, 75: 0.06, 90: 0.036, 95: 0.028, 99: 0.0216}
        assert {step: config.lr_at(step) for step in expected} == pytest.approx(expected)

    def test_lr_without_warmup_and_cooldown(self) -> None:
        config = PretrainingConfig(num_steps=7, lr=0.1, warmup=0, cooldown=0.0)
        assert [config.lr_at(step) for step in range(7)] == [0.1] * 7

    def test_lr_falls_from_the_first_step_on(self) -> None:
        config = PretrainingConfig(num_steps=4, lr=1.0, warmup=0, cooldown=1.0, lr_end=0.0)
        assert [config.lr_at(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"num_steps": 0}, "num_steps: expected 1 or more, got 0"),
            ({"name_weight": -0.1}, "name_weight: expected 0 or more, got -0.1"),
            ({"name_weight": math.nan}, "name_weight: expected 0 or more, got nan"),
            ({"name_layer": 0}, "name_layer: expected 1 or more, got 0"),
            ({"warmup": -1}, "warmup, cooldown: expected shares of the steps that add up to at most 1, got -1 and 0.5"),
            ({"checkpoint_interval": 0}, "checkpoint_interval: expected 1 or more, got 0"),
            ({"seed": -1}, "seed: expected 0 or more, got -1"),
            ({"lr": 0.0}, "lr: expected more than 0, got 0.0"),
            ({"lr": math.inf}, "lr: expected more than 0, and finite, got inf"),
            ({"lr": math.nan}, "lr: expected more than 0, got nan"),
            ({"grad_clip": 0}, "grad_clip: expected more than 0, got 0"),
            ({"cooldown": 1.1}, "expected shares of the steps that add up to at most 1, got 0.03 and 1.1"),
            ({"lr_end": -0.1}, "lr_end: expected a share of the peak from 0 to 1, got -0.1"),
            ({"lr_end": math.nan}, "lr_end: expected a share of the peak from 0 to 1, got nan"),
        ],
    )
    def test_values_out_of_range_are_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            PretrainingConfig(**change)

    def test_a_warmup_in_steps_goes_for_one_release_more(self) -> None:
        with pytest.warns(FutureWarning, match="warmup: a number of steps goes for one release more; give a fraction"):
            config = PretrainingConfig(num_steps=1000, warmup=100)
        assert config == PretrainingConfig(num_steps=1000, warmup=0.1)

    def test_values_at_the_ends_of_their_ranges_are_taken(self) -> None:
        PretrainingConfig(num_steps=1, warmup=0, checkpoint_interval=1, cooldown=0, lr_end=1)


CONFIG = PretrainingConfig(num_steps=5, lr=1e-3, warmup=0.4, checkpoint_interval=2, seed=1)


PROBE = ProbeSettings(num_probe_episodes=15)


def start(folder: Path, config: PretrainingConfig = CONFIG) -> Pretraining:
    return Pretraining(RunDirectory.create(folder, dataclasses.asdict(config)), config, TEMPLATE, probe=PROBE)


def quietly(run: Pretraining) -> dict[str, Any]:
    return run.run(Console(file=io.StringIO()))


class Killed(BaseException):
    """What ends a run in the middle of a step."""


@pytest.mark.usefixtures("tiny_curriculum")
class TestRuns:
    """Short runs from the first step to the exported model."""

    def test_a_run_leaves_its_metrics_and_a_policy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train, "LINE_INTERVAL", 2)
        run = start(tmp_path / "run")
        before = copy.deepcopy(run.model.state_dict())
        console = Console(file=io.StringIO())
        summary = run.run(console)
        folder = tmp_path / "run"
        assert json.loads((folder / "summary.json").read_text()) == summary
        assert set(summary) == {*SCORES, "probe", "warnings", "seconds"}
        assert summary.pop("warnings") == []
        probe = summary.pop("probe")
        assert (probe["num_fit"], probe["num_test"], len(probe["accuracy"]["numbers"])) == (11, 4, 6)
        assert all(math.isfinite(value) for value in summary.values())
        metrics = run.directory.read_metrics()
        assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5]
        assert all({"step", "lr", "grad_norm", "seconds", *SCORES} == set(line) <= set(METRICS) for line in metrics)
        assert [line["lr"] for line in metrics] == [CONFIG.lr_at(step) for step in range(5)]
        shown = re.findall(r"^ +(\d+)  lm_loss ([\d.]+)  box_iou", console.file.getvalue(), re.MULTILINE)
        means = [np.mean([line["lm_loss"] for line in metrics[first : first + 2]]) for first in (0, 2)]
        assert [(int(step), float(loss)) for step, loss in shown] == [
            (2, pytest.approx(means[0], abs=6e-4)),
            (4, pytest.approx(means[1], abs=6e-4)),
        ]
        assert sorted(path.name for path in run.directory.checkpoints.iterdir()) == ["final", "step_000004"]

        policy = str(folder / "checkpoints/final")
        assert load_template(policy) == TEMPLATE
        assert load_processor(policy).tokenizer.get_vocab() == run.processor.tokenizer.get_vocab()
        loaded = load_model(policy).state_dict()
        assert loaded.keys() == before.keys()
        assert all(torch.equal(loaded[name], value) for name, value in run.model.state_dict().items())
        moved = [name for name, value in before.items() if not torch.equal(value, loaded[name])]
        assert {name.split(".")[1] for name in moved} >= {"visual", "language_model"}

    def test_it_learns(self, tmp_path: Path) -> None:
        """On steps that are all alike: the batch of the first one."""
        run = start(tmp_path / "run", dataclasses.replace(CONFIG, lr=3e-3, warmup=0, cooldown=0.0))
        batch = PretrainingBatches(run.processor, TEMPLATE, seed=0)[0]
        losses = [run._step(0, batch)["lm_loss"] for _ in range(8)]
        assert losses[-1] < losses[0] / 2

    @pytest.mark.parametrize("last", [3, 4])
    def test_killed_and_resumed_it_is_the_same_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
    ) -> None:
        """After a step that no checkpoint holds, or after one that one does; with what a kill leaves behind."""
        straight = start(tmp_path / "straight")
        summary = quietly(straight)
        original = Pretraining._step

        def strike(self: Pretraining, step: int, batch: DocumentBatch) -> dict[str, float]:
            if step == last:
                raise Killed
            return original(self, step, batch)

        killed = start(tmp_path / "killed")
        with monkeypatch.context() as patch:
            patch.setattr(Pretraining, "_step", strike)
            with pytest.raises(Killed):
                quietly(killed)
        checkpoints = tmp_path / "killed/checkpoints"
        assert [path.name for path in checkpoints.iterdir()] == [f"step_{last // 2 * 2:06d}"]
        assert len(killed.directory.read_metrics()) == last
        (checkpoints / ".unfinished").mkdir()
        (checkpoints / ".unfinished/optimizer.pt").write_bytes(b"half of")
        with (tmp_path / "killed/metrics.jsonl").open("a") as file:
            file.write('{"step": ')

        steps: list[int] = []

        def count(self: Pretraining, step: int, batch: DocumentBatch) -> dict[str, float]:
            steps.append(step)
            return original(self, step, batch)

        monkeypatch.setattr(Pretraining, "_step", count)
        resumed = Pretraining(RunDirectory(tmp_path / "killed"), CONFIG, TEMPLATE)
        again = quietly(resumed)
        assert steps == list(range(last // 2 * 2, CONFIG.num_steps))
        weights = [
            load_file(tmp_path / name / "checkpoints/final/model.safetensors") for name in ("straight", "killed")
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
        assert {name: again[name] for name in SCORES} == {name: summary[name] for name in SCORES}
        lines = [
            [
                {name: value for name, value in line.items() if name != "seconds"}
                for line in run.directory.read_metrics()
            ]
            for run in (straight, resumed)
        ]
        assert lines[0] == lines[1]
        assert [path.name for path in checkpoints.glob("step_*")] == ["step_000004"]

    def test_scores_are_of_identities_that_are_not_trained_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, int, int]] = []
        original = PretrainingBatches.__getitem__

        def spy(self: PretrainingBatches, step: int) -> DocumentBatch:
            asked.append((self.split, self.seed, step))
            return original(self, step)

        def load(dataset: PretrainingBatches, **options: Any) -> list[DocumentBatch]:
            """In this process, where the spy is."""
            return [dataset[step] for step in options["sampler"]]

        monkeypatch.setattr(train, "drawn_ahead", load)
        monkeypatch.setattr(PretrainingBatches, "__getitem__", spy)
        run = start(tmp_path / "run")
        first = run.score()
        assert not run.model.training
        assert run.score() == first
        assert asked == [("val", CONFIG.seed, train.SCORING_STEP + n) for n in range(2)] * 2

    def test_scores_of_a_model_that_knows_the_answers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: VLMProcessor
    ) -> None:
        """Logits that are made up: all right, then every box right but for its last number, and every word wrong."""
        run = start(tmp_path / "run")
        batch = PretrainingBatches(processor, TEMPLATE, seed=0)[5]
        labels = batch.labels[:, 1:]
        targets = labels[labels != IGNORED]
        values, is_name = number_values(processor), name_tokens(processor)
        guesses = targets.clone()

        def head(hidden: torch.Tensor) -> torch.Tensor:
            return 30.0 * torch.nn.functional.one_hot(guesses, VOCAB_SIZE)

        monkeypatch.setattr(run.model.lm_head, "forward", head)
        loss, scores = run._answer(batch)
        assert (scores["box_iou"], scores["name_accuracy"]) == (1.0, 1.0)
        assert scores["lm_loss"] == pytest.approx(0.0, abs=1e-6)
        assert loss.shape == ()

        boxes = values[targets[values[targets] >= 0]].view(-1, 4)
        is_last = (values[targets] >= 0).nonzero()[3::4, 0]
        guesses[is_last] = processor.tokenizer.convert_tokens_to_ids("100")
        guesses[is_name[targets]] = processor.eos_token_id
        heights = boxes[:, 3] - boxes[:, 1], 100 - boxes[:, 1]
        _, scores = run._answer(batch)
        assert scores["box_iou"] == pytest.approx(float((heights[0] / heights[1]).mean()))
        assert scores["name_accuracy"] == 0.0


def test_another_models_checkpoint_is_not_taken_for_the_newest(tmp_path: Path) -> None:
    """`final` is a policy, not a state to go on from."""
    run = start(tmp_path / "run")
    save_policy(run.directory.checkpoints / "final", run.model, run.processor, template=TEMPLATE)
    assert run._restore() == 0
