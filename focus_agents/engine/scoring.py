"""Log-probabilities of given answers, with gradient, for the loss of GRPO.

    score_completions(..., shared_prefix=True)     a group is one row, its prompt and pictures are encoded once
    score_completions(..., shared_prefix=False)    each answer behind a copy of its prompt, the plain way

Both are the same numbers. The output head sees the states that predict an answer's tokens and no others, in chunks.

Axis letters: N prompts, G completions per prompt, P prompt tokens, T completion tokens, V vocabulary, H hidden size,
R completion tokens of all completions together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from focus_agents.engine.forward import (
    answer_positions,
    cache_input,
    image_inputs,
    prefill,
    prompt_positions,
    prompt_reach,
    token_logprobs,
)
from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.models.adapters import base_model, model_parts
from focus_agents.models.attention import can_share_prefix, set_focus_attention
from focus_agents.models.inputs import LOGITS_PER_CHUNK, PromptBatch
from focus_agents.models.settings import Precision
from focus_agents.models.shared_prefix import (
    PackedAnswers,
    Prefix,
    SharedPrefix,
    additive,
    answer_mask,
    pack_answers,
    prompt_mask,
)

LARGEST_GAP: Mapping[Precision, float] = {"fp32": 1e-3, "bf16": 0.05}
"""Most nats per token by which the shared and the repeated way may differ: rounding, far below any mistake."""


def score_completions(
    model: Any,
    prompts: PromptBatch,
    token_ids: torch.Tensor,
    lengths: torch.Tensor,
    *,
    temperature: float = 1.0,
    banned_token_ids: Sequence[int] = (),
    grammar: AnswerGrammar | None = None,
    shared_prefix: bool = True,
    prefix: Prefix | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities of the tokens of G completions of each prompt, with gradient.

    Args:
        model: A model of a known family.
        prompts: N prompts.
        token_ids: [N, G, T] int64; what stands after a completion's end does not matter.
        lengths: [N, G] int64, tokens of each completion.
        temperature: The one that the completions were sampled with; 0 counts as 1.
        banned_token_ids: As in sampling.
        grammar: As in sampling.
        shared_prefix: Whether a prompt is encoded once for its completions, or once for each.
        prefix: What `prefill` left of these prompts, with gradient, to be used up; None: they are encoded here.

    Raises:
        ValueError: If prompts shall be shared by a model that cannot, see `can_share_prefix`.

    Returns:
        ([N, G, T] float32 log-probabilities, [N, G, T] float32 entropies of the predicting distributions, detached),
        both 0 after a completion's end.
    """
    if shared_prefix and not can_share_prefix(base_model(model).config):
        raise ValueError(
            "shared_prefix: expected a model whose layers all have full attention, got one with recurrent layers or "
            "sliding windows; pass shared_prefix=False"
        )
    is_valid = torch.arange(token_ids.shape[2], device=token_ids.device) < lengths[..., None]
    predict = _shared_states if shared_prefix else _repeated_states
    states = predict(model, prompts, token_ids, lengths, prefix)[is_valid]
    allowed = None if grammar is None else grammar.allowed_along(token_ids)[is_valid]
    logprobs, entropies = _score_tokens(
        model_parts(model).head, states, token_ids[is_valid], temperature, banned_token_ids, allowed
    )
    zeros = torch.zeros(token_ids.shape, device=token_ids.device)
    return zeros.masked_scatter(is_valid, logprobs), zeros.masked_scatter(is_valid, entropies)


def shared_prefix_gap(
    model: Any, prompts: PromptBatch, token_ids: torch.Tensor, lengths: torch.Tensor, **options: Any
) -> float:
    """Mean absolute difference between the log-probabilities of the shared and the repeated way; nan counts as inf.

    Args:
        model: As for `score_completions`, like the other arguments.
        prompts: N prompts.
        token_ids: [N, G, T].
        lengths: [N, G].
        options: Temperature, banned tokens, grammar.
    """
    with torch.no_grad():
        shared, repeated = (
            score_completions(model, prompts, token_ids, lengths, shared_prefix=is_shared, **options)[0]
            for is_shared in (True, False)
        )
    gap = float((shared - repeated).abs().sum() / lengths.sum())
    return gap if gap == gap else float("inf")


def _shared_states(
    model: Any, prompts: PromptBatch, token_ids: torch.Tensor, lengths: torch.Tensor, prefix: Prefix | None
) -> torch.Tensor:
    """Return [N, G, T, H] the states that predict each token, from one row for each group."""
    # Each prompt is computed once. Its G answers stand behind it in the same row, hidden from each other by the mask,
    # each at the positions that it would have alone, so attention gives what G rows would give. The prompt's share of
    # the work, most of it, is divided by G. Where sampling in this process has left a prefix with its gradient, the
    # prompt is not computed at all: the answers run over its cache, and backward goes on into the sampler's graph.
    set_focus_attention(model)
    packed = pack_answers(token_ids, lengths)
    if packed.input_ids.shape[1] == 0:  # every completion is its end token
        prefix = prefix or prefill(model, prompts)
        states = prefix.hidden[:, None]
    elif prefix is not None:
        states = torch.cat([prefix.hidden[:, None], _answers_over_cache(model, packed, prefix)], dim=1)
    else:
        states = _one_row(model, prompts, packed)
    rows = torch.arange(len(states), device=states.device)[:, None, None]
    predicting: torch.Tensor = states[rows, packed.predictor]
    return predicting


def _one_row(model: Any, prompts: PromptBatch, packed: PackedAnswers) -> torch.Tensor:
    """Return [N, 1 + C, H] states of the prompts' last tokens and of the answers, all in one forward pass."""
    num_columns = prompts.input_ids.shape[1]
    positions, next_position = prompt_positions(model, prompts)
    own_positions = answer_positions(model, next_position, packed.offset)
    backbone = model_parts(model).backbone
    # The mask travels in transformers' 4-D form, which its own mask functions hand on untouched, and holds rows for the
    # answers only; the prompt's part is said by `SharedPrefix`. Positions are given, since counted through the row each
    # answer would start where the one before it ended.
    output = backbone(
        input_ids=torch.cat([prompts.input_ids, packed.input_ids], dim=1),
        attention_mask=additive(answer_mask(packed, prompts.attention_mask), backbone.dtype),
        position_ids=torch.cat([positions, own_positions], dim=-1),
        use_cache=False,
        shared_prefix=SharedPrefix(num_columns, prompt_mask(prompts.attention_mask, prompt_reach(model, prompts))),
        **image_inputs(model, prompts),
    )
    states: torch.Tensor = output.last_hidden_state[:, num_columns - 1 :]
    return states


def _answers_over_cache(model: Any, packed: PackedAnswers, prefix: Prefix) -> torch.Tensor:
    """Return [N, C, H] states of the answers, behind prompts that have been encoded already."""
    if prefix.cache.get_seq_length() != prefix.attention_mask.shape[1]:
        raise ValueError("prefix: expected one that is fresh from prefill, got one whose cache has been used up")
    backbone = model_parts(model).backbone
    output = backbone(
        input_ids=packed.input_ids,
        attention_mask=additive(answer_mask(packed, prefix.attention_mask), backbone.dtype),
        position_ids=answer_positions(model, prefix.next_position, packed.offset),
        use_cache=True,
        shared_prefix=SharedPrefix(0),
        **cache_input(backbone, prefix.cache),
    )
    states: torch.Tensor = output.last_hidden_state
    return states


def _repeated_states(
    model: Any, prompts: PromptBatch, token_ids: torch.Tensor, lengths: torch.Tensor, prefix: Prefix | None
) -> torch.Tensor:
    """Return [N, G, T, H] the states that predict each token, from a row for each completion, without our code."""
    if prefix is not None:
        raise ValueError("prefix: expected None where prompts are repeated; pass shared_prefix=True to use it")
    # The oracle of the shared way: G copies of each prompt with its pictures, one answer behind each, padded on the
    # right. Masks and positions are left to transformers, so that a mistake in ours cannot be in both.
    num_tokens = token_ids.shape[2]
    repeated = prompts.repeat(token_ids.shape[1])
    is_valid = torch.arange(num_tokens, device=token_ids.device) < lengths.flatten()[:, None]
    answers = token_ids.flatten(0, 1).masked_fill(~is_valid, 0)
    output = model_parts(model).backbone(
        input_ids=torch.cat([repeated.input_ids, answers], dim=1),
        attention_mask=torch.cat([repeated.attention_mask, is_valid.long()], dim=1),
        use_cache=False,
        **image_inputs(model, repeated, num_tokens),
    )
    # A state predicts the next token: from the prompt's last token, which is always at the same column because prompts
    # are padded on the left, to the last token but one.
    states: torch.Tensor = output.last_hidden_state[:, -num_tokens - 1 : -1]
    return states.view(*token_ids.shape, -1)


def _score_tokens(
    head: torch.nn.Module,
    states: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    banned_token_ids: Sequence[int],
    allowed: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ([R] log-probabilities, [R] entropies) of [R] targets from [R, H] states, logits of a chunk at a time.

    Where there is more than one chunk, backward computes its logits again rather than keep those of all.
    """

    def score(states: torch.Tensor, targets: torch.Tensor, allowed: torch.Tensor | None) -> Any:
        log_probabilities = token_logprobs(head(states), temperature, banned_token_ids, allowed)
        with torch.no_grad():
            least = torch.finfo(torch.float32).min
            entropies = -(log_probabilities.exp() * log_probabilities.clamp(min=least)).sum(-1)
        return log_probabilities.gather(-1, targets[:, None])[:, 0], entropies

    rows = max(256, LOGITS_PER_CHUNK // int(head.out_features))  # type: ignore[arg-type]
    if len(states) <= rows:
        logprobs, entropies = score(states, targets, allowed)
        return logprobs, entropies
    masks = [None] * len(states) if allowed is None else torch.split(allowed, rows)
    chunks = zip(torch.split(states, rows), torch.split(targets, rows), masks, strict=False)
    parts = [checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropies for _, entropies in parts])
