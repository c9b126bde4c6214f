"""A group is one row: the prompt once, and the completions behind it.

    row n of a batch:   [ padding | prompt | answer 1 | answer 2 | … | answer G | padding ]

A token of an answer sees the prompt and its own answer up to itself, and its position goes on where the prompt's ended,
whichever answer it belongs to. So the row computes what G rows of prompt and answer would, with the prompt's pictures,
keys, values and activations there once. Sampling lays out its cache in the same way, a column for each answer and step.

Axis letters: N groups (rows), G answers per group, T tokens of the longest answer, P prompt columns, C answer columns,
K key columns, A heads, H key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv


@dataclass(slots=True)
class Prefix:
    """The result of a forward pass over the prompts that their completions build on.

    Attributes:
        cache: Keys and values of each layer, [N, key-value heads, P, head size].
        attention_mask: [N, P] int64, 0 at padding.
        next_position: [N] int64, position of the first completion token.
        hidden: [N, H], the last prompt token's state, which predicts the first completion token.
    """

    cache: Cache
    attention_mask: torch.Tensor
    next_position: torch.Tensor
    hidden: torch.Tensor

    def select(self, rows: Sequence[int]) -> Prefix:
        """Return some of the prompts, with the gradient that they had; all, in order, are this prefix itself."""
        if list(rows) == list(range(len(self.hidden))):
            return self
        index = torch.tensor(rows, device=self.hidden.device)
        cache = DynamicCache([(layer.keys[index], layer.values[index]) for layer in self.cache.layers])
        return Prefix(cache, self.attention_mask[index], self.next_position[index], self.hidden[index])


@dataclass(frozen=True, slots=True)
class PrefixRow:
    """One prompt of a `Prefix`."""

    prefix: Prefix
    row: int


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The split of a row's attention; travels as the keyword `shared_prefix` to the attention function.

    The answers' mask, [N, 1, C, K] to be added to scores, travels as transformers' 4-D `attention_mask`.

    Attributes:
        num_prompt_columns: P where the row starts with its prompt; 0 where the prompt is in the cache already.
        prompt_mask: [N, 1, P, P] bool, what prompt tokens see; None: all that stands before them, nothing is padded.
    """

    num_prompt_columns: int
    prompt_mask: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class PackedAnswers:
    """The answers of N groups behind one another. An answer's last token predicts nothing and is left out.

    Attributes:
        input_ids: [N, C] int64, 0 at padding.
        answer: [N, C] int64, which answer a column belongs to; -1 at padding.
        offset: [N, C] int64, its place in the answer.
        predictor: [N, G, T] int64, where the hidden state stands that predicts a token: 0 is the prompt's last token,
            c + 1 column c; 0 after an answer's end.
    """

    input_ids: torch.Tensor
    answer: torch.Tensor
    offset: torch.Tensor
    predictor: torch.Tensor


def pack_answers(token_ids: torch.Tensor, lengths: torch.Tensor) -> PackedAnswers:
    """Lay out answers without the padding between them.

    Args:
        token_ids: [N, G, T] int64; what stands after an answer's end does not matter.
        lengths: [N, G] int64, tokens of each answer, 0 to T.

    >>> packed = pack_answers(torch.tensor([[[5, 6, 7], [8, 9, 0]]]), torch.tensor([[3, 2]]))
    >>> packed.input_ids.tolist(), packed.answer.tolist(), packed.predictor.tolist()
    ([[5, 6, 8]], [[0, 0, 1]], [[[0, 1, 2], [0, 3, 0]]])
    """
    num_groups, num_answers, num_tokens = token_ids.shape
    device = token_ids.device
    step = torch.arange(num_tokens, device=device)
    # An answer of n tokens has n - 1 columns: its first token is predicted by the prompt, its last predicts nothing.
    is_fed = step < lengths[..., None] - 1
    # Columns are counted through all answers of a row, so that the fed tokens of answer 2 follow those of answer 1.
    column = (is_fed.flatten(1).cumsum(1) - 1).view_as(is_fed)
    num_columns = int(is_fed.sum((1, 2)).max())
    rows = torch.arange(num_groups, device=device)[:, None, None].expand_as(is_fed)[is_fed]
    where = (rows, column[is_fed])
    input_ids, offset = token_ids.new_zeros(2, num_groups, num_columns)
    answer = token_ids.new_full((num_groups, num_columns), -1)
    input_ids[where] = token_ids[is_fed]
    offset[where] = step.expand_as(is_fed)[is_fed]
    answer[where] = torch.arange(num_answers, device=device)[:, None].expand_as(is_fed)[is_fed]
    # Token t of an answer is predicted where token t - 1 stands, hence the shift by one; place 0 is the prompt's end.
    predictor = torch.zeros_like(token_ids)
    predictor[:, :, 1:] = torch.where(is_fed, column + 1, 0)[:, :, :-1]
    return PackedAnswers(input_ids, answer, offset, predictor)


def answer_mask(packed: PackedAnswers, prompt_attention_mask: torch.Tensor) -> torch.Tensor:
    """Return [N, 1, C, P + C] bool, what the answers' tokens see.

    Args:
        packed: The answers.
        prompt_attention_mask: [N, P], 0 at padding.
    """
    # Of two answers, the first with three columns, the mask of a row is (P prompt columns, then C = 5 answer columns):
    #
    #                 prompt      answer 1    answer 2
    #     answer 1    0 1 1 1     1 . .       . .          0: the prompt's padding on the left
    #                 0 1 1 1     1 1 .       . .
    #                 0 1 1 1     1 1 1       . .
    #     answer 2    0 1 1 1     . . .       1 .
    #                 0 1 1 1     . . .       1 1
    #
    # Answers stand behind each other and never see each other. Columns of padding at a row's end all belong to "answer"
    # -1 at offset 0: they see the prompt and themselves, so that their softmax has something, and nobody reads them.
    num_columns = packed.answer.shape[1]
    prompt = prompt_attention_mask.bool()[:, None, :].expand(-1, num_columns, -1)
    own = packed.answer[:, :, None] == packed.answer[:, None, :]
    own &= packed.offset[:, :, None] >= packed.offset[:, None, :]
    return torch.cat([prompt, own], dim=2)[:, None]


def prompt_mask(prompt_attention_mask: torch.Tensor, reach: torch.Tensor | None = None) -> torch.Tensor | None:
    """Return [N, 1, P, P] bool, what prompt tokens see; None if nothing is padded and all see what stands before them.

    Padding sees itself, since a row of scores without any key has no softmax.

    Args:
        prompt_attention_mask: [N, P], 0 at padding.
        reach: [N, P] int64, the last column that each token sees, see `ModelFamily.prompt_reach`; None: its own.
    """
    if reach is None and bool(prompt_attention_mask.all()):
        return None
    # What a token reaches, as far as it is no padding. Diagonal: every token sees itself, which changes nothing for
    # tokens of the prompt, and gives rows of padding a key.
    columns = torch.arange(prompt_attention_mask.shape[1], device=prompt_attention_mask.device)
    last = columns.expand_as(prompt_attention_mask) if reach is None else reach
    seen = prompt_attention_mask.bool()[:, None, :] & (columns <= last[:, :, None])
    return (seen | (columns == columns[:, None]))[:, None]


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where a bool mask is true and -inf elsewhere: SDPA would make this anew in every layer, and keep it."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def shared_prefix_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    answers_mask: torch.Tensor,
    layout: SharedPrefix,
    *,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of rows that hold groups: prompts by the causal kernel or their mask, answers under theirs.

    Args:
        query: [N, A, P + C, D], or [N, A, C, D] where the prompts are in the cache.
        key: [N, H, K, D], K = P + C.
        value: As `key`.
        answers_mask: [N or 1, 1, C, K], added to scores.
        layout: Where the prompt ends.
        scaling: Multiplies the scores; None: D ** -0.5.

    Returns:
        [N, A, P + C (or C), D].
    """
    # Two calls in place of one with a [P + C, P + C] mask: the prompt's part, nearly all of the work, is plain causal
    # attention, for which SDPA has kernels that need no mask and skip the upper triangle.
    split = layout.num_prompt_columns
    answers = _sdpa(query[:, :, split:], key, value, answers_mask.to(query.dtype), scaling=scaling)
    if split == 0:
        return answers
    prompts = _sdpa(query[:, :, :split], key[:, :, :split], value[:, :, :split], layout.prompt_mask, scaling=scaling)
    return torch.cat([prompts, answers], dim=2)


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, scaling: float | None
) -> torch.Tensor:
    """SDPA under a mask, or causal without one. Key heads are repeated only where a kernel cannot share them."""
    if mask is not None and query.device.type != "cpu":
        repeats = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )


class BufferLayer(CacheLayerMixin):
    """Keys and values of one layer in a buffer made once; transformers' own layer copies all of them at each step.

    Args:
        capacity: Columns, P + (T - 1) * G for a group, since the last tokens predict nothing.
    """

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the buffers at the first keys, whose shape and type they take."""
        shape = (*key_states.shape[:2], self.capacity, key_states.shape[3])
        self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns; returns views of all so far.

        Raises:
            ValueError: If they do not fit; a single one would vanish without an error otherwise.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        stop = self.length + key_states.shape[2]
        if stop > self.capacity:
            raise ValueError(f"cache: expected at most {self.capacity} columns, got {stop}; make a larger buffer")
        self.keys[:, :, self.length : stop] = key_states
        self.values[:, :, self.length : stop] = value_states
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_seq_length(self) -> int:
        """Return the number of columns so far."""
        return self.length

    def get_max_length(self) -> int:
        """Return the number of columns in all."""
        return self.capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the sizes that transformers' mask functions ask for: keys after this call, and where they start."""
        return self.length + query_length, 0
