"""Our steps, whole and in parts, and transformers' own loop of sampling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.step.setup import SEED, Setup
from focus_agents.engine.forward import image_inputs, prefill
from focus_agents.engine.generation import SampledBatch, sample_completions
from focus_agents.engine.scoring import score_completions
from focus_agents.grpo.advantage import group_advantages, has_signal
from focus_agents.grpo.loss import StepTotals, policy_loss
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models.adapters import base_model
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.shared_prefix import Prefix
from focus_agents.rollout.records import Sampling

SIDES = ("ours", "peer")


def text_reward(text: str) -> float:
    """Score how varied an answer's characters are, 0 to 1: cheap, and hardly ever the same for two answers of noise."""
    return len(set(text)) / max(1, len(text))


def sample(
    setup: Setup, prompts: PromptBatch, *, temperature: float = 1.0, prefix: Prefix | None = None
) -> torch.Tensor:
    """Return [N, G, T] our answers."""
    return draw(setup, prompts, temperature=temperature, prefix=prefix).token_ids


def draw(setup: Setup, prompts: PromptBatch, *, temperature: float = 1.0, prefix: Prefix | None = None) -> SampledBatch:
    """Return our answers with their log-probabilities."""
    with setup.precision():
        return sample_completions(
            setup.model,
            prompts,
            num_completions=setup.size.group_size,
            sampling=Sampling(temperature, setup.size.answer_tokens),
            seeds=range(SEED, SEED + len(prompts.input_ids)),
            eos_token_id=setup.processor.eos_token_id,
            pad_token_id=setup.processor.pad_token_id,
            banned_token_ids=setup.banned_token_ids,
            prefix=prefix,
        )


def generate(setup: Setup, prompts: PromptBatch, *, is_greedy: bool = False) -> torch.Tensor:
    """Return [1, G, T] the answers of transformers' own loop to one prompt; greedy, it gives one answer, [1, 1, T]."""
    torch.manual_seed(SEED)
    how = {"do_sample": False} if is_greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    with setup.precision():
        tokens = base_model(setup.model).generate(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            **image_inputs(setup.model, prompts),
            num_return_sequences=1 if is_greedy else setup.size.group_size,
            max_new_tokens=setup.size.answer_tokens,
            suppress_tokens=setup.banned_token_ids,
            eos_token_id=setup.processor.eos_token_id,
            pad_token_id=setup.processor.pad_token_id,
            **how,
        )
    return tokens[None, :, prompts.input_ids.shape[1] :]


def learn(
    setup: Setup,
    prompts: PromptBatch,
    token_ids: torch.Tensor,
    advantages: torch.Tensor,
    *,
    num_groups: int | None = None,
    shared_prefix: bool = True,
    prefix: Prefix | None = None,
) -> tuple[float, torch.Tensor]:
    """Forward and backward, on-policy; leaves gradients.

    Args:
        setup: The model.
        prompts: N of them.
        token_ids: [N, G, T] answers, none of which ends before T.
        advantages: [N, G].
        num_groups: Of the step, those included that are left out here; None: N.
        shared_prefix: Whether a prompt is there once.
        prefix: What sampling has left of the prompts, with gradient.

    Returns:
        (The loss, [N, G, T] log-probabilities, detached).
    """
    num_rows, num_answers, num_tokens = token_ids.shape
    num_completions = (num_rows if num_groups is None else num_groups) * num_answers
    lengths = torch.full((num_rows, num_answers), num_tokens, device=token_ids.device)
    with setup.precision():
        logprobs, _ = score_completions(
            setup.model, prompts, token_ids, lengths, shared_prefix=shared_prefix, prefix=prefix
        )
    flat = logprobs.flatten(0, 1)
    loss, _ = policy_loss(
        flat,
        flat.detach(),
        advantages.flatten().to(flat),
        torch.ones_like(flat),
        settings=GRPOSettings(loss="grpo", max_completion_tokens=num_tokens),
        totals=StepTotals(num_completions * num_tokens, num_completions, num_micro_batches=1),
    )
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), logprobs.detach()


def take_step(setup: Setup, *, is_fused: bool = False, num_silent: int = 0, skips_silent: bool = False) -> None:
    """Take our whole step: encode, sample, reward, learn, clip, update.

    Args:
        setup: Model, conversations and optimizer.
        is_fused: Whether sampling and learning share one encoding of the prompts.
        num_silent: How many of the groups, the last ones, are given equal rewards; those of the others then differ.
        skips_silent: Whether groups without signal are left out of learning.
    """
    encoded = setup.encode()
    prompts = setup.collate(encoded)
    if is_fused:
        set_focus_attention(setup.model)
    prefix = prefill(setup.model, prompts) if is_fused else None
    token_ids = sample(setup, prompts, prefix=prefix)
    rewards = reward_texts(setup, token_ids)
    if num_silent:
        rewards[:-num_silent, 0] += 1.0  # for a model whose tokens the tokenizer does not know: their texts are equal
        rewards[-num_silent:] = 0.0
    advantages = torch.from_numpy(group_advantages(rewards))
    if skips_silent:
        kept = np.flatnonzero(has_signal(rewards)).tolist()
        prompts = setup.collate([encoded[index] for index in kept])
        token_ids, advantages = token_ids[kept], advantages[kept]
    learn(setup, prompts, token_ids, advantages, num_groups=len(encoded), prefix=prefix)
    torch.nn.utils.clip_grad_norm_(setup.trained, 1.0)
    setup.optimizer.step()
    setup.optimizer.zero_grad()


def reward_texts(setup: Setup, token_ids: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return [N, G] rewards of the answers' texts."""
    return np.array([[text_reward(setup.processor.decode(ids)) for ids in group] for group in token_ids.tolist()])
