"""The RLlib side: updates in one process and in several, what is sampled, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from focus_agents.grpo.algorithm import GRPOConfig
from focus_agents.models.loading import load_model
from focus_env.errors import DatasetError, RewardError
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Episode
from tests.focus_agents.grpo.runs import MODULE, make_config, weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

# Learners add up gradients in another order than one process does, and Adam's first step divides by their size.
TOPOLOGY_TOLERANCE = 2e-5


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.fixture(scope="module")
def one_process(policy_folder: Path):
    """The first update of a run in one process: weights before and after, sampled groups, validation answers."""
    algorithm = make_config(policy_folder).build_algo()
    before = weights(algorithm)
    answers = algorithm.validate(range(5))
    algorithm.train()
    result = before, weights(algorithm), algorithm.last_groups, answers
    algorithm.stop()
    return result


def test_an_update_changes_every_weight(one_process) -> None:
    before, after, groups, _ = one_process
    assert any(np.ptp(group.rewards) > 0 for group in groups), "nothing to learn from: the test would prove nothing"
    unchanged = [name for name in before if np.array_equal(before[name], after[name])]
    assert unchanged == []


@pytest.mark.parametrize(("num_env_runners", "num_learners"), [(1, 1), (2, 0), (0, 2), (2, 2)])
def test_processes_do_not_change_the_first_update(
    policy_folder: Path, one_process, num_env_runners: int, num_learners: int
) -> None:
    _, expected, expected_groups, expected_answers = one_process
    algorithm = make_config(policy_folder, num_env_runners=num_env_runners, num_learners=num_learners).build_algo()
    answers = algorithm.validate(range(5))
    algorithm.train()
    texts = [[c.text for c in group.generation.completions] for group in algorithm.last_groups]
    difference = largest_difference(weights(algorithm), expected)
    algorithm.stop()
    assert texts == [[c.text for c in group.generation.completions] for group in expected_groups]
    assert answers == expected_answers
    assert difference < TOPOLOGY_TOLERANCE


def test_two_learners_with_a_frozen_base(policy_folder: Path) -> None:
    """Adapters alone are trained and exchanged, after the last of several micro-batches; the reference is the base."""
    settings = {"lora_rank": 4, "kl_coeff": 0.1, "micro_batch_groups": 2, "num_passes": 2}
    updated = []
    for num_learners in (0, 2):
        algorithm = make_config(policy_folder, num_learners=num_learners, **settings).build_algo()
        algorithm.train()
        updated.append(weights(algorithm))
        algorithm.stop()
    assert updated[0]
    assert all("lora_" in name for name in updated[0])
    assert largest_difference(*updated) < TOPOLOGY_TOLERANCE


def test_micro_batches_and_iterations(policy_folder: Path, one_process) -> None:
    """Micro-batches do not change an update; a second pass over the same groups does."""
    _, expected, _, _ = one_process
    algorithm = make_config(policy_folder, micro_batch_groups=2).build_algo()
    algorithm.train()
    assert largest_difference(weights(algorithm), expected) < TOPOLOGY_TOLERANCE
    algorithm.stop()
    algorithm = make_config(policy_folder, num_passes=2, groups_per_step=2).build_algo()
    algorithm.train()
    assert largest_difference(weights(algorithm), expected) > 10 * TOPOLOGY_TOLERANCE
    algorithm.stop()


@pytest.mark.parametrize("num_processes", [0, 1])
def test_a_resumed_run_equals_an_uninterrupted_one(policy_folder: Path, tmp_path: Path, num_processes: int) -> None:
    topology = {"num_env_runners": num_processes, "num_learners": num_processes}
    straight = make_config(policy_folder, **topology).build_algo()
    for _ in range(2):
        straight.train()
    straight.save_to_path(tmp_path / "checkpoint")
    for _ in range(2):
        straight.train()
    resumed = make_config(policy_folder, **topology).build_algo()
    resumed.restore_from_path(tmp_path / "checkpoint")
    for _ in range(2):
        resumed.train()
    indices = [[group.episode_index for group in algorithm.last_groups] for algorithm in (straight, resumed)]
    assert indices[0] == indices[1]
    assert largest_difference(weights(straight), weights(resumed)) == 0
    straight.stop()
    resumed.stop()


def texts_of(algorithm) -> list[list[str]]:
    return [[c.text for c in group.generation.completions] for group in algorithm.last_groups]


def test_sampling_ahead_is_one_update_behind(policy_folder: Path, one_process, tmp_path: Path) -> None:
    """The first two iterations sample from the same weights; a run that goes on has the groups sampled ahead."""
    _, _, expected_groups, _ = one_process
    settings = {"async_steps": 1, "rollout_correction": "token_tis"}
    straight = make_config(policy_folder, num_env_runners=1, **settings).build_algo()
    results = [straight.train()]
    assert texts_of(straight) == [[c.text for c in group.generation.completions] for group in expected_groups]
    results.append(straight.train())
    straight.save_to_path(tmp_path / "checkpoint")
    results.append(straight.train())
    gaps = [float(result["learners"][MODULE]["sampler_gap"]) for result in results]
    assert gaps[0] < 1e-5
    assert min(gaps[1:]) > 1e-3
    other = make_config(policy_folder, num_env_runners=2, **settings).build_algo()
    other.restore_from_path(tmp_path / "checkpoint")
    other.train()
    assert texts_of(other) == texts_of(straight)
    assert largest_difference(weights(other), weights(straight)) == 0
    straight.stop()
    other.stop()


def test_refilling_replaces_groups_without_signal(policy_folder: Path) -> None:
    """With a tolerance that half of the groups do not reach."""
    probe = make_config(policy_folder, groups_per_iteration=8).build_algo()
    probe.train()
    tolerance = float(np.median([np.ptp(group.rewards) for group in probe.last_groups]))
    assert tolerance > 0
    silent = sum(np.ptp(group.rewards) <= tolerance for group in probe.last_groups)
    assert 0 < silent < 8
    settings = {"groups_per_iteration": 8, "signal_tolerance": tolerance, "zero_variance": "refill", "max_refills": 20}
    algorithm = make_config(policy_folder, **settings).build_algo()
    algorithm.train()
    assert len(algorithm.last_groups) == 8
    assert all(np.ptp(group.rewards) > tolerance for group in algorithm.last_groups)
    kept = [
        texts
        for texts, group in zip(texts_of(probe), probe.last_groups, strict=True)
        if np.ptp(group.rewards) > tolerance
    ]
    assert texts_of(algorithm)[: len(kept)] == kept
    used = {group.episode_index for group in algorithm.last_groups}
    algorithm.train()
    assert not used & {group.episode_index for group in algorithm.last_groups}, "episodes were drawn twice"
    probe.stop()
    algorithm.stop()


def test_one_process_has_one_model(policy_folder: Path) -> None:
    """Sampling and learning share the weights, and the forward pass over the prompts, and let go of it."""
    algorithm = make_config(policy_folder).build_algo()
    learner = algorithm.learner_group._learner.module[MODULE].unwrapped()
    assert algorithm.env_runner_group.local_env_runner.module is learner
    rows: list[int] = []
    visual = learner.policy.model.visual
    with visual.register_forward_hook(lambda *_: rows.append(1)):
        algorithm.train()
        first = len(rows)
        algorithm.train()
    assert first == 3 + 2, "three sampling batches, and the comparison of both ways at the first update"
    assert len(rows) == first + 3
    assert all(group.generation.prefix is None for group in algorithm.last_groups)
    algorithm.stop()


def test_kl_starts_at_zero_and_grows(policy_folder: Path) -> None:
    algorithm = make_config(policy_folder, kl_coeff=0.1).build_algo()
    kls = [float(algorithm.train()["learners"][MODULE]["kl"]) for _ in range(3)]
    algorithm.stop()
    assert kls[0] == pytest.approx(0, abs=1e-6)
    assert kls[-1] > 1e-4


def test_adapters_train_and_travel_alone(policy_folder: Path, tmp_path: Path) -> None:
    algorithm = make_config(policy_folder, lora_rank=4, kl_coeff=0.1).build_algo()
    start = load_model(str(policy_folder)).state_dict()
    first = algorithm.train()["learners"][MODULE]
    assert float(first["kl"]) == pytest.approx(0, abs=1e-6)
    state = weights(algorithm)
    assert state
    assert all("lora_" in name for name in state)
    saved = load_model(str(algorithm.save_policy(tmp_path / "policy"))).state_dict()
    algorithm.stop()
    changed = {name for name in start if not torch.equal(start[name], saved[name])}
    assert changed == {name for name in start if name.endswith("_proj.weight")}


def test_runners_refuse_to_sample_from_stale_weights(policy_folder: Path) -> None:
    algorithm = make_config(policy_folder).build_algo()
    with pytest.raises(RuntimeError, match="stale weights: expected number 7"):
        algorithm.env_runner_group.local_env_runner.sample(jobs=[(0, 0)], iteration=0, weights_seq_no=7)
    algorithm.stop()


def with_reward(config: GRPOConfig, reward: WeightedReward) -> GRPOConfig:
    environment = {**config.env_config, "reward": reward}
    return config.environment(env_config=environment).validation(env_config=environment)


def told_progress(answers: AnswerBatch) -> np.ndarray:
    return np.full(len(answers), answers.progress)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_env_runners": 2, "groups_per_step": 3, "num_passes": 2},
        {"num_env_runners": 2, "async_steps": 1, "rollout_correction": "token_tis"},
    ],
    ids=["one process", "two runners", "two runners, ahead of the update"],
)
def test_all_runners_know_how_far_the_training_is(settings: dict) -> None:
    """Two planned iterations and one more; sampled ahead or not, the groups are of the iteration that learns."""
    config = make_config(Path("tiny"), num_iterations=2, **settings)
    algorithm = with_reward(config, WeightedReward({"told": (told_progress, 1.0)})).build_algo()
    told = []
    for _ in range(3):
        algorithm.train()
        told.append({terms["told"] for group in algorithm.last_groups for terms in group.reward_terms})
    algorithm.stop()
    assert told == [{0.0}, {0.5}, {1.0}]


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({}, [0, 0.001, 0.1]),
        ({"num_iterations": 10}, [0, 0.1, 1]),
        ({"num_iterations": 40, "groups_per_step": 2}, [0, 1 / 40, 1]),
        ({"num_iterations": 60, "groups_per_step": 2, "num_passes": 2}, [0, 1 / 60, 1]),
    ],
)
def test_progress_is_the_share_of_the_planned_iterations(training: dict, expected: list[float]) -> None:
    """Five groups in an iteration."""
    config = make_config(Path("tiny"), **training)
    assert [config.settings.progress_at(iteration) for iteration in (0, 1, 100)] == pytest.approx(expected)


def fails(answers: AnswerBatch) -> np.ndarray:
    raise KeyError("what I looked for")


@pytest.mark.parametrize("num_env_runners", [0, 2])
def test_an_error_of_a_reward_reaches_the_driver_at_once(num_env_runners: int) -> None:
    """Whole, and nobody is started again for it."""
    config = make_config(Path("tiny"), num_env_runners=num_env_runners)
    algorithm = with_reward(config, WeightedReward({"mine": (fails, 1.0)})).build_algo()
    message = r"^reward term 'mine' raised KeyError: 'what I looked for' \(.*test_algorithm.py, line \d+\), for episode"
    for call in (algorithm.train, lambda: algorithm.validate(range(3))):
        with pytest.raises(RewardError, match=message) as caught:
            call()
        assert type(caught.value) is RewardError
    if num_env_runners:
        assert algorithm.env_runner_group.num_healthy_remote_workers() == num_env_runners
        assert algorithm.env_runner_group.num_remote_worker_restarts() == 0
    algorithm.stop()


class WithABrokenFile(list):
    """Episodes, of which none can be read."""

    def __getitem__(self, index: int) -> Episode:
        raise DatasetError(f"picture {index}: expected a whole picture")


@pytest.mark.parametrize("num_env_runners", [0, 2])
def test_an_episode_that_cannot_be_read_reaches_the_driver_at_once(num_env_runners: int) -> None:
    config = make_config(Path("tiny"), num_env_runners=num_env_runners)
    config.environment(env_config={**config.env_config, "dataset": WithABrokenFile(range(500))})
    algorithm = config.build_algo()
    with pytest.raises(DatasetError, match=r"^picture \d+: expected a whole picture$"):
        algorithm.train()
    if num_env_runners:
        assert algorithm.env_runner_group.num_remote_worker_restarts() == 0
    algorithm.stop()


def test_grpo_raises_the_reward(policy_folder: Path) -> None:
    """From a policy that guesses boxes: the learner finds better guesses.

    Without learning, means over five iterations vary by 0.03.
    """
    algorithm = make_config(policy_folder, group_size=8, groups_per_iteration=16, lr=3e-4).build_algo()
    rewards = [float(algorithm.train()["rollouts"]["reward"]) for _ in range(40)]
    algorithm.stop()
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.05


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"group_size": 1}, "group_size: expected 2 or more, got 1"),
        ({"groups_per_iteration": 0}, "groups_per_iteration: expected 1 or more, got 0"),
        ({"temperature": 0.0}, "temperature: expected more than 0"),
        ({"num_learners": 2, "groups_per_step": 1}, "groups_per_step: expected at least one group for each of 2"),
        ({"num_learners": 6}, "groups_per_iteration: expected 6 or more, got 5"),
        (
            {"num_env_runners": 4},
            "rollout_batch_groups: expected a batch for each of 4 EnvRunners, got 2, which makes 3",
        ),
        ({"async_steps": 1}, "async_steps: expected 0 where sampling has no process of its own"),
        ({"async_steps": 2, "num_env_runners": 1}, "async_steps: expected 0 or 1, got 2"),
        ({"async_steps": 1, "num_env_runners": 1, "zero_variance": "refill"}, "async_steps: expected 0 with zero_var"),
        ({"zero_variance": "skip"}, "zero_variance: expected one of keep, drop, refill, got 'skip'"),
        ({"shared_prefix": True}, "shared_prefix: expected one of auto, on, off, got True"),
        ({"advantage_scale": "std"}, "advantage_scale: expected one of group, batch, none, got 'std'"),
        ({"rollout_correction": "tis"}, "rollout_correction: expected one of none, token_tis, seq_mask, got 'tis'"),
        ({"truncated": "drop"}, "truncated: expected one of keep, mask, got 'drop'"),
        ({"loss": "ppo"}, "loss: expected one of grpo, dapo"),
        ({"delta": 1.1}, r"delta: expected None or more than 1 \+ clip_high"),
        ({"signal_tolerance": -1.0}, r"signal_tolerance: expected 0 or more, got -1\.0"),
        ({"correction_cap": 0.0}, r"correction_cap: expected more than 0, got 0\.0"),
    ],
)
def test_wrong_settings_are_named(training: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(Path("tiny"), **training).validate()
