"""A step of TRL's GRPOTrainer on the same model, and how it is measured from inside its loop."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from transformers import PrinterCallback, TrainerCallback

from benchmarks.measuring import PER_UNIT, Readings, meter, take_turn
from benchmarks.step.setup import SEED, Setup
from benchmarks.step.sides import SIDES, take_step, text_reward
from focus_agents.integrations.trl import trl_processor, trl_row
from focus_agents.models.attention import set_focus_attention


@contextlib.contextmanager
def trl_trainer(
    setup: Setup,
    num_steps: int,
    callback: TrainerCallback,
    *,
    learning_rate: float,
    max_grad_norm: float,
    shares_prefix: bool = False,
    **options: Any,
) -> Iterator[Any]:
    """Yield a trainer of TRL on the same model and conversations, whose `train` takes `num_steps` steps.

    Args:
        setup: Model and conversations.
        num_steps: Optimizer steps.
        callback: Sees them.
        learning_rate: Of AdamW.
        max_grad_norm: Beyond which gradients are clipped.
        shares_prefix: Whether the trainer is our subclass of TRL's.
        options: Further settings of TRL's configuration, or others in the place of those here.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from focus_agents.integrations.trl import SharedPrefixGRPOTrainer

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [text_reward(turns[0]["content"]) for turns in completions]

    processor, num_answers = setup.processor, setup.size.group_size
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(action="ignore", category=FutureWarning),  # of transformers, at names that TRL uses
        contextlib.ExitStack() as patches,
    ):
        settings: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": num_steps,
            "per_device_train_batch_size": num_answers * len(setup.messages),
            "num_generations": num_answers,
            "max_completion_length": setup.size.answer_tokens,
            "generation_kwargs": {"suppress_tokens": setup.banned_token_ids},
            "temperature": 1.0,
            "loss_type": "grpo",
            "beta": 0.0,
            "optim": "adamw_torch",
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": max_grad_norm,
            "bf16": setup.is_narrow,  # else the weights are what they are; nothing is cast on our side either
            "gradient_checkpointing": False,
            "use_cpu": setup.device == "cpu",
            "dataloader_pin_memory": False,
            "shuffle_dataset": False,
            "report_to": "none",
            "logging_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": SEED,
        }
        config = GRPOConfig(**settings | options)
        if setup.device == "cpu":
            patches.enter_context(mock.patch("trl.trainer.utils._use_triton", return_value=True))  # on answers only
        trainer_class = SharedPrefixGRPOTrainer if shares_prefix else GRPOTrainer
        trainer = trainer_class(
            model=setup.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([trl_row(messages) for messages in setup.messages]),
            processing_class=trl_processor(processor),
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        yield trainer


class KeepGradients(TrainerCallback):
    """Takes the gradients of TRL's step before they are used."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.gradients = torch.empty(0)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.gradients = self.setup.take_gradients()


class Turns(TrainerCallback):
    """Measures TRL's steps from inside its loop, and has ours take its turn after each."""

    def __init__(self, setup: Setup, schedule: Sequence[str]) -> None:
        self.setup = setup
        self.rounds = iter(schedule)
        self.readings: Readings = {name: {side: [] for side in SIDES} for name in dict.fromkeys(schedule)}
        self.opened = contextlib.ExitStack()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.name = next(self.rounds)
        self.reading = self.opened.enter_context(meter(self.name, self.setup.device))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.opened.close()
        readings = self.readings[self.name]
        readings["peer"].append(self.reading.amount / PER_UNIT[self.name])
        set_focus_attention(self.setup.model)
        readings["ours"].append(take_turn(lambda: take_step(self.setup), self.name, self.setup.device))
        self.setup.use_stock_attention()
