"""Settings of stage 1, and the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from focus_agents.models.loading import Precision
from focus_agents.runs.schedule import check_schedule, lr_factor
from focus_agents.sft.data import AttentionTarget

Labels = Literal["answer", "full"]
MarginUnit = Literal["reachable", "absolute"]

_CHOICES = {
    "labels": get_args(Labels),
    "attention_target": get_args(AttentionTarget),
    "margin_unit": get_args(MarginUnit),
    "precision": get_args(Precision),
}


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Settings of a supervised run.

    Attributes:
        labels: "answer" trains the answer's tokens; "full" trains every token, those of the support boxes among them,
            as the paper's released code does.
        beta: Weight of the attention loss; 0 trains the language-model loss alone.
        margin: mu of the attention loss, in units of `margin_unit`.
        margin_unit: "reachable" states the margin, and the loss, in units of 1 / M, the most that delta can reach with
            M support tokens; "absolute" is the paper's.
        attention_target: What counts as a support-box token; see `AttentionTarget`.
        attention_layers: Layers that are averaged; see `focus_agents.models.attention.select_layers`.
        one_shot: Share of the steps, at the start, in which only the first support of an episode is shown: a query
            learns sooner to look at one box than at several, and what it has learned holds for several.
        num_steps: Optimizer steps.
        batch_size: Episodes per step, over all workers.
        micro_batch_size: Most episodes per forward and backward pass of a worker; None: its whole share.
        lr: Peak learning rate of AdamW.
        warmup: Share of the steps, at the start, in which the learning rate rises.
        cooldown: Share of the steps, at the end, in which it falls.
        lr_end: Where it falls to, as a share of its peak.
        adam_beta2: How slowly AdamW forgets the size of gradients.
        weight_decay: Of AdamW.
        grad_clip: Largest global norm of the gradient.
        lora_rank: Rank of LoRA adapters on the language model; None trains all parameters.
        lora_alpha: Their scale times their rank; None: twice the rank.
        freeze_vision: Leave the vision tower as it is, as adapters do anyway.
        precision: "bf16" computes in bfloat16 and keeps trained weights in float32; the attention loss is float32.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
        compile: Compile the language model's layers by torch.compile.
        seed: Of the order of episodes, and of all random draws.
        max_bad_steps: So many steps in a row whose loss or gradient is not finite end the run; fewer are skipped.
    """

    labels: Labels = "answer"
    beta: float = 2.0
    margin: float = 0.5
    margin_unit: MarginUnit = "reachable"
    attention_target: AttentionTarget = "region"
    attention_layers: str = "last:3"
    one_shot: float = 0.7
    num_steps: int = 1000
    batch_size: int = 32
    micro_batch_size: int | None = None
    lr: float = 1e-3
    warmup: float = 0.1
    cooldown: float = 0.4
    lr_end: float = 0.05
    adam_beta2: float = 0.98
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    lora_rank: int | None = None
    lora_alpha: float | None = None
    freeze_vision: bool = True
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = 0
    max_bad_steps: int = 5

    def __post_init__(self) -> None:
        least = {"num_steps": 1, "batch_size": 1, "micro_batch_size": 1, "lora_rank": 1, "seed": 0, "max_bad_steps": 1}
        for name, value in least.items():
            if getattr(self, name) is not None and getattr(self, name) < value:
                raise ValueError(f"{name}: expected {value} or more, got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("lr", "grad_clip", "margin", "lora_alpha"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if not 0 <= self.one_shot <= 1:
            raise ValueError(f"one_shot: expected a share of the steps from 0 to 1, got {self.one_shot}")
        if not 0 <= self.adam_beta2 < 1:
            raise ValueError(f"adam_beta2: expected 0 or more and less than 1, got {self.adam_beta2}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay: expected 0 or more, got {self.weight_decay}")
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta: expected 0 (no attention loss) or more, got {self.beta}")
        check_schedule(self.warmup, self.cooldown, self.lr_end)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        return self.lr * lr_factor(
            step, num_steps=self.num_steps, warmup=self.warmup, cooldown=self.cooldown, lr_end=self.lr_end
        )


@dataclass(frozen=True, kw_only=True)
class SFTSchedule:
    """When a run looks up from its training.

    Attributes:
        num_validation_episodes: Episodes of the validation data, from its front, to answer before and after training;
            fewer if it has fewer.
        validation_interval: Steps between further validations; 0: none. The best policy by these is kept beside the
            last.
        patience: Validations without a better mean IoU after which training stops; 0: never.
        checkpoint_interval: Steps between checkpoints to resume from; 0: at validations and at the end only.
        max_completion_tokens: Tokens at which a validation answer is cut.
        num_data_workers: Processes of each worker that draw episodes ahead of the training; 0 draws them in the worker.
    """

    num_validation_episodes: int = 512
    validation_interval: int = 0
    patience: int = 0
    checkpoint_interval: int = 100
    max_completion_tokens: int = 40
    num_data_workers: int = 1

    def __post_init__(self) -> None:
        least = {
            "num_validation_episodes": 1, "validation_interval": 0, "patience": 0, "checkpoint_interval": 0,
            "max_completion_tokens": 1, "num_data_workers": 0,
        }  # fmt: skip
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}: expected {value} or more, got {getattr(self, name)}")
        if self.patience and not self.validation_interval:
            raise ValueError("patience: early stopping needs validations; set validation_interval above 0")
