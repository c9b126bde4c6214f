"""Settings of a pretraining run: each is declared here once, with its meaning, default and range."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from focus_agents.runs.schedule import check_schedule, lr_factor
from focus_agents.settings import LearningRate, Seed, Settings


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(Settings):
    """The data, the optimizer's steps, and the checkpoints of a pretraining."""

    init_from: str | None = None
    """Model of this kind to pretrain further, by a shipped name or its folder; the curriculum then takes 300 steps.
    None: new weights."""
    num_steps: Annotated[int, Ge(1)] = 3000
    """Optimizer steps; with new weights the curriculum of `focus_agents.pretraining.data` takes the first 1,200."""
    name_weight: Annotated[float, Ge(0)] = 0.0
    """Weight of the loss of linear heads that tell an object's name from the last number of its box, so that a box's
    text holds the object's look; the heads are thrown away at the end. 0: no heads."""
    name_layer: Annotated[int, Ge(1)] = 3
    """Layers of the language model behind the hidden state that the heads read."""
    lr: LearningRate = 1e-3
    """Peak learning rate of AdamW."""
    warmup: float = 0.03
    """Fraction of the steps, at the start, in which the learning rate rises."""
    cooldown: float = 0.5
    """Fraction of the steps, at the end, in which it falls."""
    lr_end: float = 0.05
    """Where it falls to, as a fraction of its peak."""
    weight_decay: Annotated[float, Ge(0)] = 0.01
    """Of AdamW."""
    grad_clip: Annotated[float, Gt(0)] = 1.0
    """Largest global norm of the gradient."""
    checkpoint_interval: Annotated[int, Ge(1)] = 250
    """Steps between checkpoints to resume from."""
    seed: Seed = 0
    """Of new weights and of all pictures; another than that of the model that is pretrained further, or pictures come
    again."""

    def check(self) -> None:
        """Check the fields, alone and together."""
        super().check()
        if self.warmup > 1:  # as in the last release
            warnings.warn(
                "warmup: a number of steps goes for one release more; give a fraction", FutureWarning, stacklevel=3
            )
            object.__setattr__(self, "warmup", min(1.0, self.warmup / self.num_steps))
        check_schedule(self.warmup, self.cooldown, self.lr_end)

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        return self.lr * lr_factor(
            step, num_steps=self.num_steps, warmup=self.warmup, cooldown=self.cooldown, lr_end=self.lr_end
        )
