"""Decode answers after prompts that are encoded once: the computation of each step, and the places of keys and values.

    decoder = start_decoding(model, prompts, num_completions, num_steps)
    hidden = decoder.hidden                     predicts the first tokens
    hidden = decoder.step(tokens)               predicts the next ones

If all layers have full attention, the answers of a prompt are columns of its row (see `shared_prefix.py`), so the keys
and values of a prompt are stored once, whatever G is. A recurrent state or a sliding window has no such columns: there
each answer continues from a copy of the prompt's state.

Axis letters: N prompts, G completions per prompt, P prompt tokens, H hidden size.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, DynamicCache

from focus_agents.engine.forward import answer_positions, cache_input, prefill
from focus_agents.models.adapters import base_model, model_parts
from focus_agents.models.attention import can_share_prefix
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.shared_prefix import BufferLayer, Prefix, SharedPrefix, additive


class Decoder(Protocol):
    """G answers to each of N prompts, token by token.

    Attributes:
        hidden: [N, 1, H], the prompts' last states, which predict all first tokens.
    """

    hidden: torch.Tensor

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [N, G, H] states that predict the next tokens.

        Args:
            tokens: [N, G] int64, the tokens drawn last.
        """


def start_decoding(
    model: Any, prompts: PromptBatch, num_completions: int, num_steps: int, prefix: Prefix | None = None
) -> Decoder:
    """Encode prompts once, and return what decodes their answers.

    Args:
        model: A model of a known family, after `set_focus_attention`.
        prompts: N prompts.
        num_completions: G.
        num_steps: Most tokens of an answer.
        prefix: What `prefill` left of these prompts; it stays as it is. None: they are encoded here.
    """
    if can_share_prefix(base_model(model).config):
        return _Columns(model, prompts, num_completions, num_steps, prefix)
    return _Copies(model, prompts, num_completions, prefix)


class _Columns:
    """Answers as columns behind their prompt, one for each answer and step."""

    def __init__(
        self, model: Any, prompts: PromptBatch, num_completions: int, num_steps: int, prefix: Prefix | None
    ) -> None:
        num_layers = base_model(model).config.get_text_config().num_hidden_layers
        self._num_columns = prompts.input_ids.shape[1]
        capacity = self._num_columns + (num_steps - 1) * num_completions
        self._cache = Cache(layers=[BufferLayer(capacity) for _ in range(num_layers)])
        if prefix is None:
            prefix = prefill(model, prompts, self._cache)
        else:
            for layer, encoded in zip(self._cache.layers, prefix.cache.layers, strict=True):
                layer.update(encoded.keys, encoded.values)
        self._model, self._backbone = model, model_parts(model).backbone
        self._next_position = prefix.next_position
        self._mask = decoding_mask(prompts.attention_mask, num_completions, num_steps - 1, prefix.hidden.dtype)
        self._num_done = 0
        self.hidden = prefix.hidden.detach()[:, None]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Decoder`."""
        offsets = torch.full(tokens.shape, self._num_done, device=tokens.device)
        self._num_done += 1
        states: torch.Tensor = self._backbone(
            input_ids=tokens,
            attention_mask=self._mask[..., : self._num_columns + self._num_done * tokens.shape[1]],
            position_ids=answer_positions(self._model, self._next_position, offsets),
            use_cache=True,
            shared_prefix=SharedPrefix(0),
            **cache_input(self._backbone, self._cache),
        ).last_hidden_state
        return states


class _Copies:
    """Answers as rows, each behind a copy of what its prompt left in the cache."""

    def __init__(self, model: Any, prompts: PromptBatch, num_completions: int, prefix: Prefix | None) -> None:
        if prefix is not None:
            raise ValueError("prefix: expected None for a model whose layers cannot share one, got one")
        cache = DynamicCache(config=base_model(model).config.get_text_config())
        encoded = prefill(model, prompts, cache)
        device = prompts.input_ids.device
        copies = torch.arange(len(prompts.input_ids), device=device).repeat_interleave(num_completions)
        cache.reorder_cache(copies)
        self._cache, self._model, self._backbone = cache, model, model_parts(model).backbone
        self._mask = prompts.attention_mask[copies]
        self._next_position = encoded.next_position[copies]
        self._num_done = 0
        self.hidden = encoded.hidden.detach()[:, None]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Decoder`."""
        rows = tokens.reshape(-1, 1)
        self._mask = torch.cat([self._mask, torch.ones_like(rows)], dim=1)
        offsets = torch.full_like(rows, self._num_done)
        self._num_done += 1
        states: torch.Tensor = self._backbone(
            input_ids=rows,
            attention_mask=self._mask,
            position_ids=answer_positions(self._model, self._next_position, offsets),
            use_cache=True,
            **cache_input(self._backbone, self._cache),
        ).last_hidden_state
        return states.view(*tokens.shape, -1)


def decoding_mask(
    prompt_attention_mask: torch.Tensor, num_completions: int, num_steps: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return [N, 1, G, P + steps * G] to add to scores: g sees the prompt and every G-th column from P + g on."""
    # The cache grows by G columns a step, one for each completion, in their order: column P + s * G + g is the token
    # that completion g wrote at step s. So a completion's own tokens are the unit matrix, once for each step.
    own = torch.eye(num_completions, dtype=torch.bool, device=prompt_attention_mask.device).repeat(1, num_steps)
    prompt = prompt_attention_mask.bool()[:, None, :].expand(-1, num_completions, -1)
    return additive(torch.cat([prompt, own.expand(len(prompt), -1, -1)], dim=2)[:, None], dtype)
