"""Sampling of short answers to long prompts: a prompt is encoded once, and its G answers decode from one cache.

    prefill(prompts) -> Prefix -> sample_completions

Where the keys and values lie, and how a step is computed, is in `decoding.py`.

Axis letters: N prompts, G completions per prompt, T completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from focus_agents.engine.decoding import start_decoding
from focus_agents.engine.forward import token_logprobs
from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.models.adapters import model_parts
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.shared_prefix import Prefix
from focus_agents.rollout.records import Sampling


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
    grammar: AnswerGrammar | None = None,
    prefix: Prefix | None = None,
) -> SampledBatch:
    """Sample G completions of each prompt from one encoding of it.

    Args:
        model: A model of a known family, in eval mode.
        prompts: N prompts.
        num_completions: G.
        sampling: Temperature and longest completion in tokens. Temperature 0 takes the likeliest token.
        seeds: [N], one for each prompt: its completions depend on its seed, not on its neighbours in the batch.
        eos_token_id: Ends a completion.
        pad_token_id: Fills up after it.
        banned_token_ids: Never sampled; they have probability 0 in `logprobs` too.
        grammar: If given, no token is sampled that leaves it.
        prefix: What `prefill` left of these prompts; it stays as it is. None: they are encoded here.

    Raises:
        FloatingPointError: If the model's probabilities are not numbers.
    """
    num_prompts = len(prompts.input_ids)
    if len(seeds) != num_prompts:
        raise ValueError(f"seeds: expected one for each of the {num_prompts} prompts, got {len(seeds)}")
    set_focus_attention(model)
    head, device = model_parts(model).head, prompts.input_ids.device
    num_steps = sampling.max_completion_tokens
    generators = [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]
    decoder = start_decoding(model, prompts, num_completions, num_steps, prefix)

    shape = (num_prompts, num_completions)
    token_ids = torch.full((*shape, num_steps), pad_token_id, device=device)
    logprobs = torch.zeros(*shape, num_steps, device=device)
    lengths = torch.zeros(shape, dtype=torch.long, device=device)
    is_done = torch.zeros(shape, dtype=torch.bool, device=device)
    states = torch.zeros(0) if grammar is None else grammar.start(num_prompts * num_completions).to(device)
    hidden = decoder.hidden
    for step in range(num_steps):
        logits = head(hidden).expand(-1, num_completions, -1)
        allowed = None if grammar is None else grammar.allowed(states).view(logits.shape)
        log_probabilities = token_logprobs(logits, sampling.temperature, banned_token_ids, allowed)
        tokens = _draw(log_probabilities, generators, greedy=sampling.temperature == 0)
        tokens = tokens.masked_fill(is_done, pad_token_id)
        chosen = log_probabilities.gather(2, tokens[..., None])[..., 0]
        token_ids[:, :, step] = tokens
        logprobs[:, :, step] = chosen.masked_fill(is_done, 0.0)
        lengths += ~is_done
        is_done |= tokens == eos_token_id
        if step + 1 == num_steps or bool(is_done.all()):
            break
        if grammar is not None:
            states = grammar.advance(states, tokens.flatten())
        hidden = decoder.step(tokens)
    _check_numbers(logprobs)  # the likeliest token of no numbers is the first, and looks like an answer
    used = int(lengths.max())
    return SampledBatch(token_ids[..., :used], logprobs[..., :used], lengths)


def _draw(log_probabilities: torch.Tensor, generators: Sequence[torch.Generator], *, greedy: bool) -> torch.Tensor:
    """Return [N, G] one token each; those of a prompt come from that prompt's generator."""
    if greedy:
        return log_probabilities.argmax(-1)
    _check_numbers(log_probabilities[..., 0])  # a softmax over one NaN is NaN everywhere
    probabilities = log_probabilities.exp()
    drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(probabilities, generators, strict=True)]
    return torch.stack(drawn)[..., 0]


def _check_numbers(log_probabilities: torch.Tensor) -> None:
    if bool(log_probabilities.isnan().any()):
        raise FloatingPointError(
            "model: expected probabilities of tokens, got NaN; its weights or its features of the pictures are not "
            "finite: start from another checkpoint, or try `precision` fp32"
        )
