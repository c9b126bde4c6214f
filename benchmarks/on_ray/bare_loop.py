"""GRPO without Ray and RLlib, the peer of the overhead."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
import torch

import focus_env
from benchmarks.on_ray.setup import LEARNING_RATE, MAX_GRAD_NORM, NUM_EPISODES, SEED, Args, build_environment
from focus_agents.engine.scoring import score_completions
from focus_agents.grpo.advantage import group_advantages, has_signal
from focus_agents.grpo.batch import collate_groups
from focus_agents.grpo.loss import StepTotals, policy_loss
from focus_agents.grpo.selection import training_group
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models.loading import TINY, load_processor, load_trainable_model
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import RolloutGroup, Sampling
from focus_env.datasets.order import shuffled_indices


class BareLoop:
    """GRPO in one process and without RLlib: nothing but the work of an iteration."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.env = gymnasium.make(focus_env.ENV_ID, **build_environment(args))
        self.processor = load_processor(TINY, max_image_tokens=args.max_image_tokens)
        self.model = load_trainable_model(TINY, seed=SEED)
        self.policy = VLMPolicy(self.model, self.processor, keeps_prefix=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        self.num_iterations = 0

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Copies, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    def take_step(self) -> list[RolloutGroup]:
        """Run one iteration, and return its groups."""
        groups = self.sample()
        self.learn(groups)
        self.num_iterations += 1
        return groups

    def sample(self) -> list[RolloutGroup]:
        """Return the next episodes, answered and scored."""
        count = self.args.groups
        return collect_groups(
            self.env,
            self.policy,
            shuffled_indices(self.num_iterations * count, count, num_episodes=NUM_EPISODES, seed=SEED),
            group_size=self.args.group_size,
            sampling=Sampling(1.0, self.args.answer_tokens),
            seeds=[group_seed(self.num_iterations, position) for position in range(count)],
        )

    def learn(self, groups: Sequence[RolloutGroup]) -> None:
        """Take one optimizer step from groups that all have signal."""
        rewards = np.stack([group.rewards for group in groups])
        assert has_signal(rewards).all(), f"rewards: a group without signal, which RLlib's side skips: {rewards}"
        advantages = group_advantages(rewards)
        rows = [training_group(group, row) for group, row in zip(groups, advantages, strict=True)]
        batch = collate_groups(rows, self.processor)
        logprobs, _ = score_completions(
            self.model,
            batch.prompts,
            batch.token_ids,
            batch.lengths,
            banned_token_ids=self.processor.banned_token_ids,
            prefix=batch.prefix,
        )
        loss, _ = policy_loss(
            logprobs.flatten(0, 1),
            batch.sampler_logprobs.flatten(0, 1),
            batch.advantages.flatten(),
            batch.loss_mask.flatten(0, 1),
            settings=GRPOSettings(max_completion_tokens=self.args.answer_tokens),
            totals=StepTotals(int(batch.lengths.sum()), batch.lengths.numel(), num_micro_batches=1),
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()


def group_seed(iteration: int, position: int) -> int:
    """Return the seed that the algorithm gives a group; if it gives another, the answers differ."""
    return int(np.random.SeedSequence([SEED, iteration, position]).generate_state(1)[0])
