"""Settings of stage 1: each is declared here once, with its meaning, default and range.

`focus sft` shows each part as a box of its help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from focus_agents.models.settings import FinetuningSettings, SavedForm
from focus_agents.runs.schedule import MAX_BAD_STEPS, check_schedule, lr_factor
from focus_agents.settings import LearningRate, Seed, Settings, TokenCount

AttentionTarget = Literal["coords", "span", "last", "region", "both"]
"""Tokens that count as support-box tokens: the numbers of the box text with the spaces between them (the authors'
code), the whole box text, its last token, the image tokens inside the support box, or numbers and image tokens."""
AttentionContrast = Literal["all", "supports"]
"""Tokens with which the attention to a support-box token is compared: all other tokens (the paper), or the image tokens
of the support pictures outside of the box, where distractors are."""
Labels = Literal["answer", "full"]
MarginUnit = Literal["reachable", "absolute"]


@dataclass(frozen=True, kw_only=True)
class SFTLossSettings(Settings):
    """The loss, L_LM + beta * L_bbox; the formulas are in `focus_agents.sft.loss`."""

    labels: Labels = "answer"
    """answer trains the answer's tokens; full trains every token, those of the support boxes among them, as the paper's
    released code does."""
    beta: Annotated[float, Ge(0)] = 2.0
    """Weight of the attention loss; 0 trains the language-model loss alone."""
    margin: Annotated[float, Gt(0)] = 0.5
    """mu of the attention loss, in units of margin_unit."""
    margin_unit: MarginUnit = "reachable"
    """reachable states the margin, and the loss, in units of 1 / M, the most that delta can reach with M support
    tokens; absolute is the paper's."""
    attention_target: AttentionTarget = "region"
    """Support-box tokens: the numbers of the box text with the spaces between them (coords, the authors' code), the
    whole box text (span), its last token (last), the image tokens inside the support box (region), or numbers and image
    tokens (both)."""
    attention_contrast: AttentionContrast = "all"
    """Tokens that the attention to support-box tokens is compared with: all others (all, the paper), or the image
    tokens of the support pictures outside of the boxes, where distractors are (supports)."""
    attention_layers: str = "last:3"
    """Layers whose attention is averaged: all, first:5, last:5, or numbers from 0 such as 3,7."""
    attention_heads: str = "all"
    """Heads of these layers whose attention is averaged: all; or as top:8 so many, those that look most at support-box
    tokens before training, by 32 validation episodes."""
    one_shot: Annotated[float, Ge(0), Le(1)] = 0.7
    """Fraction of the steps, at the start, in which only the first support of an episode is shown: a query learns
    sooner to look at one box than at several, and what it has learned holds for several."""


@dataclass(frozen=True, kw_only=True)
class SFTLearningSettings(Settings):
    """The optimizer's steps."""

    num_steps: Annotated[int, Ge(1)] = 1000
    """Optimizer steps."""
    batch_size: Annotated[int, Ge(1)] = 32
    """Episodes per step, over all workers."""
    micro_batch_size: Annotated[int, Ge(1)] | None = None
    """Most episodes per forward and backward pass of a worker, to save memory; None: its whole share."""
    lr: LearningRate = 1e-3
    """Peak learning rate of AdamW."""
    warmup: float = 0.1
    """Fraction of the steps, at the start, in which the learning rate rises."""
    cooldown: float = 0.4
    """Fraction of the steps, at the end, in which it falls."""
    lr_end: float = 0.05
    """Where it falls to, as a fraction of its peak."""
    adam_beta2: Annotated[float, Ge(0)] = 0.98
    """How slowly AdamW forgets the size of gradients, below 1."""
    weight_decay: Annotated[float, Ge(0)] = 0.01
    """Of AdamW."""
    grad_clip: Annotated[float, Gt(0)] = 1.0
    """Largest global norm of the gradient."""
    compile: bool = False
    """Compile the language model's layers by torch.compile."""
    seed: Seed = 0
    """Of the order of episodes, and of all random draws."""
    max_bad_steps: Annotated[int, Ge(1)] = MAX_BAD_STEPS
    """So many steps in a row whose loss or gradient is not finite end the run; fewer are skipped."""

    def check(self) -> None:
        """Check the fields, alone and together."""
        super().check()
        if not self.adam_beta2 < 1:
            raise ValueError(f"adam_beta2: expected 0 or more and less than 1, got {self.adam_beta2}")
        check_schedule(self.warmup, self.cooldown, self.lr_end)

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        return self.lr * lr_factor(
            step, num_steps=self.num_steps, warmup=self.warmup, cooldown=self.cooldown, lr_end=self.lr_end
        )


@dataclass(frozen=True, kw_only=True)
class SFTConfig(SFTLossSettings, SFTLearningSettings, FinetuningSettings):
    """Every setting of a supervised training; a study varies these."""


@dataclass(frozen=True, kw_only=True)
class SFTSchedule(Settings):
    """Validation and checkpoints of a run."""

    num_validation_episodes: Annotated[int, Ge(1)] = 512
    """Episodes of the validation split, from its front, to answer before and after training; fewer if it has fewer."""
    validation_batch_size: Annotated[int, Ge(1)] = 32
    """Most validation episodes that a worker answers together; fewer where their prompts are long (65,536 tokens)."""
    validation_interval: Annotated[int, Ge(0)] = 100
    """Steps between further validations; 0: none. The best policy by these is kept beside the last."""
    patience: Annotated[int, Ge(0)] = 0
    """Validations without a better mean IoU after which training stops; 0: never."""
    checkpoint_interval: Annotated[int, Ge(0)] = 100
    """Steps between checkpoints to resume from; 0: at validations and at the end only."""
    max_completion_tokens: TokenCount = 40
    """Tokens at which a validation answer is cut."""
    num_data_workers: Annotated[int, Ge(0)] = 1
    """Processes of each worker that draw episodes ahead of the training; 0 draws them in the worker."""
    save: SavedForm = "merged"
    """Content of checkpoints/final of a model with adapters: whole weights (merged), the adapter alone in PEFT's
    format, or both, the adapter then in the folder adapter below the weights."""

    def check(self) -> None:
        """Check the fields, alone and together."""
        super().check()
        if self.patience and not self.validation_interval:
            raise ValueError("patience: early stopping needs validations; set validation_interval above 0")
