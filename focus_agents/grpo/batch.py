"""Which group goes to which learner in which optimizer step, and how groups become tensors.

RLlib's own batching counts rows by a batch's first column and shards by rows, which cuts a prompt's pictures apart,
repeats rows to fill minibatches, and can leave a learner without work while its peers wait for it. So the plan is made
here, once, before anything is sent (see `plan_steps`).

Axis letters: N groups, G completions per group, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.core.learner.training_data import TrainingData

from focus_agents.processing import EncodedPrompt, PromptBatch, VLMProcessor
from focus_agents.types import RolloutGroup


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """What a learner needs of a rollout group.

    Attributes:
        prompt: Encoded once for the whole group.
        token_ids: G arrays [T] int64, ragged.
        old_logprobs: G arrays [T] float32.
        advantages: [G] float64.
    """

    prompt: EncodedPrompt
    token_ids: tuple[npt.NDArray[np.int64], ...]
    old_logprobs: tuple[npt.NDArray[np.float32], ...]
    advantages: npt.NDArray[np.float64]

    @property
    def num_tokens(self) -> int:
        """Completion tokens of the group."""
        return sum(len(ids) for ids in self.token_ids)


def training_group(group: RolloutGroup, advantages: npt.NDArray[np.float64]) -> TrainingGroup:
    """Keep of a rollout what the loss needs.

    Raises:
        ValueError: If the policy that answered does not speak in tokens.
    """
    if group.generation.prompt is None:
        raise ValueError(f"episode {group.episode_index}: a policy without tokens cannot be trained by GRPO")
    completions = group.generation.completions
    return TrainingGroup(
        prompt=group.generation.prompt,
        token_ids=tuple(c.token_ids for c in completions),
        old_logprobs=tuple(c.logprobs for c in completions),
        advantages=advantages,
    )


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """One step of the optimizer.

    Attributes:
        shards: For each learner, the positions of its groups.
        num_tokens: Completion tokens of all shards together; the loss is divided by it.
    """

    shards: tuple[tuple[int, ...], ...]
    num_tokens: int


def plan_steps(
    num_tokens: Sequence[int],
    *,
    num_learners: int,
    groups_per_step: int | None = None,
    num_iterations: int = 1,
    seed: Sequence[int] = (0,),
) -> list[OptimizerStep]:
    """Deal groups to learners: each step gives every learner at least one group and about the same number of tokens.

    Args:
        num_tokens: Completion tokens of each group.
        num_learners: Learners that share each step; 0 counts as 1.
        groups_per_step: Groups of one optimizer step; None takes all. A remainder too small for all learners joins
            the step before it.
        num_iterations: Passes over the groups.
        seed: Shuffles the groups of each pass where there is more than one step.

    Raises:
        ValueError: If a step would have fewer groups than learners.
    """
    num_learners = max(1, num_learners)
    size = len(num_tokens) if groups_per_step is None else groups_per_step
    if min(size, len(num_tokens)) < num_learners:
        raise ValueError(
            f"an optimizer step has {min(size, len(num_tokens))} groups for {num_learners} learners; "
            "expected at least one each: raise groups_per_iteration or lower num_learners"
        )
    steps = []
    for iteration in range(num_iterations):
        order = np.arange(len(num_tokens))
        if size < len(num_tokens):
            np.random.default_rng([*seed, iteration]).shuffle(order)
        starts = list(range(0, len(order), size))
        if len(order) - starts[-1] < num_learners:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            steps.append(_deal(order[start:end].tolist(), num_tokens, num_learners))
    return steps


def _deal(positions: list[int], num_tokens: Sequence[int], num_learners: int) -> OptimizerStep:
    """Deal in snake order from the longest group to the shortest."""
    shards: list[list[int]] = [[] for _ in range(num_learners)]
    for turn, position in enumerate(sorted(positions, key=lambda p: (-num_tokens[p], p))):
        lap, seat = divmod(turn, num_learners)
        shards[seat if lap % 2 == 0 else num_learners - 1 - seat].append(position)
    return OptimizerStep(tuple(tuple(sorted(s)) for s in shards), sum(num_tokens[p] for p in positions))


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
        """One parcel per learner with its groups only."""
        parcels: list[tuple[GroupTrainingData, dict[str, Any]]] = []
        for learner in range(num_shards):
            steps = [OptimizerStep((step.shards[learner],), step.num_tokens) for step in self.steps]
            needed = {position for step in steps for position in step.shards[0]}
            parcels.append((GroupTrainingData(groups={p: self.groups[p] for p in needed}, steps=steps), {}))
        return parcels

    def solve_refs(self) -> None:
        """Nothing to fetch: the groups are inside."""

    def iterate(self) -> Iterator[tuple[list[TrainingGroup], int]]:
        """(groups, tokens of the whole step) of each optimizer step, on one learner."""
        for step in self.steps:
            (positions,) = step.shards
            yield [self.groups[p] for p in positions], step.num_tokens


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """N groups as tensors, completions padded on the right.

    Attributes:
        prompts: N prompts.
        token_ids: [N, G, T] int64.
        loss_mask: [N, G, T] bool.
        old_logprobs: [N, G, T] float32, 0 at padding.
        advantages: [N, G] float32.
    """

    prompts: PromptBatch
    token_ids: torch.Tensor
    loss_mask: torch.Tensor
    old_logprobs: torch.Tensor
    advantages: torch.Tensor


def collate_groups(
    groups: Sequence[TrainingGroup], processor: VLMProcessor, *, device: torch.device | str = "cpu"
) -> GroupBatch:
    """Turn groups of the same size into tensors."""
    num_tokens = max(len(ids) for group in groups for ids in group.token_ids)
    shape = (len(groups), len(groups[0].token_ids), num_tokens)
    token_ids = torch.full(shape, processor.pad_token_id)
    loss_mask = torch.zeros(shape, dtype=torch.bool)
    old_logprobs = torch.zeros(shape)
    for n, group in enumerate(groups):
        for g, (ids, logprobs) in enumerate(zip(group.token_ids, group.old_logprobs, strict=True)):
            token_ids[n, g, : len(ids)] = torch.tensor(ids)
            loss_mask[n, g, : len(ids)] = True
            old_logprobs[n, g, : len(ids)] = torch.tensor(logprobs)
    advantages = torch.tensor(np.stack([group.advantages for group in groups]), dtype=torch.float32)
    return GroupBatch(
        prompts=processor.collate([group.prompt for group in groups]).to(device),
        token_ids=token_ids.to(device),
        loss_mask=loss_mask.to(device),
        old_logprobs=old_logprobs.to(device),
        advantages=advantages.to(device),
    )
