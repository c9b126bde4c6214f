"""GRPO as a trial of Ray Tune: it runs, its callbacks are called, and its checkpoint is like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune

from focus_agents.grpo.algorithm import GRPO
from tests.focus_agents.grpo import runs as grpo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def note(*, algorithm: GRPO, result: dict[str, Any], **kwargs: Any) -> None:
    result["num_groups"] = len(algorithm.last_groups)


def test_a_trial_of_two_iterations_is_gone_on_with(policy_folder: Path, tmp_path: Path) -> None:
    config = grpo.make_config(policy_folder, lr=tune.grid_search([1e-3])).callbacks(on_train_result=note)
    tuner = tune.Tuner(
        GRPO,
        param_space=config,
        run_config=tune.RunConfig(
            name="trial",
            storage_path=str(tmp_path),
            stop={"training_iteration": 2},
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
            verbose=0,
        ),
    )
    (outcome,) = tuner.fit()
    assert outcome.error is None
    assert (outcome.metrics["training_iteration"], outcome.metrics["num_groups"]) == (2, 5)
    assert 0 < outcome.metrics["rollouts"]["reward"] < 1.5

    resumed = GRPO.from_checkpoint(outcome.checkpoint.path)
    straight = grpo.make_config(policy_folder).build_algo()
    resumed.train()
    for _ in range(3):
        straight.train()
    ours, theirs = grpo.weights(resumed), grpo.weights(straight)
    resumed.stop()
    straight.stop()
    assert resumed.training_iteration == 3
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
