"""Metrics of runs, each by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

STAGES: Mapping[str, str] = {"grpo": "stage 2", "sft": "stage 1", "pretrain": "pretraining"}
"""The commands that log metrics, and what their trainings are called."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The declaration of a metric.

    Attributes:
        unit: The unit of its values; "share" for those in [0, 1].
        meaning: What it measures.
        healthy: What a healthy run shows; empty where any value is healthy.
        stages: The commands that log it, of `STAGES`.
        part: What may follow its name behind a slash, each part a metric of its own; empty: nothing.
        low, high: The bounds beyond which a mean over some iterations is worth a warning; None: there is none.
        better: Which values are better, where a best one means something; empty: nowhere.
        is_occasional: Whether validations log it, and not every iteration or step.
    """

    unit: str
    meaning: str
    healthy: str = ""
    stages: tuple[str, ...] = ("grpo",)
    part: str = ""
    low: float | None = None
    high: float | None = None
    better: Literal["", "higher", "lower"] = ""
    is_occasional: bool = False

    def is_outside(self, value: float) -> bool:
        """Return whether a value is beyond the bounds."""
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)

    def __post_init__(self) -> None:
        if unknown := set(self.stages) - set(STAGES):
            raise ValueError(f"stages: expected some of {', '.join(STAGES)}, got {sorted(unknown)}")


ALL, SFT, PRETRAIN = tuple(STAGES), ("sft",), ("pretrain",)
SUPERVISED = (*SFT, *PRETRAIN)

OF_ABSENCE: Mapping[str, tuple[str, str]] = {
    "miou_present": ("IoU", "mean IoU on targets that are present"),
    "absent_recall": ("share", "share of absent targets that are called absent"),
    "absent_precision": ("share", "share of right ones among the calls that a target is absent"),
    "f1_50": ("share", "joint F1 at an IoU of 0.5 over present and absent targets"),
}
"""Units and meanings of what `focus_env.metrics.summarize` says of answers where some targets are absent."""
_IF_ABSENT = "; where some are absent only"

METRICS: Mapping[str, Metric] = {
    "iteration": Metric("iterations", "training iterations done"),
    "step": Metric("steps", "optimizer steps done", stages=SUPERVISED),
    "reward": Metric(
        "reward",
        "mean reward of the sampled answers, and of each term before its weight",
        "rises",
        part="term",
        better="higher",
    ),
    "reward_std": Metric(
        "reward", "standard deviation of the rewards within a group, averaged over groups", "above 0, and falls slowly"
    ),
    "miou": Metric(
        "IoU",
        "mean IoU of the sampled answers, 0 where no box could be read; of an absent target 1 for saying so, else 0",
        "rises with the reward",
        better="higher",
    ),
    "acc_50": Metric(
        "share",
        "sampled answers with an IoU of 0.5 or more, or that rightly say that the object is absent",
        "rises with the reward",
        better="higher",
    ),
    **{
        name: Metric(unit, f"{meaning} of the sampled answers{_IF_ABSENT}", "rises with the reward", better="higher")
        for name, (unit, meaning) in OF_ABSENCE.items()
    },
    "parse_rate": Metric("share", "sampled answers from which a box, or its absence, could be read", "near 1"),
    "format_rate": Metric(
        "share",
        "sampled answers in the exact format, those among them too whose box cannot be used, such as a reversed one",
        "near 1",
    ),
    "whole_image_rate": Metric("share", "sampled answers that cover the whole image", "does not rise"),
    "copy_rate": Metric("share", "sampled answers that repeat a support box", "does not rise"),
    "zero_variance_rate": Metric(
        "share", "groups whose answers all earn exactly the same, and so teach nothing", "below 0.5", high=0.5
    ),
    "completion_tokens": Metric("tokens", "mean length of a sampled answer", "does not drift"),
    "completion_tokens_min": Metric("tokens", "shortest sampled answer of the iteration"),
    "completion_tokens_max": Metric("tokens", "longest sampled answer of the iteration"),
    "truncated_rate": Metric("share", "sampled answers cut at max_completion_tokens", "near 0, below 0.5", high=0.5),
    "failed_rate": Metric("share", "sampled answers whose parsing or reward raised an exception", "0", high=0.0),
    "loss": Metric(
        "loss",
        "loss of the last optimizer step; of one on-policy GRPO step near 0 by construction",
        "falls (not GRPO's)",
        stages=ALL,
    ),
    "lm_loss": Metric(
        "nats", "mean negative log-likelihood of the labelled tokens", "falls", SUPERVISED, better="lower"
    ),
    "box_iou": Metric(
        "IoU", "mean IoU of answered boxes, each token given the truth before it", "rises", PRETRAIN, better="higher"
    ),
    "name_accuracy": Metric(
        "share", "right words in names, each given the truth before it", "rises", PRETRAIN, better="higher"
    ),
    "name_head_loss": Metric(
        "nats",
        "mean negative log-likelihood of names by heads at a box's last number; with name_weight only",
        "falls",
        PRETRAIN,
        better="lower",
    ),
    "name_head_accuracy": Metric("share", "right words of names by these heads", "rises", PRETRAIN, better="higher"),
    "attention_loss": Metric(
        "margin^2", "attention loss before its weight, in the squared units of its margin", "falls", stages=SFT
    ),
    "support_mass": Metric(
        "share", "mean S: a query-image token's attention on all support tokens", "rises", stages=SFT, part="layer"
    ),
    "support_delta": Metric(
        "attention",
        "mean delta: attention to a support token less that to another token",
        "rises to the margin",
        stages=SFT,
        part="layer",
    ),
    "past_margin": Metric(
        "share", "query-image tokens whose delta has reached the margin", "rises", stages=SFT, part="layer"
    ),
    "skipped_steps": Metric(
        "steps", "steps so far whose loss or gradient was not finite, and that changed nothing", "0", ("grpo", "sft")
    ),
    "skipped_episodes": Metric(
        "episodes", "episodes of the iteration or step that could not be used", "0", ("grpo", "sft")
    ),
    "kl": Metric(
        "nats",
        "mean estimate of KL(policy || reference) per token, by kl_estimator; with a reference only",
        "below 1",
        high=1.0,
    ),
    "ratio": Metric(
        "ratio",
        "mean probability ratio of policy and old policy; with several steps only",
        "near 1, within 0.8 and 1.25",
        low=0.8,
        high=1.25,
    ),
    "clip_fraction": Metric(
        "share", "tokens whose ratio a bound has changed; with several steps an iteration only", "below 0.2", high=0.2
    ),
    "clip_low": Metric("share", "tokens clipped at the lower bound; with several steps only", "below 0.1", high=0.1),
    "clip_high": Metric("share", "tokens clipped at an upper bound; with several steps only", "below 0.1", high=0.1),
    "sampler_gap": Metric(
        "nats", "mean difference of a token's log-probability between learner and sampler", "below 0.1", high=0.1
    ),
    "entropy": Metric(
        "nats", "mean entropy of the next-token distribution", "falls slowly, and stays above 0.02", low=0.02
    ),
    "grad_norm": Metric("norm", "global norm of the gradient before clipping", "above 0", stages=ALL),
    "lr": Metric("1/step", "learning rate", stages=ALL),
    "seconds": Metric("seconds", "time of the iteration or step, without validation and checkpoint", stages=ALL),
    "seconds_sampling": Metric(
        "seconds", "sampling and scoring the groups; with async_steps, what is left to wait for"
    ),
    "seconds_learning": Metric("seconds", "optimizer steps"),
    "seconds_syncing": Metric("seconds", "handing new weights to the samplers, as far as they are waited for"),
    "seconds_validating": Metric(
        "seconds", "answering the validation episodes", stages=("grpo", "sft"), is_occasional=True
    ),
    "examples_per_second": Metric("examples/second", "supervised examples trained on", stages=SUPERVISED),
    "groups_per_second": Metric("groups/second", "groups sampled and learned from"),
    "tokens_per_second": Metric("tokens/second", "answer tokens sampled and learned from"),
    "queue_depth": Metric(
        "groups", "groups that are sampled when the learner comes for them; with async_steps only", "above 0"
    ),
    "sampler_restarts": Metric(
        "restarts", "new processes so far in the place of samplers that died or hung; where samplers are processes", "0"
    ),
    "learner_restarts": Metric(
        "restarts", "how often so far all learners were replaced after a fault; where learners are processes", "0"
    ),
    "worker_restarts": Metric(
        "restarts", "how often so far all workers were started again from the last checkpoint", "0", SFT
    ),
    "memory_gib": Metric(
        "GiB",
        "resident memory of the largest process, and of the largest in each role",
        "flat",
        ("grpo", "sft"),
        part="role",
    ),
    "validation_miou": Metric(
        "IoU",
        "mean IoU of greedy answers to the validation episodes, 0 where no box could be read; of an absent target 1 "
        "for saying so, else 0; also before training",
        "rises",
        stages=("grpo", "sft"),
        better="higher",
        is_occasional=True,
    ),
    **{
        f"validation_{name}": Metric(
            unit,
            f"{meaning} of the greedy answers to the validation episodes{_IF_ABSENT}",
            "rises",
            stages=("grpo", "sft"),
            better="higher",
            is_occasional=True,
        )
        for name, (unit, meaning) in OF_ABSENCE.items()
    },
}


def check_names(names: Sequence[str]) -> None:
    """See that metrics are declared.

    Args:
        names: As in `METRICS`, those with parts perhaps followed by a slash and the part.

    Raises:
        ValueError: If one is not.
    """
    declared = {name.partition("/")[0] for name in names}
    if unknown := sorted(declared - set(METRICS)):
        raise ValueError(f"metrics: expected names from runs.metrics.METRICS, got {unknown}; declare them there")
    whole = {name.partition("/")[0] for name in names if "/" in name}
    if divided := sorted(name for name in whole if not METRICS[name].part):
        raise ValueError(f"metrics: expected no part behind a slash for {divided}, which have none")


COUNTED_UNITS = ("iterations", "steps", "episodes", "restarts")
"""Units whose metrics are whole numbers."""
COUNTED = ("completion_tokens_min", "completion_tokens_max", "queue_depth")
"""Other metrics that are."""


def declared_order(names: Iterable[str]) -> list[str]:
    """Return names of metrics in the order of `METRICS`, those that this version does not declare last."""
    order = {name: place for place, name in enumerate(METRICS)}
    return sorted(names, key=lambda name: order.get(name.partition("/")[0], len(order)))


def counted(name: str, value: Any) -> Any:
    """Return a metric's value, that of one which counts as a whole number."""
    metric = METRICS.get(name)
    is_count = name in COUNTED or (metric is not None and metric.unit in COUNTED_UNITS)
    return int(value) if is_count and isinstance(value, float) and value.is_integer() else value


def describe(name: str) -> str:
    """Return a sentence about a metric: its meaning, its unit, and what a healthy run shows.

    Args:
        name: As `check_names` takes it.
    """
    metric = METRICS[name.partition("/")[0]]
    return f"{metric.meaning} ({metric.unit})" + (f"; healthy: {metric.healthy}" if metric.healthy else "")


def outcome_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what training has come to: a summary without how long it took, where it is, and what was warned of."""
    beside = ("seconds", "checkpoint", "sheet", "warnings")
    return {name: value for name, value in summary.items() if name not in beside}
