"""Stage 1: supervised fine-tuning of a localization policy on right answers, on this machine.

How to run:
    python experiments/run_sft.py --name my-sft

Results: runs/<name>/ with metrics.jsonl, summary.json, samples/validation.png and checkpoints/final, a policy in
transformers' format, which run_grpo.py takes as --init-from.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console

from focus_agents.arguments import DataArguments, ModelArguments, quiet_libraries, run_path, user_errors
from focus_agents.models.loading import load_model
from focus_agents.reporting import RunDirectory
from focus_agents.sft.train import SFTConfig, train_sft


@dataclass(frozen=True, kw_only=True)
class Args(DataArguments, ModelArguments):
    """Stage 1: supervised fine-tuning of a localization policy."""

    name: str | None = None
    """Name of the run's folder; default: sft and the time of the start."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    seed: int = 0
    """Seed of new weights and of the order of episodes."""

    labels: Literal["answer", "full"] = "answer"
    """Tokens that are trained: the answer's, or all, those of the support boxes among them."""
    num_steps: int = 600
    """Optimizer steps."""
    batch_size: int = 32
    """Episodes per step."""
    lr: float = 1.5e-3
    """Peak learning rate of AdamW; the default suits the small model."""
    grad_clip: float = 1.0
    """Largest global norm of the gradient."""
    num_workers: int = 1
    """Processes that draw episodes ahead of the training; 0 draws them in this process."""
    max_completion_tokens: int = 40
    """Tokens at which a validation answer is cut."""
    num_validation_episodes: int = 512
    """Episodes of the validation split to answer before and after training."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    quiet_libraries()
    with user_errors():
        training, validation = args.load_training(), args.load_validation()
        template, processor = args.load_template(), args.load_processor()
        if args.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: this machine has no CUDA device that torch can use; train on cpu")
        config = SFTConfig(
            labels=args.labels,
            num_steps=args.num_steps,
            batch_size=args.batch_size,
            lr=args.lr,
            grad_clip=args.grad_clip,
            seed=args.seed,
            num_workers=args.num_workers,
        )
        model = load_model(args.source, seed=args.seed).to(args.device)
        run = RunDirectory.create(run_path(args.output_dir, args.name, "sft"), dataclasses.asdict(args))
    console = Console()
    console.print(f"run folder: {run.path}", highlight=False)
    summary = train_sft(
        model, processor, training, validation, template, config, run,
        num_validation_episodes=args.num_validation_episodes,
        max_completion_tokens=args.max_completion_tokens,
        console=console,
    )  # fmt: skip
    console.print(
        f"validation mIoU {summary['miou_start']:.3f} -> {summary['miou_end']:.3f} in {summary['seconds']:.0f} s\n"
        f"policy: {summary['checkpoint']}\npictures: {summary['sheet']}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
