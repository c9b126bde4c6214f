"""One Ray for a file's tests, and a small policy that has learned to answer in the format."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from rich.console import Console

from focus_agents.runs.folder import RunDirectory
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.settings import SFTConfig, SFTSchedule
from focus_agents.sft.train import Workers, train_sft
from tests.focus_agents.grpo.runs import TEMPLATE, episodes


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Eight pretended cores on this machine, until the file's tests are done."""
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def policy_folder(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that mostly answers in the format; with random weights every reward is 0 and nothing is learned."""
    plan = SFTPlan(
        model="tiny",
        template=TEMPLATE,
        training_episodes=episodes("train"),
        validation_episodes=episodes("val"),
        config=SFTConfig(num_steps=70, batch_size=12, lr=3e-3, beta=0.0, freeze_vision=False),
        schedule=SFTSchedule(num_validation_episodes=1, num_data_workers=0),
        run_path=RunDirectory.create(tmp_path_factory.mktemp("runs") / "warm", {}).path,
    )
    summary = train_sft(plan, Workers(num_workers=0), console=Console(file=io.StringIO()))
    return Path(summary["checkpoint"])
