"""Processes that die, raise, hang or disagree: a run ends with the weights of one without faults, or says what it is.

Faults strike at a set point of the run, once: a process that finds the fault's mark on disk goes on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, RayTaskError

from focus_agents.errors import TrainingError
from focus_agents.grpo.algorithm import GRPO
from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_agents.grpo.learner import GRPOTorchLearner
from focus_agents.grpo.learner_group import GRPOLearnerGroup
from focus_agents.grpo.rllib_compat import learner_actors
from tests.focus_agents.grpo import runs as grpo
from tests.focus_agents.grpo.runs import assert_equal, final_weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@dataclass(frozen=True)
class Fault:
    """`kind` strikes process `rank` in its second batch of iteration `iteration`, both counted from 0."""

    kind: str
    rank: int
    iteration: int
    mark: Path

    def strike(self) -> None:
        if self.mark.exists():
            return
        self.mark.touch()
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "hang":
            time.sleep(3600)
        raise ValueError("a fault of the test")


class FaultyLearner(GRPOTorchLearner):
    def update(self, *args: Any, **kwargs: Any) -> Any:
        self.num_batches = 0
        return super().update(*args, **kwargs)

    def compute_loss_for_module(self, **kwargs: Any) -> torch.Tensor:
        self.num_batches += 1
        for fault in self.config.learner_config_dict["faults"]:
            if (fault.rank, fault.iteration + 1, 2) == (self._learner_index, self._weights_seq_no, self.num_batches):
                fault.strike()
        return super().compute_loss_for_module(**kwargs)


class FaultyRunner(GRPOEnvRunner):
    """A validation is iteration -1 to it."""

    iteration = -1

    def make_module(self) -> None:
        super().make_module()
        for policy in (self.policy, self.validation_policy):
            policy.generate = self.striking(policy.generate)

    def striking(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """A policy's answers, with the faults that are due before them."""

        def faulty_generate(*args: Any, **kwargs: Any) -> Any:
            self.num_batches += 1
            for fault in self.config.learner_config_dict["faults"]:
                if (fault.rank, fault.iteration, 2) == (self.worker_index, self.iteration, self.num_batches):
                    fault.strike()
            return generate(*args, **kwargs)

        return faulty_generate

    def sample(self, *, iteration: int, **kwargs: Any) -> Any:
        self.num_batches, self.iteration = 0, iteration
        return super().sample(iteration=iteration, **kwargs)

    def validate(self, **kwargs: Any) -> Any:
        self.num_batches, self.iteration = 0, -1
        return super().validate(**kwargs)


class LonelyLearner(GRPOTorchLearner):
    """Takes no part in the exchange of gradients."""

    def build(self) -> None:
        super().build()
        for module in self.module.values():
            module.require_backward_grad_sync = False


def with_faulty_learners(policy: Path, faults: Sequence[Fault], *, num_learners: int, **training: Any) -> Any:
    """Two optimizer steps an iteration, so that a fault leaves half an update behind."""
    config = grpo.make_config(policy, num_learners=num_learners, groups_per_step=2, **training)
    return config.training(learner_class=FaultyLearner, learner_config_dict={"faults": list(faults)})


def kill_runners(algorithm: GRPO, ranks: Sequence[int]) -> None:
    """As soon as they are all alive."""
    group = algorithm.env_runner_group
    while not set(ranks) <= set(group.healthy_env_runner_ids()):
        time.sleep(0.5)
        algorithm.restore_env_runners(group)
    pids = group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False, remote_worker_ids=list(ranks))
    assert len(pids) == len(ranks)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_what_dying_runners_lose_is_sampled_again(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dies while it samples, one while the learner learns, both between iterations, one while it validates; one
    hangs for good, and is ended and replaced.

    Batches of two groups are dealt whole, so that a group sampled again has the same numerics; so has the update, since
    with `micro_batch_groups` the one process of the undisturbed run does not take over the sampler's forward pass.
    """
    schedule = {"lr": 1e-3, "num_iterations": 4, "warmup": 0.0, "cooldown": 1.0, "lr_end": 0.01}
    settings = {"rollout_batch_groups": 2, "micro_batch_groups": 5, **schedule}
    undisturbed = grpo.make_config(policy_folder, **settings).build_algo()
    expected_answers = undisturbed.validate(range(16))
    expected = final_weights(undisturbed, num_iterations=4)

    faults = [Fault("kill", 2, -1, tmp_path / "validating"), Fault("kill", 1, 0, tmp_path / "sampling")]
    faults.append(Fault("hang", 1, 2, tmp_path / "hanging"))
    config = grpo.make_config(policy_folder, num_env_runners=2, sample_timeout_s=15.0, **settings)
    config = config.env_runners(env_runner_cls=FaultyRunner).training(learner_config_dict={"faults": faults})
    algorithm = config.build_algo()
    assert algorithm.validate(range(16)) == expected_answers
    algorithm.train()
    with monkeypatch.context() as patch:
        update = algorithm.learner_group.update
        patch.setattr(algorithm.learner_group, "update", lambda **kw: (kill_runners(algorithm, [2]), update(**kw))[1])
        algorithm.train()
    algorithm.train()
    kill_runners(algorithm, [1, 2])
    assert_equal(final_weights(algorithm, num_iterations=1), expected)
    assert all(fault.mark.exists() for fault in faults)


def test_what_is_lost_while_it_is_sampled_ahead(policy_folder: Path, tmp_path: Path) -> None:
    """It is sampled again from the weights that it was asked for with, though the runners have newer ones by then."""
    settings = {"num_env_runners": 2, "rollout_batch_groups": 2, "async_steps": 1, "rollout_correction": "token_tis"}
    expected = final_weights(grpo.make_config(policy_folder, **settings).build_algo(), num_iterations=3)
    fault = Fault("kill", 1, 1, tmp_path / "ahead")
    config = grpo.make_config(policy_folder, **settings).env_runners(env_runner_cls=FaultyRunner)
    algorithm = config.training(learner_config_dict={"faults": [fault]}).build_algo()
    assert_equal(final_weights(algorithm, num_iterations=3), expected)
    assert fault.mark.exists()


def test_learners_are_rebuilt(policy_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of two is killed; then the other raises an error, which leaves its peer waiting. The towers are frozen."""
    settings = {"num_learners": 2, "lora_rank": 4, "kl_coeff": 0.1}
    faults = [Fault("kill", 1, 0, tmp_path / "first"), Fault("raise", 0, 1, tmp_path / "second")]
    expected = final_weights(with_faulty_learners(policy_folder, [], **settings).build_algo(), num_iterations=3)
    algorithm = with_faulty_learners(policy_folder, faults, **settings).build_algo()
    group = algorithm.learner_group
    weights = final_weights(algorithm, num_iterations=3)
    assert group.num_rebuilds == 2
    assert_equal(weights, expected)
    assert "attempt 1 failed: ValueError: a fault of the test" in caplog.text


def test_a_learner_that_hangs_or_dies_between_updates(policy_folder: Path, tmp_path: Path) -> None:
    """A single remote learner. What one of num_learners=0 does is the same to the bit."""
    settings = {"groups_per_step": 2, "lr": 1e-3}
    expected = final_weights(grpo.make_config(policy_folder, **settings).build_algo(), num_iterations=3)
    config = with_faulty_learners(policy_folder, [Fault("hang", 0, 0, tmp_path / "mark")], num_learners=1)
    algorithm = config.training(update_timeout_s=15.0).build_algo()
    algorithm.train()
    assert algorithm.learner_group.num_rebuilds == 1

    (pid,) = [result.get() for result in algorithm.learner_group.foreach_learner(lambda learner: os.getpid())]
    os.kill(pid, signal.SIGKILL)
    algorithm.save_to_path(tmp_path / "checkpoint")
    assert algorithm.learner_group.num_rebuilds == 2
    assert_equal(final_weights(algorithm, num_iterations=2), expected)

    resumed = grpo.make_config(policy_folder, **settings).build_algo()
    resumed.restore_from_path(tmp_path / "checkpoint")
    assert_equal(final_weights(resumed, num_iterations=2), expected)


def test_a_learner_that_dies_while_its_state_is_fetched(policy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state before is kept, and its update repeated, since the new state may be gone with its machine."""
    algorithm = grpo.make_config(policy_folder, num_learners=1, groups_per_step=2).build_algo()
    group, wait = algorithm.learner_group, ray.wait

    def kill_then_wait(objects: Sequence[Any], **kwargs: Any) -> Any:
        if len(objects) == 2 and not group.num_rebuilds:
            ray.kill(learner_actors(group)[0])
        return wait(objects, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ray, "wait", kill_then_wait)
        algorithm.train()
    assert group.num_rebuilds == 1
    assert_equal(
        final_weights(algorithm, num_iterations=0),
        final_weights(grpo.make_config(policy_folder, groups_per_step=2).build_algo(), num_iterations=1),
    )


class PretendedGroup(GRPOLearnerGroup):
    """Counts instead of starting processes."""

    def __init__(self) -> None:
        self.config = grpo.make_config(Path("tiny"), num_learners=2, max_update_attempts=3)
        self.num_rebuilds = self.num_kills = 0
        self._is_shut_down = True

    def _rebuild(self) -> None:
        self.num_rebuilds += 1

    def _kill(self) -> None:
        self.num_kills += 1


def test_learners_that_fail_again_and_again_end_the_run() -> None:
    group, attempts = PretendedGroup(), []

    def fail() -> None:
        attempts.append(group.num_rebuilds)
        raise ActorDiedError

    with pytest.raises(TrainingError, match=r"failed 3 times in a row.*ActorDiedError: .*newest checkpoint"):
        group._with_recovery(fail)
    assert attempts == [0, 1, 2]
    assert group.num_kills == 1


def test_a_learner_that_knows_the_cause_is_not_asked_again() -> None:
    group, attempts = PretendedGroup(), []

    def fail() -> None:
        attempts.append(group.num_rebuilds)
        raise RayTaskError("update", "traceback", TrainingError("settings that cannot work"))

    with pytest.raises(TrainingError, match=r"^settings that cannot work$"):
        group._with_recovery(fail)
    assert (attempts, group.num_kills) == ([0], 1)


def test_learners_that_do_not_exchange_gradients_are_found(policy_folder: Path) -> None:
    config = grpo.make_config(policy_folder, num_learners=2, lora_rank=4)
    algorithm = config.training(learner_class=LonelyLearner).build_algo()
    with pytest.raises(TrainingError, match=r"same on all 2 learners.*got others for \d+ of \d+ .*policy\..*lora_"):
        algorithm.train()
    assert algorithm.learner_group.num_rebuilds == 0
    algorithm.stop()
