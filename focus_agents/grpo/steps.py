"""Plan which group goes to which learner in which optimizer step.

RLlib's own batching counts rows by a batch's first column and shards by rows, which cuts a prompt's pictures apart,
repeats rows to fill minibatches, and can leave a learner without work while its peers wait for it. So the plan is made
here, once, before anything is sent (see `plan_steps`).

Axis letters: G completions per group, T completion tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.rllib.core.learner.training_data import TrainingData

from focus_agents.grpo.loss import StepTotals
from focus_agents.grpo.references import fetch
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.shared_prefix import PrefixRow
from focus_agents.rollout.records import PromptReference


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """The part of a rollout group that a learner needs.

    Attributes:
        prompt: Encoded once for the whole group; a reference to it until `GroupTrainingData.solve_refs`.
        token_ids: G arrays [T] int64, ragged.
        sampler_logprobs: G arrays [T] float32, as the sampler reported them.
        advantages: [G] float64.
        counts: [G] bool, which completions the loss looks at.
        old_logprobs: G arrays [T] float32 of the policy before the update, computed by the learner; None: not needed.
        ref_logprobs: G arrays [T] float32 of the reference; None: not needed, or not computed yet.
        prefix: The sampler's forward pass over the prompt, with gradient; None: the learner runs its own.
        has_gold: Whether the last completion is the right answer, which nobody sampled; its `sampler_logprobs` say
            nothing.
    """

    prompt: EncodedPrompt | PromptReference
    token_ids: tuple[npt.NDArray[np.int64], ...]
    sampler_logprobs: tuple[npt.NDArray[np.float32], ...]
    advantages: npt.NDArray[np.float64]
    counts: npt.NDArray[np.bool_]
    old_logprobs: tuple[npt.NDArray[np.float32], ...] | None = None
    ref_logprobs: tuple[npt.NDArray[np.float32], ...] | None = None
    prefix: PrefixRow | None = None
    has_gold: bool = False

    @property
    def encoded(self) -> EncodedPrompt:
        """The prompt itself, once it is fetched.

        Raises:
            ValueError: If this process has a reference only.
        """
        if isinstance(self.prompt, PromptReference):
            raise ValueError("prompt: expected it in this process, got a reference; call `solve_refs` first")
        return self.prompt

    @property
    def num_tokens(self) -> int:
        """Completion tokens that the loss looks at."""
        return sum(len(ids) for ids, counts in zip(self.token_ids, self.counts, strict=True) if counts)

    @property
    def cost(self) -> int:
        """Tokens that a forward pass computes, the prompt's once."""
        return self.prompt.num_tokens + sum(len(ids) for ids in self.token_ids)

    @property
    def is_silent(self) -> bool:
        """Whether the policy gradient of the group is exactly 0."""
        return not (self.advantages[self.counts] != 0).any()


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """One step of the optimizer.

    Attributes:
        shards: For each learner, the positions of its groups.
        totals: Of all shards, and of the groups of the step that are left out because they are silent.
    """

    shards: tuple[tuple[int, ...], ...]
    totals: StepTotals


def plan_steps(
    groups: Sequence[TrainingGroup],
    *,
    num_learners: int,
    groups_per_step: int | None = None,
    micro_batch_groups: int | None = None,
    num_passes: int = 1,
    skip_silent: bool = False,
    seed: Sequence[int] = (0,),
) -> list[OptimizerStep]:
    """Deal groups to learners: each step gives every learner at least one group and about the same number of tokens.

    Args:
        groups: What there is to learn from.
        num_learners: Learners that share each step; 0 counts as 1.
        groups_per_step: Groups of one optimizer step; None takes all. A remainder too small for all learners joins
            the step before it.
        micro_batch_groups: Most groups of one forward and backward pass; None: a learner's whole share.
        num_passes: Passes over the groups.
        skip_silent: Leave out groups whose gradient is 0. They count in the step's totals all the same, so nothing
            changes but the cost. A learner that would be left without any keeps one.
        seed: Shuffles the groups of each pass where there is more than one step.

    Raises:
        ValueError: If a step would have fewer groups than learners.
    """
    num_learners = max(1, num_learners)
    size = len(groups) if groups_per_step is None else groups_per_step
    if min(size, len(groups)) < num_learners:
        raise ValueError(
            f"an optimizer step has {min(size, len(groups))} groups for {num_learners} learners; "
            "expected at least one each: raise groups_per_iteration or lower num_learners"
        )
    steps = []
    for pass_number in range(num_passes):
        order = np.arange(len(groups))
        if size < len(groups):
            np.random.default_rng([*seed, pass_number]).shuffle(order)
        starts = list(range(0, len(order), size))
        # A learner without a group leaves its peers waiting for its gradients, so too short a rest joins the last step.
        if len(order) - starts[-1] < num_learners:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            positions = order[start:end].tolist()
            # Silent groups are forward passes for nothing; they fill up the shards that would else be empty.
            needed = [p for p in positions if not (skip_silent and groups[p].is_silent)]
            silent = [p for p in positions if skip_silent and groups[p].is_silent]
            needed += silent[: max(0, num_learners - len(needed))]
            shards = _deal(needed, [group.cost for group in groups], num_learners)
            # Over all positions, also those left out: the loss's denominator is what was sampled, not what is computed.
            totals = StepTotals(
                num_tokens=sum(groups[p].num_tokens for p in positions),
                num_completions=sum(len(groups[p].token_ids) for p in positions),
                num_micro_batches=sum(math.ceil(len(shard) / (micro_batch_groups or len(shard))) for shard in shards),
            )
            steps.append(OptimizerStep(shards, totals))
    return steps


def _deal(positions: list[int], costs: Sequence[int], num_learners: int) -> tuple[tuple[int, ...], ...]:
    """Deal in snake order from the costliest group to the cheapest."""
    # A step is as slow as its slowest learner. Back and forth (0 1 2, 2 1 0, ...), so that whoever gets the costliest
    # group of a lap gets the cheapest of the next.
    shards: list[list[int]] = [[] for _ in range(num_learners)]
    for turn, position in enumerate(sorted(positions, key=lambda p: (-costs[p], p))):
        lap, seat = divmod(turn, num_learners)
        shards[seat if lap % 2 == 0 else num_learners - 1 - seat].append(position)
    return tuple(tuple(sorted(shard)) for shard in shards)


@dataclass
class GroupTrainingData(TrainingData):
    """RLlib's parcel for a learner group, with our plan inside.

    Attributes:
        groups: By position.
        steps: The plan. After `shard`, each step holds the one shard of its learner.
    """

    groups: Mapping[int, TrainingGroup] = field(default_factory=dict)
    steps: Sequence[OptimizerStep] = ()

    def validate(self) -> None:
        """Refuse an empty plan; `plan_steps` has seen to the rest."""
        if not self.steps:
            raise ValueError("steps: expected a plan of at least one optimizer step, got none")

    def shard(self, num_shards: int, **kwargs: Any) -> list[tuple[GroupTrainingData, dict[str, Any]]]:
        """Return one parcel per learner with its groups only."""
        parcels: list[tuple[GroupTrainingData, dict[str, Any]]] = []
        for learner in range(num_shards):
            steps = [OptimizerStep((step.shards[learner],), step.totals) for step in self.steps]
            needed = {position for step in steps for position in step.shards[0]}
            parcels.append((GroupTrainingData(groups={p: self.groups[p] for p in needed}, steps=steps), {}))
        return parcels

    @property
    def references(self) -> list[PromptReference]:
        """References to prompts that are not in this process."""
        return [group.prompt for group in self.groups.values() if isinstance(group.prompt, PromptReference)]

    def solve_refs(self) -> None:
        """Fetch the prompts that references name; RLlib calls this on the learner."""
        prompts = iter(fetch(self.references))
        self.groups = {
            position: replace(group, prompt=next(prompts)) if isinstance(group.prompt, PromptReference) else group
            for position, group in self.groups.items()
        }

    def iterate(self) -> Iterator[tuple[list[TrainingGroup], StepTotals]]:
        """Yield (groups, totals of the whole step) of each optimizer step, on one learner."""
        for step in self.steps:
            (positions,) = step.shards
            yield [self.groups[p] for p in positions], step.totals
