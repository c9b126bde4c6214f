"""Learning by TRL's GRPOTrainer and by our subclass of it, from the same answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from transformers import TrainerCallback

from benchmarks.step.setup import Setup
from benchmarks.step.sides import SIDES
from benchmarks.step.trl_side import trl_trainer


@contextlib.contextmanager
def trl_learners(setups: dict[str, Setup]) -> Iterator[Callable[[str], Callable[[], float]]]:
    """Yield the function that gives a side's next forward and backward pass, which leaves gradients.

    Both learn from the answers that TRL's trainer samples in a step, which changes no weights. Ours compares its first
    batch with TRL's own way; that is behind it before a pass is given.

    Args:
        setups: A model for each side, with equal weights.
    """
    trainers: dict[str, Any] = {}
    inputs: list[dict[str, Any]] = []
    with contextlib.ExitStack() as opened:
        for side in SIDES:
            setups[side].use_stock_attention()
            options: dict[str, Any] = {"learning_rate": 0.0, "max_grad_norm": 0.0}
            trainer = opened.enter_context(
                trl_trainer(setups[side], 1, TrainerCallback(), shares_prefix=side == "ours", **options)
            )
            with mock.patch.object(trainer, "_compute_loss", wraps=trainer._compute_loss) as spy:
                trainer.train()
            trainers[side] = trainer
            inputs.append(spy.call_args.args[1])

        def prepare(side: str) -> Callable[[], float]:
            trainer, setup = trainers[side], setups[side]
            setup.optimizer.zero_grad()

            def learn() -> float:
                loss: torch.Tensor = trainer.compute_loss(setup.model, inputs[-1])
                trainer.accelerator.backward(loss)
                return loss.item()

            return learn

        yield prepare
