"""What a run measures: the metrics by name, and what they are of rollouts and of validation answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from focus_agents.rollout.records import RolloutGroup
from focus_env.metrics import ScoredAnswer, bootstrap_interval, paired_bootstrap_interval, summarize

METRICS: Mapping[str, str] = {
    "iteration": "training iterations done (GRPO)",
    "step": "optimizer steps done (SFT)",
    "reward": "mean reward of the sampled answers",
    "miou": "mean IoU of the sampled answers, 0 where no box could be read",
    "parse_rate": "share of sampled answers from which an answer could be read",
    "format_rate": "share of sampled answers in the exact format",
    "zero_variance_rate": "share of groups whose answers all earn exactly the same, and so teach nothing",
    "completion_tokens": "mean tokens of a sampled answer",
    "truncated_rate": "share of sampled answers cut at max_completion_tokens",
    "loss": "loss of the last optimizer step",
    "lm_loss": "mean negative log-likelihood of the labelled tokens, in nats (SFT)",
    "box_iou": "mean IoU of answered boxes, each token given the truth before it (pretraining)",
    "name_accuracy": "share of right words in names, each given the truth before it (pretraining)",
    "attention_loss": "attention loss before its weight, in the squared units of its margin (SFT)",
    "support_mass": "mean S: share of a query-image token's attention on all support tokens (SFT; /n: layer n)",
    "support_delta": "mean delta: attention to a support token less that to another token (SFT; /n: layer n)",
    "past_margin": "share of query-image tokens whose delta has reached the margin (SFT; /n: layer n)",
    "skipped_steps": "steps so far whose loss or gradient was not finite, and that changed nothing",
    "skipped_episodes": "episodes of the iteration or step that could not be used, each named once on the console",
    "failed_rate": "share of sampled answers that could not be scored because the parser or a reward term raised",
    "kl": "mean estimate of KL(policy || reference) per token, by kl_estimator; 0 where kl_coeff is 0",
    "clip_fraction": "share of tokens whose probability ratio was clipped",
    "sampler_gap": "mean difference in nats of a token's log-probability between learner and sampler; grows with the "
    "steps of an iteration",
    "entropy": "mean entropy of the next-token distribution, in nats",
    "grad_norm": "global norm of the gradient before clipping",
    "lr": "learning rate",
    "seconds_sampling": "seconds for sampling and scoring the groups; with async_steps, for what is left to wait for",
    "seconds_learning": "seconds for the optimizer steps",
    "seconds_syncing": "seconds for handing the new weights to the runners, as far as they have to be waited for",
    "seconds": "seconds of the iteration or step",
    "examples_per_second": "supervised examples trained on per second",
    "groups_per_second": "groups sampled and learned from per second",
    "validation_miou": "mean IoU of greedy answers on the validation episodes, 0 where no box could be read",
}


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Means over the sampled answers of an iteration; names as in `METRICS`."""
    answers = [answer for group in groups for answer in group.answers]
    completions = [completion for group in groups for completion in group.generation.completions]
    scores = summarize(answers)
    return {
        "reward": float(np.mean([group.rewards.mean() for group in groups])),
        "miou": scores["miou_all"],
        "parse_rate": scores["parse_rate"],
        "format_rate": scores["format_rate"],
        "zero_variance_rate": float(np.mean([np.ptp(group.rewards) == 0 for group in groups])),
        "completion_tokens": float(np.mean([len(completion.token_ids) for completion in completions])),
        "truncated_rate": float(np.mean([not completion.is_finished for completion in completions])),
    }


def compare_validation(before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """Scores before and after training on the same episodes, with 95% bootstrap intervals.

    Returns:
        `miou_start`, `miou_end`, `miou_gain` (paired by episode), each with `<name>_interval`, and
        `parse_rate_start`, `parse_rate_end`, `num_validation_episodes`.
    """
    start, end = np.array([a.credit for a in before]), np.array([a.credit for a in after])
    return {
        "miou_start": float(start.mean()),
        "miou_start_interval": bootstrap_interval(start),
        "miou_end": float(end.mean()),
        "miou_end_interval": bootstrap_interval(end),
        "miou_gain": float((end - start).mean()),
        "miou_gain_interval": paired_bootstrap_interval(start, end),
        "parse_rate_start": summarize(before)["parse_rate"],
        "parse_rate_end": summarize(after)["parse_rate"],
        "num_validation_episodes": len(before),
    }
