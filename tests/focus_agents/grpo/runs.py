"""Short runs of GRPO on synthetic episodes, and the weights that they end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from focus_agents.grpo.algorithm import GRPO, GRPOConfig
from focus_env.datasets import SyntheticDataset
from focus_env.prompts import get_template

TEMPLATE = get_template("compact")
MODULE = "default_policy"


def episodes(split: str) -> SyntheticDataset:
    return SyntheticDataset(split=split, shots=1, level=1, image_size=56, num_episodes=500)


CONSTANT_RATE = {"warmup": 0.0, "cooldown": 0.0}


def make_config(policy: Path, *, num_env_runners: int = 0, num_learners: int = 0, **training: Any) -> GRPOConfig:
    lora_rank = training.pop("lora_rank", None)
    settings = {"group_size": 3, "groups_per_iteration": 5, "max_completion_tokens": 26, "lr": 1e-3}
    settings |= {"rollout_batch_groups": 2, **CONSTANT_RATE, **training}
    return (
        GRPOConfig()
        .environment(env_config={"dataset": episodes("train"), "template": TEMPLATE})
        .validation(env_config={"dataset": episodes("val"), "template": TEMPLATE})
        .env_runners(num_env_runners=num_env_runners, create_local_env_runner=num_env_runners == 0)
        .learners(num_learners=num_learners)
        .training(**settings)
        .rl_module(model_config={"model": str(policy), "lora_rank": lora_rank, "freeze_vision": False})
        .debugging(seed=0, log_level="ERROR")
    )


def weights(algorithm: GRPO) -> dict[str, np.ndarray]:
    return algorithm.learner_group.get_weights()[MODULE]


def final_weights(algorithm: GRPO, *, num_iterations: int) -> dict[str, torch.Tensor]:
    for _ in range(num_iterations):
        algorithm.train()
    found = weights(algorithm)
    algorithm.stop()
    return found


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
