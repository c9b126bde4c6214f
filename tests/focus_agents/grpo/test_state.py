"""What of a policy and its optimizer travels and is stored: trained parameters only, in their own dtype, as copies."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import ray
import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import focus_env
from focus_agents.grpo.algorithm import GRPO, GRPOConfig
from focus_agents.grpo.module import VLMModule
from tests.focus_agents.grpo import runs as grpo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

TINY = Path("tiny")


class HalfPrecisionModule(VLMModule):
    """All parameters in bfloat16, the trained ones too."""

    def setup(self) -> None:
        super().setup()
        self.policy.to(torch.bfloat16)


def in_half_precision(config: GRPOConfig) -> GRPOConfig:
    return config.rl_module(rl_module_spec=RLModuleSpec(module_class=HalfPrecisionModule))


def spaces(config: GRPOConfig) -> dict[str, Any]:
    env = gymnasium.make(focus_env.ENV_ID, **config.env_config)
    return {grpo.MODULE: (env.observation_space, env.action_space)}


def build_module(config: GRPOConfig, *, inference_only: bool = False) -> Any:
    return config.get_rl_module_spec(spaces=spaces(config), inference_only=inference_only).build()


def build_learner(config: GRPOConfig) -> Any:
    return config.build_learner(spaces=spaces(config))


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_state_holds_the_trained_parameters_alone(lora_rank: int | None) -> None:
    config = grpo.make_config(TINY, lora_rank=lora_rank, kl_coeff=0.1)
    learning, sampling = build_module(config), build_module(config, inference_only=True)
    with torch.no_grad():
        for parameter in learning.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    state = learning.get_state(inference_only=True)
    assert state.keys() == {name for name, p in learning.named_parameters() if p.requires_grad}
    assert all(("lora_" in name) == (lora_rank is not None) for name in state)
    assert not any(name.startswith("reference") for name in state)
    sampling.set_state(state)
    theirs = sampling.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in learning.state_dict().items() if name in theirs)


def test_a_state_is_a_copy() -> None:
    module = build_module(grpo.make_config(TINY))
    state = module.get_state()
    kept = copy.deepcopy(state)
    other = build_module(grpo.make_config(TINY))
    other.set_state(state)
    with torch.no_grad():
        for changed in (module, other):
            for parameter in changed.parameters():
                parameter.add_(1.0)
    assert all(torch.equal(kept[name], state[name]) for name in kept)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_a_state_of_another_model_is_refused(fault: str) -> None:
    module = build_module(grpo.make_config(TINY, lora_rank=4))
    state = module.get_state()
    name = sorted(state)[0]
    if fault == "missing":
        del state[name]
    elif fault == "unknown":
        state["policy.other"] = state[name]
    else:
        state[name] = state[name][:1]
    with pytest.raises(ValueError, match="it belongs to another model or other adapters"):
        module.set_state(state)


def take_a_step(learner: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    (optimizer,) = learner._named_optimizers.values()
    for parameter in learner._params.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    optimizer.step()


def optimizer_tensors(learner: Any) -> list[torch.Tensor]:
    (optimizer,) = learner._named_optimizers.values()
    return [value for slots in optimizer.state_dict()["state"].values() for value in slots.values()]


def test_a_learner_in_bfloat16_goes_on_from_its_state() -> None:
    config = in_half_precision(grpo.make_config(TINY))
    learner = build_learner(config)
    take_a_step(learner, 0)
    state = pickle.loads(pickle.dumps(learner.get_state()))
    take_a_step(learner, 1)
    resumed = build_learner(config)
    resumed.set_state(state)
    take_a_step(resumed, 1)
    assert {t.dtype for t in optimizer_tensors(learner) if t.ndim} == {torch.bfloat16}
    for ours, theirs in (
        (optimizer_tensors(learner), optimizer_tensors(resumed)),
        (learner._params.values(), resumed._params.values()),
    ):
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_learners_do_not_share_an_optimizer_state() -> None:
    """As two learners on a machine would that read the same object of the object store."""
    config = grpo.make_config(TINY, lora_rank=4)
    source, first, second = (build_learner(config) for _ in range(3))
    take_a_step(source, 0)
    state = source.get_state()
    kept = copy.deepcopy(optimizer_tensors(source))
    first.set_state(state)
    second.set_state(state)
    take_a_step(first, 1)
    assert not all(map(torch.equal, optimizer_tensors(first), kept))
    assert all(map(torch.equal, optimizer_tensors(second), kept))
    assert all(map(torch.equal, optimizer_tensors(source), kept))


@pytest.mark.parametrize("choice", [True, False])
def test_a_learner_that_goes_on_scores_in_the_way_once_chosen(choice: bool) -> None:
    """On another group the comparison might come out otherwise."""
    learner, resumed = (build_learner(grpo.make_config(TINY)) for _ in range(2))
    learner._share_prefixes(choice)
    resumed.set_state(pickle.loads(pickle.dumps(learner.get_state())))
    assert resumed.module[grpo.MODULE].unwrapped().uses_shared_prefix is choice
    resumed._choose_path(None)  # it would look at the group


def test_a_run_in_bfloat16_is_resumed_bit_for_bit(policy_folder: Path, tmp_path: Path) -> None:
    """By RLlib's own `from_checkpoint`, which builds the algorithm out of the checkpoint alone."""
    straight = in_half_precision(grpo.make_config(policy_folder)).build_algo()
    start = grpo.weights(straight)
    straight.train()
    straight.save_to_path(tmp_path / "checkpoint")
    straight.train()
    resumed = GRPO.from_checkpoint(tmp_path / "checkpoint")
    resumed.train()
    ours, theirs = grpo.weights(straight), grpo.weights(resumed)
    straight.stop()
    resumed.stop()
    assert {value.dtype for value in ours.values()} == {torch.bfloat16}
    assert not all(torch.equal(ours[name], start[name]) for name in ours), "nothing was learned: nothing is proved"
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_do_not_pass_through_the_driver(policy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the learner to the runner, through the object store; the driver holds a reference."""
    seen: list[bool] = []
    get = ray.get

    def spy(*args: Any, **kwargs: Any) -> Any:
        value = get(*args, **kwargs)
        seen.append(has_weights(value))
        return value

    monkeypatch.setattr(ray, "get", spy)
    algorithm = grpo.make_config(policy_folder, num_env_runners=1, num_learners=1).build_algo()
    start = algorithm.env_runner_group.foreach_env_runner(runner_checksum, local_env_runner=False)
    algorithm.train()
    assert len(seen) > 5
    assert not any(seen)
    runners = algorithm.env_runner_group.foreach_env_runner(runner_checksum, local_env_runner=False)
    learned = grpo.weights(algorithm)
    assert any(seen), "the test cannot see weights"
    algorithm.stop()
    assert runners == [checksum(learned)] != start


def has_weights(value: Any) -> bool:
    if isinstance(value, dict):
        return any(str(key).startswith("policy.") for key in value) or any(map(has_weights, value.values()))
    return isinstance(value, list | tuple) and any(map(has_weights, value))


def checksum(state: dict[str, torch.Tensor]) -> float:
    return float(np.sum([value.double().abs().sum() for value in state.values()]))


def runner_checksum(runner: Any) -> float:
    return checksum(runner.module.get_state())
