"""PPO of Stable-Baselines3, as it is, in the environment: pictures in, four floats out.

How to run (`pip install 'stable-baselines3>=2.7,<3'` comes first):
    python experiments/examples/ppo_sb3.py --level 1 --num-steps 20000

Each step is an episode. Prints the mean reward, IoU + 0.5 * [the four floats are a box], of each update's episodes.
On 500 validation scenes of level 1 (one object, so nothing to match) likeliest actions earned 0.09 before
and 1.00 after 13,000 episodes, 100 s of CPU time; the best constant box earns 0.77 there (one run, seed 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import tyro
from gymnasium.wrappers import RescaleAction
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from focus_env import ENV_ID, FixedSizeObservation, SingleImageObservation


@dataclass(frozen=True, kw_only=True)
class Args:
    """PPO of Stable-Baselines3."""

    num_steps: int = 20_000
    """Episodes to train on, rounded up to whole updates."""
    steps_per_update: int = 512
    """Episodes of an update."""
    level: int = 1
    """Difficulty of the scenes, from 1 (one object) to 5."""
    shots: int = 1
    """Support pictures per episode."""
    image_size: int = 64
    """Side of the pictures in pixels; the encoder needs at least 36, the scenes 56."""
    seed: int = 0
    """Seed of weights, actions and episodes."""


def make_env(args: Args) -> gymnasium.Env[Any, Any]:
    data = {"split": "train", "level": args.level, "shots": args.shots, "image_size": args.image_size}
    env = gymnasium.make(ENV_ID, dataset_options=data, action_type="box")
    env = SingleImageObservation(FixedSizeObservation(env, shots=args.shots, image_size=args.image_size))
    return RescaleAction(env, np.float32(-1), np.float32(1))  # Stable-Baselines3 draws its first actions around 0


class PrintReward(BaseCallback):
    """Prints the mean reward of each update's episodes."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        print(f"{self.num_timesteps:7,} episodes  mean reward {self.locals['rollout_buffer'].rewards.mean():.3f}")


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    model = PPO(
        "CnnPolicy",
        make_env(args),
        n_steps=args.steps_per_update,
        learning_rate=1e-3,
        policy_kwargs={"log_std_init": -1.5},  # with the usual noise most actions would be no boxes for long
        seed=args.seed,
        device="cpu",
    )
    model.learn(args.num_steps, callback=PrintReward())


if __name__ == "__main__":
    main()
