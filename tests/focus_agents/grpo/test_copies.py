"""How often a process loads the weights: once, whatever answers and learns in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from focus_agents.grpo import module
from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_agents.grpo.named import NamedAlgorithm
from tests.focus_agents.grpo.learners import build_learner, module_of
from tests.focus_agents.grpo.runs import make_config

TINY = Path("tiny")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that modules have loaded."""
    models: list[Any] = []
    load = module.load_trainable_model

    def recorded(*args: Any, **kwargs: Any) -> Any:
        models.append(load(*args, **kwargs))
        return models[-1]

    monkeypatch.setattr(module, "load_trainable_model", recorded)
    return models


def make_runner(worker_index: int = 0) -> GRPOEnvRunner:
    return GRPOEnvRunner(config=make_config(TINY, max_completion_tokens=2), worker_index=worker_index)


def shared_by(sampling: Any, evaluating: Any, learned: Any, *, num_remote: int = 0) -> None:
    """What the setup of an algorithm does with these runners of its process."""
    groups = {
        "env_runner_group": SimpleNamespace(local_env_runner=sampling, num_remote_env_runners=lambda: num_remote),
        "eval_env_runner_group": evaluating and SimpleNamespace(local_env_runner=evaluating),
    }
    NamedAlgorithm.share_module(SimpleNamespace(**groups, learned_module=learned), reuses_prefill=True)  # type: ignore[arg-type]


def test_runners_in_the_learners_process_load_nothing(loaded: list[Any]) -> None:
    learned = module_of(build_learner())
    assert loaded == [learned.policy]
    sampling, evaluating = make_runner(), make_runner()
    # RLlib hands the learner's weights over before anything is shared.
    sampling.set_state({"rl_module": {"default_policy": learned.get_state()}, "weights_seq_no": 3})
    shared_by(sampling, evaluating, learned)
    assert sampling.sample(jobs=[(0, 3)], weights_seq_no=3)[0].generation.completions
    assert evaluating.evaluate(episode_indices=[0])
    assert sampling.module is evaluating.module is learned
    assert sampling.policy.model is evaluating.validation_policy.model is learned.policy
    assert (sampling._reuses_prefill, evaluating._reuses_prefill) == (True, False)
    assert loaded == [learned.policy]


def test_beside_remote_learners_one_runner_loads_for_all(loaded: list[Any]) -> None:
    sampling, evaluating = make_runner(), make_runner()
    assert loaded == []
    shared_by(sampling, evaluating, None)
    assert evaluating.module is sampling.module
    assert loaded == [sampling.module.policy]


def test_a_runner_beside_remote_ones_is_no_sampler(loaded: list[Any]) -> None:
    """Nobody brings its weights up to date, so none may answer by them."""
    sampling, evaluating = make_runner(), make_runner()
    shared_by(sampling, evaluating, None, num_remote=2)
    assert evaluating.module is not sampling.module
    shared_by(sampling, None, None)


def test_a_runner_of_its_own_process_loads_at_once(loaded: list[Any]) -> None:
    runner = make_runner(worker_index=1)
    assert loaded == [runner.module.policy]


def test_weights_that_came_before_the_module_are_in_it() -> None:
    runner = make_runner()
    trained = {name: value + 1 for name, value in make_runner(worker_index=1).module.get_state().items()}
    runner.set_state({"rl_module": {"default_policy": trained}, "weights_seq_no": 1})
    found = runner.module.get_state()
    assert found
    assert all(torch.equal(found[name], value) for name, value in trained.items())
    older = {name: value - 1 for name, value in trained.items()}
    runner.set_state({"rl_module": older, "weights_seq_no": 2})
    assert all(torch.equal(value, older[name]) for name, value in runner.module.get_state().items())


def test_answers_come_from_the_module_that_was_shared_last() -> None:
    runner, learned = make_runner(), module_of(build_learner())
    assert runner.policy.model is not learned.policy
    runner.share_module(learned, reuses_prefill=False)
    assert runner.policy.model is runner.validation_policy.model is learned.policy
