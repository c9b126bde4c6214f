"""A learner of the small model in this process, groups of its own answers, and the gradients of one update."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.env import INPUT_ENV_SPACES

from focus_agents.grpo.algorithm import GRPOConfig
from focus_agents.grpo.module import VLMModule
from focus_agents.grpo.selection import training_group
from focus_agents.grpo.steps import GroupTrainingData, TrainingGroup, plan_steps
from focus_agents.rollout.records import RolloutGroup, Sampling
from focus_env.env import observe
from focus_env.prompts import PromptTemplate, get_template
from tests.fakes import FakeDataset, make_episode
from tests.focus_agents.grpo.runs import CONSTANT_RATE

MODULE = "default_policy"
NUM_GROUPS, GROUP_SIZE = 4, 3


def build_learner(
    *, model_config: dict[str, Any] | None = None, template: PromptTemplate | None = None, **training: Any
) -> Any:
    """A learner in this process; `gradients` holds those of each optimizer step, before clipping."""
    config = (
        GRPOConfig()
        .environment(env_config={"dataset": FakeDataset(), "template": template or get_template("compact")})
        .training(
            **{"group_size": GROUP_SIZE, "groups_per_iteration": NUM_GROUPS, "lr": 1e-3, **CONSTANT_RATE, **training}
        )
        .rl_module(model_config={"model": "tiny", "freeze_vision": False} | (model_config or {}))
        .debugging(seed=0, log_level="ERROR")
    )
    config.validate()
    env = gymnasium.make(config.env, **config.env_config)
    spaces = (env.observation_space, env.action_space)
    learner = config.build_learner(spaces={INPUT_ENV_SPACES: spaces, MODULE: spaces})
    learner.build()
    learner.gradients = []
    postprocess = learner.postprocess_gradients

    def record(gradients: dict[Any, torch.Tensor]) -> dict[Any, torch.Tensor]:
        named = module_of(learner).policy.named_parameters()
        learner.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        return postprocess(gradients)

    learner.postprocess_gradients = record
    with torch.no_grad():  # wider than at random, so that answers differ and gradients are not all alike
        for name, parameter in module_of(learner).policy.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name and "lora_" not in name:
                parameter.mul_(3)
    if hasattr(module_of(learner), "reference"):
        module_of(learner).reference.load_state_dict(module_of(learner).policy.state_dict())
    return learner


def module_of(learner: Any) -> VLMModule:
    return learner.module[MODULE].unwrapped()


def sample_groups(learner: Any, **options: Any) -> list[TrainingGroup]:
    """Answers of the learner's own policy with made-up advantages; lengths differ, some answers are cut."""
    policy = module_of(learner).as_policy()
    for name, value in options.items():
        setattr(policy, name, value)
    template = get_template("compact")
    prompts = [template.render(observe(make_episode(n, shots=1 + n % 2))) for n in range(NUM_GROUPS)]
    generations = policy.generate(
        prompts, num_completions=GROUP_SIZE, sampling=Sampling(1.0, 7), seeds=list(range(NUM_GROUPS))
    )
    advantages = np.random.default_rng(0).normal(size=(NUM_GROUPS, GROUP_SIZE))
    groups = []
    for n, generation in enumerate(generations):
        completions = tuple(
            dataclasses.replace(c, token_ids=c.token_ids[: 3 + g + n], logprobs=c.logprobs[: 3 + g + n])
            for g, c in enumerate(generation.completions)
        )
        rollout = RolloutGroup(n, dataclasses.replace(generation, completions=completions), np.zeros(3), (), ())
        groups.append(training_group(rollout, advantages[n]))
    return groups


def update(learner: Any, groups: list[TrainingGroup], **plan: Any) -> dict[str, Any]:
    """One call of RLlib's `update`; returns its metrics."""
    steps = plan_steps(groups, num_learners=0, micro_batch_groups=learner.config.micro_batch_groups, **plan)
    results = learner.update(training_data=GroupTrainingData(groups=dict(enumerate(groups)), steps=steps))
    return {name: value.peek() for name, value in results[MODULE].items()}


def gradient_of(groups: list[TrainingGroup], *, plan: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    learner = build_learner(**training)
    update(learner, groups, **(plan or {}))
    return learner.gradients[0]


def assert_same(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert ours.keys() == expected.keys()
    for key in expected:
        assert (ours[key] - expected[key]).norm() <= tolerance * expected[key].norm(), key
