"""RLlib's PPO, as it is, in the environment: pictures in, four floats out.

How to run:
    python experiments/examples/ppo_rllib.py --level 1 --num-iterations 20

Each step is an episode. Prints the mean reward, IoU + 0.5 * [the four floats are a box], of each iteration's episodes.
On 500 validation scenes of level 1, likeliest actions earned 0.00 before and 0.76 after 3,600 episodes, 110 s of CPU
time; the best constant box earns 0.77 there (one run, seed 0), so that much training does not localize yet.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import ray
import tyro
from gymnasium.wrappers import DtypeObservation, RescaleObservation
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune import register_env

from focus_agents.cli.command_line import quiet_libraries
from focus_env import ENV_ID, FixedSizeObservation, SingleImageObservation


@dataclass(frozen=True, kw_only=True)
class Args:
    """PPO of RLlib."""

    num_iterations: int = 20
    """Updates."""
    episodes_per_iteration: int = 512
    """Episodes of an update."""
    num_env_runners: int = 0
    """Processes that play beside the one that learns; 0: it plays as well."""
    level: int = 1
    """Difficulty of the scenes, from 1 (one object) to 5."""
    shots: int = 1
    """Support pictures per episode."""
    image_size: int = 64
    """Side of the pictures in pixels; RLlib has encoders for 64, 84 and 96."""
    seed: int = 0
    """Seed of weights, actions and episodes."""


def make_env(config: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    level, shots, image_size = (config[name] for name in ("level", "shots", "image_size"))
    data = {"split": "train", "level": level, "shots": shots, "image_size": image_size}
    env = gymnasium.make(ENV_ID, dataset_options=data, action_type="box")
    env = SingleImageObservation(FixedSizeObservation(env, shots=shots, image_size=image_size))
    # RLlib's encoder takes numbers as they are.
    return RescaleObservation(DtypeObservation(env, np.float32), np.float32(-1), np.float32(1))


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    quiet_libraries()
    register_env("in_context_localization", make_env)
    config = (
        PPOConfig()
        .environment("in_context_localization", env_config=dataclasses.asdict(args))
        .env_runners(num_env_runners=args.num_env_runners)
        .training(train_batch_size_per_learner=args.episodes_per_iteration, minibatch_size=64, num_epochs=10, lr=1e-3)
        .reporting(metrics_num_episodes_for_smoothing=args.episodes_per_iteration)
        .debugging(seed=args.seed, log_level="ERROR")
    )
    with ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False):
        algorithm = config.build_algo()
        for iteration in range(args.num_iterations):
            result = algorithm.train()
            print(f"{iteration + 1:4}  mean reward {result['env_runners']['episode_return_mean']:.3f}", flush=True)
        algorithm.stop()


if __name__ == "__main__":
    main()
