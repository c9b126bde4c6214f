"""GRPO under Ray Tune: trials run and are compared, callbacks called, checkpoints and experiments gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune

from focus_agents.grpo.algorithm import GRPO
from focus_env.metrics import summarize
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


def run_config(folder: Path, **settings: Any) -> tune.RunConfig:
    return tune.RunConfig(name="trials", storage_path=str(folder), verbose=0, **settings)


@pytest.mark.parametrize("setting", ["group_size", "lr"])
def test_two_trials_of_a_setting(policy_folder: Path, tmp_path: Path, setting: str) -> None:
    """Each trains with its own, evaluates, and stops by RLlib's names of what it earns."""
    values = {"group_size": [2, 4], "lr": [1e-3, 1e-5]}[setting]
    config = grpo.make_config(policy_folder, **{setting: tune.grid_search(values)})
    config.evaluation(evaluation_interval=1, evaluation_duration=4)
    stop = {"training_iteration": 2, "env_runners/episode_return_mean": 100.0, "num_env_steps_sampled_lifetime": 1000}
    outcomes = tune.Tuner(GRPO, param_space=config, run_config=run_config(tmp_path, stop=stop)).fit()
    assert outcomes.num_errors == 0
    trials = {outcome.config[setting]: outcome.metrics for outcome in outcomes}
    assert sorted(trials) == sorted(values)
    for value, metrics in trials.items():
        single = grpo.make_config(policy_folder, **{setting: value}).build_algo()
        for _ in range(2):
            alone = single.train()
        answers = single.validate(range(4))
        single.stop()
        assert metrics["training_iteration"] == 2
        assert metrics["env_runners"]["num_episodes"] == 5 * (value if setting == "group_size" else 3)
        assert metrics["env_runners"]["episode_return_mean"] == alone["env_runners"]["episode_return_mean"]
        assert metrics["rollouts"]["reward"] == alone["rollouts"]["reward"]
        assert metrics["evaluation"]["env_runners"]["miou"] == pytest.approx(summarize(answers)["miou_all"])
    best = outcomes.get_best_result("evaluation/env_runners/episode_return_mean", mode="max")
    assert best.config[setting] in values


class Interrupted(GRPO):
    """Is broken off once, in its second iteration."""

    def training_step(self) -> None:
        mark = Path(self.config.learner_config_dict["mark"])
        if self.iteration == 1 and not mark.exists():
            mark.touch()
            raise OSError("a fault of the test")
        super().training_step()


def test_an_experiment_is_gone_on_with(policy_folder: Path, tmp_path: Path) -> None:
    config = grpo.make_config(policy_folder, learner_config_dict={"mark": str(tmp_path / "mark")})
    settings = {"stop": {"training_iteration": 2}, "checkpoint_config": tune.CheckpointConfig(checkpoint_frequency=1)}
    tuner = tune.Tuner(Interrupted, param_space=config, run_config=run_config(tmp_path, **settings))
    (broken,) = tuner.fit()
    assert isinstance(broken.error, OSError)
    tuner = tune.Tuner.restore(str(tmp_path / "trials"), trainable=Interrupted, param_space=config, resume_errored=True)
    (mended,) = tuner.fit()
    assert mended.error is None
    straight = grpo.make_config(policy_folder).build_algo()
    for _ in range(2):
        expected = straight.train()
    straight.stop()
    assert mended.metrics["training_iteration"] == 2
    assert mended.metrics["rollouts"]["reward"] == expected["rollouts"]["reward"]
    assert mended.metrics["num_env_steps_sampled_lifetime"] == expected["num_env_steps_sampled_lifetime"]
