"""Sampling and scoring of short answers to long prompts: a prompt is encoded once, its G answers share the result.

    prefill(prompts) -> Prefix -> sample_completions     (no gradient)
                               -> score_completions      (with gradient)

Axis letters: N prompts, G completions per prompt, B = N * G, P prompt tokens, T completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from focus_agents.models.adapters import base_model
from focus_agents.processing import PromptBatch
from focus_agents.types import Sampling


@dataclass(slots=True)
class Prefix:
    """What a forward pass over the prompts leaves for their completions.

    Attributes:
        cache: Keys and values of each layer, [rows, heads, P, head size]. Decoding appends to it.
        attention_mask: [rows, P] int64, 0 at padding.
        next_position: [rows] int64, M-RoPE position of the first completion token, the same on all three axes.
        logits: [rows, V], what the last prompt token predicts, that is, the first completion token.
    """

    cache: DynamicCache
    attention_mask: torch.Tensor
    next_position: torch.Tensor
    logits: torch.Tensor

    def repeat(self, num_completions: int) -> Prefix:
        """One row per completion, those of a prompt next to each other. Moves the cache; this prefix is used up."""
        self.cache.batch_repeat_interleave(num_completions)
        return Prefix(
            self.cache,
            self.attention_mask.repeat_interleave(num_completions, 0),
            self.next_position.repeat_interleave(num_completions, 0),
            self.logits.repeat_interleave(num_completions, 0),
        )


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """G completions of each of N prompts.

    Attributes:
        token_ids: [N, G, T] int64, the pad token after the end.
        logprobs: [N, G, T] float32 under the distribution that was sampled from; 0 after the end.
        lengths: [N, G] int64, tokens up to and including the end token.
    """

    token_ids: torch.Tensor
    logprobs: torch.Tensor
    lengths: torch.Tensor


def prefill(model: Any, prompts: PromptBatch) -> Prefix:
    """Run the prompts through the model once: pictures and prompt tokens are encoded here and nowhere else."""
    backbone = base_model(model).model
    position_ids, _ = backbone.get_rope_index(
        prompts.input_ids,
        mm_token_type_ids=prompts.mm_token_type_ids,
        image_grid_thw=prompts.image_grid_thw,
        attention_mask=prompts.attention_mask,
    )
    cache = DynamicCache(config=base_model(model).config.get_text_config())
    output = model(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        position_ids=position_ids,
        mm_token_type_ids=prompts.mm_token_type_ids,
        pixel_values=prompts.pixel_values,
        image_grid_thw=prompts.image_grid_thw,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefix(cache, prompts.attention_mask, position_ids.amax(dim=(0, 2)) + 1, output.logits[:, -1])


@torch.no_grad()
def sample_completions(
    model: Any,
    prompts: PromptBatch,
    *,
    num_completions: int,
    sampling: Sampling,
    seeds: Sequence[int],
    eos_token_id: int,
    pad_token_id: int,
    banned_token_ids: Sequence[int] = (),
) -> SampledBatch:
    """Sample G completions of each prompt from one encoding of it.

    Args:
        model: A Qwen2-VL-like model of transformers, in eval mode.
        prompts: N prompts.
        num_completions: G.
        sampling: Temperature and longest completion in tokens. Temperature 0 takes the likeliest token.
        seeds: [N], one for each prompt: its completions depend on its seed, not on its neighbours in the batch.
        eos_token_id: Ends a completion.
        pad_token_id: Fills up after it.
        banned_token_ids: Never sampled; they have probability 0 in `logprobs` too.
    """
    if len(seeds) != len(prompts.input_ids):
        raise ValueError(f"seeds: expected one for each of the {len(prompts.input_ids)} prompts, got {len(seeds)}")
    generators = [torch.Generator(prompts.input_ids.device).manual_seed(int(seed)) for seed in seeds]
    prefix = prefill(model, prompts).repeat(num_completions)
    logits, device = prefix.logits, prefix.logits.device
    num_rows, num_steps = logits.shape[0], sampling.max_completion_tokens
    token_ids = torch.full((num_rows, num_steps), pad_token_id, device=device)
    logprobs = torch.zeros(num_rows, num_steps, device=device)
    lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
    is_done = torch.zeros(num_rows, dtype=torch.bool, device=device)
    for step in range(num_steps):
        log_probabilities = token_logprobs(logits, sampling.temperature, banned_token_ids)
        tokens = _draw(log_probabilities, generators, greedy=sampling.temperature == 0)
        tokens = tokens.masked_fill(is_done, pad_token_id)
        chosen = log_probabilities.gather(1, tokens[:, None])[:, 0]
        token_ids[:, step] = tokens
        logprobs[:, step] = chosen.masked_fill(is_done, 0.0)
        lengths += ~is_done
        is_done |= tokens == eos_token_id
        if step + 1 == num_steps or bool(is_done.all()):
            break
        logits = _continue(model, prefix, tokens[:, None], offset=step)[:, 0]
    used = int(lengths.max())
    shape = (len(seeds), num_completions)
    return SampledBatch(
        token_ids[:, :used].reshape(*shape, used),
        logprobs[:, :used].reshape(*shape, used),
        lengths.reshape(shape),
    )


def score_completions(
    model: Any,
    prompts: PromptBatch,
    token_ids: torch.Tensor,
    *,
    temperature: float = 1.0,
    banned_token_ids: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of given completions, with gradient; each prompt and its pictures are encoded once.

    Args:
        model: A Qwen2-VL-like model of transformers.
        prompts: N prompts.
        token_ids: [N, G, T] int64; what stands after a completion's end does not change what comes before.
        temperature: The one that the completions were sampled with; 0 counts as 1.
        banned_token_ids: As in sampling.

    Returns:
        ([N, G, T] float32 log-probabilities, [N, G, T] float32 entropies of the predicting distributions, detached).
    """
    num_prompts, num_completions, num_tokens = token_ids.shape
    prefix = prefill(model, prompts).repeat(num_completions)
    rows = token_ids.reshape(num_prompts * num_completions, num_tokens)
    logits = prefix.logits[:, None]
    if num_tokens > 1:
        logits = torch.cat([logits, _continue(model, prefix, rows[:, :-1], offset=0)], dim=1)
    log_probabilities = token_logprobs(logits, temperature, banned_token_ids)
    chosen = log_probabilities.gather(-1, rows[..., None])[..., 0]
    with torch.no_grad():
        entropies = -(log_probabilities.exp() * log_probabilities.clamp(min=torch.finfo(torch.float32).min)).sum(-1)
    return chosen.reshape(token_ids.shape), entropies.reshape(token_ids.shape)


def token_logprobs(logits: torch.Tensor, temperature: float, banned_token_ids: Sequence[int]) -> torch.Tensor:
    """[..., V] float32 log-probabilities at a temperature (0 counts as 1), -inf for banned tokens."""
    logits = logits.float()
    if temperature not in (0.0, 1.0):
        logits = logits / temperature
    if banned_token_ids:
        logits = logits.index_fill(-1, torch.tensor(banned_token_ids, device=logits.device), -torch.inf)
    return logits.log_softmax(-1)


def _draw(log_probabilities: torch.Tensor, generators: Sequence[torch.Generator], *, greedy: bool) -> torch.Tensor:
    """[B] one token a row; the rows of a prompt draw from that prompt's generator."""
    if greedy:
        return log_probabilities.argmax(-1)
    groups = log_probabilities.exp().chunk(len(generators))
    drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(groups, generators, strict=True)]
    return torch.cat(drawn)[:, 0]


def _continue(model: Any, prefix: Prefix, token_ids: torch.Tensor, *, offset: int) -> torch.Tensor:
    """[B, n, V] logits after n further tokens [B, n], the first of which is completion token `offset`."""
    num_rows, num_new = token_ids.shape
    steps = torch.arange(offset, offset + num_new, device=token_ids.device)
    positions = (prefix.next_position[:, None] + steps).expand(3, num_rows, num_new)
    ones = prefix.attention_mask.new_ones(num_rows, offset + num_new)
    output = model(
        input_ids=token_ids,
        attention_mask=torch.cat([prefix.attention_mask, ones], dim=1),
        position_ids=positions,
        past_key_values=prefix.cache,
        use_cache=True,
    )
    logits: torch.Tensor = output.logits
    return logits
