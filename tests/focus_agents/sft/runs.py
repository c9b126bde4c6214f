"""Short runs of stage 1, and what they leave on disk."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from focus_agents.models.loading import load_model
from focus_agents.runs.folder import RunDirectory
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.settings import SFTConfig, SFTSchedule
from focus_agents.sft.train import Workers, train_sft
from focus_env.prompts import get_template
from focus_env.types import EpisodeDataset
from tests.fakes import FakeDataset

IN_PROCESS = Workers(num_workers=0)
EPISODES = FakeDataset(3, shots=1)


def make_plan(folder: Path, *, episodes: EpisodeDataset = EPISODES, **options: Any) -> SFTPlan:
    """A short run on three episodes; options go to the config, the schedule or the plan, by their names."""
    settings: dict[str, Any] = {"num_steps": 3, "batch_size": 3, "lr": 1e-3, "warmup": 0.0, "cooldown": 0.4}
    settings |= {"num_data_workers": 0, "max_completion_tokens": 3, "model": "tiny"}
    settings |= {"freeze_vision": False, "weight_decay": 0.0, "one_shot": 0.0, "attention_layers": "first:5", **options}
    config, schedule = (
        part(**{field.name: settings.pop(field.name) for field in dataclasses.fields(part) if field.name in settings})
        for part in (SFTConfig, SFTSchedule)
    )
    RunDirectory.create(folder, {"name": folder.name})
    return SFTPlan(
        template=get_template("compact"),
        training_episodes=episodes,
        validation_episodes=EPISODES,
        config=config,
        schedule=schedule,
        run_path=folder,
        **settings,
    )


class KeptLines:
    """A `Sink` that keeps what it is told."""

    name = "kept lines"

    def __init__(self) -> None:
        self.lines, self.is_closed = list[tuple[int, Mapping[str, float]]](), False

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        self.lines.append((position, metrics))

    def show(self, name: str, picture: Any, position: int) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


def train(plan: SFTPlan, workers: Workers = IN_PROCESS, sinks: Sequence[KeptLines] = ()) -> dict[str, Any]:
    return train_sft(plan, workers, console=Console(file=io.StringIO()), sinks=sinks)


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    model = load_model(str(folder / "checkpoints/final"))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def largest_difference(first: Path, second: Path) -> float:
    ours, theirs = parameters(first), parameters(second)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run without what the clock says, and what the machine does."""
    lines = RunDirectory(folder).read_steps()
    left_out = ("seconds", "seconds_validating", "examples_per_second", "worker_restarts")
    return [{k: v for k, v in line.items() if k not in left_out and not k.startswith("memory_gib")} for line in lines]
