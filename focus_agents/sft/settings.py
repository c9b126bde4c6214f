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
    """answer trains the answer's tokens; full trains every token, including those of the support boxes, as the paper's
    released code does."""
    beta: Annotated[float, Ge(0)] = 2.0
    """Weight of the attention loss; 0 trains the language-model loss alone."""
    margin: Annotated[float, Gt(0)] = 0.5
    """Margin mu of the attention loss, in units of margin_unit."""
    margin_unit: MarginUnit = "reachable"
    """reachable: margin and loss are in units of 1 / M, the largest delta that M support tokens allow. absolute: the
    paper's unit."""
    attention_target: AttentionTarget = "region"
    """Support-box tokens: the numbers of the box text with the spaces between them (coords, the authors' code), the
    whole box text (span), its last token (last), the image tokens inside the support box (region), or numbers and image
    tokens (both)."""
    attention_contrast: AttentionContrast = "all"
    """Tokens to compare the support-box tokens with: all other tokens (all, the paper), or the image tokens of the
    support images outside of the boxes, where distractors are (supports)."""
    attention_layers: str = "last:3"
    """Layers whose attention is averaged: all, first:5, last:5, or numbers from 0 such as 3,7."""
    attention_heads: str = "all"
    """Heads of these layers whose attention is averaged: all, or with top:8 the eight heads that attend most to
    support-box tokens before training, by 32 validation episodes."""
    one_shot: Annotated[float, Ge(0), Le(1)] = 0.7
    """Fraction of the steps, at the start, that show only the first support of an episode. The model learns sooner to
    attend to one box than to several, and then also attends to several."""


@dataclass(frozen=True, kw_only=True)
class SFTLearningSettings(Settings):
    """The optimizer's steps."""

    num_steps: Annotated[int, Ge(1)] = 1000
    """Optimizer steps."""
    batch_size: Annotated[int, Ge(1)] = 32
    """Episodes per step, over all workers."""
    micro_batch_size: Annotated[int, Ge(1)] | None = None
    """Most episodes per forward and backward pass of a worker, to save memory; None: all episodes of the worker."""
    lr: LearningRate = 1e-3
    """Peak learning rate of AdamW."""
    warmup: float = 0.1
    """Fraction of the steps, at the start, in which the learning rate rises."""
    cooldown: float = 0.4
    """Fraction of the steps, at the end, in which the learning rate falls."""
    lr_end: float = 0.05
    """Learning rate at the end, as a fraction of its peak."""
    adam_beta2: Annotated[float, Ge(0)] = 0.98
    """AdamW's beta2: how slowly it forgets the size of gradients, below 1."""
    weight_decay: Annotated[float, Ge(0)] = 0.01
    """Weight decay of AdamW."""
    grad_clip: Annotated[float, Gt(0)] = 1.0
    """Largest global norm of the gradient."""
    compile: bool = False
    """Compile the language model's layers by torch.compile."""
    seed: Seed = 0
    """Seed of the order of episodes, and of all random draws."""
    max_bad_steps: Annotated[int, Ge(1)] = MAX_BAD_STEPS
    """Number of steps in a row, without a finite loss or gradient, that ends the run; fewer such steps are skipped."""

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
    """Steps between further validations; 0: none. The best policy of these validations is kept beside the last
    policy."""
    patience: Annotated[int, Ge(0)] = 0
    """Validations without a better mean IoU after which training stops; 0: never."""
    checkpoint_interval: Annotated[int, Ge(0)] = 100
    """Steps between checkpoints to resume from; 0: at validations and at the end only."""
    max_completion_tokens: TokenCount = 40
    """Tokens at which a validation answer is cut."""
    num_data_workers: Annotated[int, Ge(0)] = 1
    """Processes of each worker that draw episodes ahead of the training; 0 draws them in the worker."""
    save: SavedForm = "merged"
    """Content of checkpoints/final for a model with adapters: whole weights (merged), only the adapter in PEFT's format
    (adapter), or both, with the adapter in the folder adapter below the weights."""

    def check(self) -> None:
        """Check the fields, alone and together."""
        super().check()
        if self.patience and not self.validation_interval:
            raise ValueError("patience: early stopping needs validations; set validation_interval above 0")
