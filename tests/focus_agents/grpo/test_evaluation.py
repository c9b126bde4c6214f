"""RLlib's own evaluation: the answers of `GRPO.validate`, by the weights just trained, where RLlib's users look."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.grpo import module
from focus_agents.grpo.algorithm import GRPO, GRPOConfig
from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_env.datasets import SyntheticDataset
from focus_env.errors import DatasetError
from focus_env.metrics import ScoredAnswer, summarize
from focus_env.types import Episode
from tests.focus_agents.grpo.runs import TEMPLATE, make_config, weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

TINY = Path("tiny")
NUM_EPISODES = 7
"""In batches of four, so that two runners have different shares."""


def evaluated(config: GRPOConfig, **settings: Any) -> GRPOConfig:
    return config.evaluation(**{"evaluation_interval": 1, "evaluation_duration": NUM_EPISODES, **settings})


def results(result: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in result["evaluation"]["env_runners"].items()}


def expected_results(answers: list[ScoredAnswer]) -> dict[str, float]:
    """With the default reward: IoU, and half a point for the format."""
    rewards = [answer.credit + 0.5 * answer.is_strict for answer in answers]
    scores = summarize(answers)
    return {
        "episode_return_mean": float(np.mean(rewards)),
        "episode_return_min": min(rewards),
        "episode_return_max": max(rewards),
        "episode_len_mean": 1,
        "episode_len_min": 1,
        "episode_len_max": 1,
        "num_episodes": len(answers),
        "num_env_steps_sampled": len(answers),
        "miou": scores["miou_all"],
        "parse_rate": scores["parse_rate"],
    }


@pytest.mark.parametrize(
    ("num_evaluation_runners", "num_env_runners", "num_learners"), [(0, 0, 0), (2, 0, 0), (0, 1, 0), (1, 1, 1)]
)
def test_an_evaluation_answers_as_a_validation_does(
    policy_folder: Path, num_evaluation_runners: int, num_env_runners: int, num_learners: int
) -> None:
    """After each of two updates, and it changes nothing about the training."""
    topology = {"num_env_runners": num_env_runners, "num_learners": num_learners}
    config = evaluated(make_config(policy_folder, **topology), evaluation_num_env_runners=num_evaluation_runners)
    algorithm, plain = config.build_algo(), make_config(policy_folder, **topology).build_algo()
    seen = []
    for _ in range(2):
        result = algorithm.train()
        answers = algorithm.validate(range(NUM_EPISODES))
        assert algorithm.last_evaluation == answers
        assert results(result) == pytest.approx(expected_results(answers))
        seen.append(answers)
        plain.train()
    assert seen[0] != seen[1], "the update changed no answer: nothing is proved"
    ours, theirs = weights(algorithm), weights(plain)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    algorithm.stop()
    plain.stop()


@pytest.mark.parametrize("num_env_runners", [0, 1])
def test_an_evaluation_by_hand_starts_again_each_time(policy_folder: Path, num_env_runners: int) -> None:
    """Without settings of an evaluation, in the training's own runners; ten episodes are RLlib's default."""
    algorithm = make_config(policy_folder, num_env_runners=num_env_runners).build_algo()
    first, second = algorithm.evaluate(), algorithm.evaluate()
    answers = algorithm.validate(range(10))
    algorithm.stop()
    assert algorithm.last_evaluation == answers
    assert first["env_runners"] == second["env_runners"]
    assert results({"evaluation": first}) == pytest.approx(expected_results(answers))


def test_the_callbacks_and_the_interval_are_rllibs(policy_folder: Path) -> None:
    calls: list[str] = []
    config = evaluated(make_config(policy_folder), evaluation_interval=2, evaluation_duration_unit="timesteps")
    config.callbacks(
        on_evaluate_start=lambda **kwargs: calls.append("start"),
        on_evaluate_end=lambda *, evaluation_metrics, **kwargs: calls.append(evaluation_metrics["env_runners"]),
    )
    algorithm = config.build_algo()
    assert "evaluation" not in algorithm.train()
    assert calls == []
    result = algorithm.train()
    algorithm.stop()
    assert calls == ["start", result["evaluation"]["env_runners"]]
    assert results(result)["num_episodes"] == NUM_EPISODES


def test_one_process_has_one_model(policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded once, and once more only where adapters are merged, which uses up what they are merged into."""
    loads: list[Any] = []
    load = module.load_trainable_model
    monkeypatch.setattr(module, "load_trainable_model", lambda *a, **k: loads.append(a) or load(*a, **k))
    algorithm = evaluated(make_config(policy_folder, lora_rank=2)).build_algo()
    learner = algorithm.learner_group._learner.module["default_policy"].unwrapped()
    assert algorithm.eval_env_runner.module is learner
    assert algorithm.env_runner.module is learner
    algorithm.validate(range(2))
    algorithm.evaluate()
    before = weights(algorithm)
    algorithm.save_policy(tmp_path / "adapter", form="adapter")
    assert len(loads) == 1
    algorithm.save_policy(tmp_path / "merged", form="merged")
    assert len(loads) == 2
    after = weights(algorithm)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    algorithm.stop()


def few_episodes(prefix: int) -> SyntheticDataset:
    return SyntheticDataset(split="val", shots=1, level=1, image_size=56, num_episodes=3, seed=prefix)


@pytest.mark.parametrize(
    ("validation", "override", "expected"),
    [(None, None, 0), (1, None, 1), (None, 2, 2), (1, 2, 2)],
    ids=["training data", "validation data", "override of the training data", "override of the validation data"],
)
def test_which_episodes_are_evaluated(validation: int | None, override: int | None, expected: int) -> None:
    """All of them where there are fewer than asked for."""
    config = evaluated(make_config(TINY)).environment(env_config={"dataset": few_episodes(0)})
    environment = None if validation is None else {"dataset": few_episodes(validation), "template": TEMPLATE}
    config.validation(env_config=environment)
    if override is not None:
        config.evaluation(evaluation_config={"env_config": {"dataset": few_episodes(override)}, "explore": False})
    algorithm = config.build_algo()
    algorithm.evaluate()
    assert [answer.target_box for answer in algorithm.last_evaluation] == [
        episode.target_box for episode in few_episodes(expected)
    ]
    assert algorithm.eval_env_runner.env.get_wrapper_attr("template") == TEMPLATE
    algorithm.stop()


def test_nothing_is_lost_with_a_runner(policy_folder: Path) -> None:
    """Both are killed between evaluations; the user's callback hears of their heirs."""
    recreated: dict[int, bool] = {}
    config = evaluated(make_config(policy_folder), evaluation_num_env_runners=2).callbacks(
        on_env_runners_recreated=lambda *, env_runner_indices, is_evaluation, **kwargs: recreated.update(
            dict.fromkeys(env_runner_indices, is_evaluation)
        )
    )
    algorithm = config.build_algo()
    before = algorithm.evaluate()
    for pid in algorithm.eval_env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False):
        os.kill(pid, signal.SIGKILL)
    after = algorithm.evaluate()
    assert algorithm.last_evaluation == algorithm.validate(range(NUM_EPISODES))
    assert after["env_runners"] == before["env_runners"]
    assert recreated
    assert recreated.items() <= {1: True, 2: True}.items()
    algorithm.stop()


class SlowRunner(GRPOEnvRunner):
    """Takes its time over an evaluation's weights."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        if self.config.in_evaluation:
            time.sleep(8.0)
        super().set_state(state)


def test_weights_arrive_behind_others_that_are_still_on_their_way(policy_folder: Path) -> None:
    """RLlib drops the newer ones."""
    config = evaluated(make_config(policy_folder), evaluation_num_env_runners=1)
    algorithm = config.env_runners(env_runner_cls=SlowRunner).build_algo()
    algorithm.eval_env_runner_group.sync_weights(
        from_worker_or_learner_group=algorithm.learner_group, inference_only=True
    )
    algorithm.train()
    assert algorithm.last_evaluation == algorithm.validate(range(NUM_EPISODES))
    assert algorithm.eval_env_runner_group.num_remote_worker_restarts() == 0
    algorithm.stop()


class WithABrokenFile(list[int]):
    """Episodes, of which none can be read."""

    def __getitem__(self, index: Any) -> Episode:
        raise DatasetError(f"picture {index}: expected a whole picture")


@pytest.mark.parametrize("num_evaluation_runners", [0, 1])
def test_an_episode_that_cannot_be_read_reaches_the_driver_at_once(num_evaluation_runners: int) -> None:
    config = evaluated(make_config(TINY), evaluation_num_env_runners=num_evaluation_runners)
    config.evaluation(evaluation_config={"env_config": {"dataset": WithABrokenFile(range(5))}})
    algorithm = config.build_algo()
    with pytest.raises(DatasetError, match=r"^picture 0: expected a whole picture$"):
        algorithm.train()
    if num_evaluation_runners:
        assert algorithm.eval_env_runner_group.num_remote_worker_restarts() == 0
    algorithm.stop()


@pytest.mark.parametrize(
    ("num_env_runners", "evaluates_first", "evaluates_then"), [(0, False, True), (0, True, False), (1, True, True)]
)
def test_a_checkpoint_needs_no_evaluation(
    policy_folder: Path, tmp_path: Path, num_env_runners: int, evaluates_first: bool, evaluates_then: bool
) -> None:
    """A run that evaluates goes on from one that does not, and the other way round."""
    ends = []
    for interrupted in (False, True):
        config = make_config(policy_folder, num_env_runners=num_env_runners)
        algorithm = (evaluated(config) if evaluates_first else config).build_algo()
        algorithm.train()
        if interrupted:
            algorithm.save_to_path(tmp_path)
            algorithm.stop()
            config = make_config(policy_folder, num_env_runners=num_env_runners)
            algorithm = (evaluated(config) if evaluates_then else config).build_algo()
            algorithm.restore_from_path(tmp_path)
        result = algorithm.train()
        ends.append(weights(algorithm))
        if interrupted and evaluates_then:
            answers = algorithm.validate(range(NUM_EPISODES))
            assert algorithm.last_evaluation == answers
            assert results(result) == pytest.approx(expected_results(answers))
        algorithm.stop()
    assert not (tmp_path / "eval_env_runner").exists()
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_runner_without_jobs_says_whom_to_ask() -> None:
    algorithm = make_config(TINY).build_algo()
    with pytest.raises(TypeError, match=r"sample: expected jobs, got None; .*call `GRPO\.evaluate`"):
        algorithm.env_runner.sample(num_episodes=3)
    with pytest.raises(RuntimeError, match="stale weights: expected number 7"):
        algorithm.env_runner.evaluate(episode_indices=[0], weights_seq_no=7)
    algorithm.stop()


def test_a_users_own_evaluation_is_called_instead(policy_folder: Path) -> None:
    asked = []

    def own(algorithm: GRPO, group: Any) -> tuple[dict[str, Any], int, int]:
        asked.append(group.local_env_runner.evaluate(episode_indices=[3]))
        return {}, 1, 1

    algorithm = evaluated(make_config(policy_folder), custom_evaluation_function=own).build_algo()
    algorithm.train()
    ((reward, answer),) = asked[0]
    assert [answer] == algorithm.validate([3])
    assert reward == pytest.approx(answer.credit + 0.5 * answer.is_strict)
    algorithm.stop()


@pytest.mark.parametrize("setting", ["min_sample_timesteps_per_iteration", "min_train_timesteps_per_iteration"])
def test_rewards_of_training_stand_under_rllibs_names(policy_folder: Path, setting: str) -> None:
    """Of two training steps, where RLlib is asked for more samples than one of them makes."""
    algorithm = make_config(policy_folder).reporting(**{setting: 20}).build_algo()
    rewards: list[float] = []
    step = algorithm.training_step
    algorithm.training_step = lambda: (step(), rewards.extend(r for g in algorithm.last_groups for r in g.rewards))[0]
    for iteration in (1, 2):
        rewards.clear()
        result = algorithm.train()
        assert len(rewards) == 2 * 5 * 3
        ours = result["env_runners"]
        assert ours["episode_return_mean"] == pytest.approx(np.mean(rewards))
        assert (ours["episode_return_min"], ours["episode_return_max"]) == (min(rewards), max(rewards))
        assert (ours["episode_len_mean"], ours["num_episodes"], ours["num_env_steps_sampled"]) == (1, 30, 30)
        assert result["num_env_steps_sampled_lifetime"] == 30 * iteration
    algorithm.stop()


@pytest.mark.parametrize(
    "training", [{"grad_clip": None}, {"grad_clip": 0.1, "grad_clip_by": "value"}, {"grad_clip": 0.1}], ids=str
)
def test_the_norm_of_the_gradient_is_measured_however_it_is_clipped(policy_folder: Path, training: dict) -> None:
    algorithm = make_config(policy_folder, **training).build_algo()
    norm = algorithm.train()["learners"]["default_policy"]["gradients_default_optimizer_global_norm"]
    algorithm.stop()
    assert 0 < float(norm) < np.inf
