"""TRL's GRPOTrainer, as it is, on our episodes, rewards and small model.

How to run (`pip install 'trl>=1.16,<1.17'` comes first):
    python experiments/examples/grpo_trl.py --num-steps 10

Prints the mean reward, IoU + 0.5 * [the format is right], of each step's answers. On a larger scale
`experiments/run_grpo.py` does the same work several times faster, see docs/results.md.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
import tyro
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from focus_agents.cli.command_line import quiet_libraries
from focus_agents.integrations.trl import TRLReward, trl_dataset, trl_processor
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_env import ENV_ID


@dataclass(frozen=True, kw_only=True)
class Args:
    """TRL's GRPOTrainer."""

    num_steps: int = 10
    """Updates."""
    groups_per_step: int = 4
    """Episodes of an update."""
    group_size: int = 8
    """Answers to each."""
    lr: float = 1e-5
    """Learning rate."""
    model: str = "focus-small-sft"
    """Model: a built-in one, a saved policy's folder, or a name on the hub."""
    level: int = 3
    """Difficulty of the scenes, from 1 (one object) to 5."""
    shots: int = 4
    """Support pictures per episode."""
    seed: int = 0
    """Seed of what is sampled."""


class PrintReward(TrainerCallback):
    """Prints the mean reward of each step's answers."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Called by the trainer."""
        if "reward" in logs:
            print(f"{state.global_step:4}  mean reward {logs['reward']:.3f}", flush=True)


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    quiet_libraries()
    data = {"level": args.level, "shots": args.shots, "image_size": 64, "distractors": "any"}
    env = gymnasium.make(ENV_ID, dataset_options=data, template=load_template(args.model))
    processor = load_processor(args.model)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            max_steps=args.num_steps,
            per_device_train_batch_size=args.groups_per_step * args.group_size,
            num_generations=args.group_size,
            max_completion_length=48,
            generation_kwargs={"suppress_tokens": list(processor.banned_token_ids)},  # none that stands for a picture
            learning_rate=args.lr,
            logging_steps=1,
            seed=args.seed,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            bf16=False,  # the small model is trained in float32, and needs no gradient checkpointing
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=load_model(args.model),
            reward_funcs=TRLReward(env),
            args=config,
            train_dataset=trl_dataset(env, range(args.num_steps * args.groups_per_step)),
            processing_class=trl_processor(processor),
            callbacks=[PrintReward()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


if __name__ == "__main__":
    main()
