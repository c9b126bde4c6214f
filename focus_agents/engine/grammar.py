"""Decoding under a grammar: which tokens may come next, so that a completion is a strict answer and nothing else.

    <answer>[x, y, x, y]</answer> and the end token      four integers from 0 to 1000 with ", " in between
    <answer>none</answer> and the end token              only if an answer may say that the object is absent

This is a part of what `focus_env.parsing.parse_answer` calls strict: the very form in which our templates write answers
in a frame of integers. Under it every answer earns the format's reward, so that this reward teaches nothing; it is
meant for evaluation and ablations.

Axis letters: B rows, T tokens, V vocabulary, S states, C tokens that are ever allowed, the end token included.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch

from focus_env.answer_text import ABSENT_WORD, ANSWER_CLOSE, ANSWER_OPEN
from focus_env.boxes import CoordinateFrame

MAX_LARGEST = 999_999
"""`parse_answer` reads no number of more digits as strict."""


def largest_coordinate(frame: CoordinateFrame) -> int:
    """Return the largest number that an answer in a frame may hold, for a grammar.

    Raises:
        ValueError: If the frame has decimals, or its numbers run as far as the picture is large: one grammar serves
            all pictures, and writes whole numbers.
    """
    if frame not in (CoordinateFrame.NORM_100, CoordinateFrame.NORM_1000):
        raise ValueError(
            "constrained: expected a unit of coordinates with whole numbers and one range for all pictures, norm_100 "
            f"or norm_1000, got {frame.value}; choose another `frame`, or sample without `constrained`"
        )
    return int(frame.extent(image_wh=(1, 1))[0])


class _Number(NamedTuple):
    """A number that is being written; numbers that can go on in the same ways are equal.

    Attributes:
        room: The largest value that 1, 2, ... further digits may make up; as long as the number may still grow.
        is_begun: Whether a digit is written.
    """

    room: tuple[int, ...]
    is_begun: bool

    def after(self, digit: int) -> _Number | None:
        """Return the number with one more digit, or None if that exceeds the limit."""
        if not self.room or digit > self.room[0]:
            return None
        if not self.is_begun and digit == 0:
            return _Number((), is_begun=True)  # no digit follows a leading zero
        rooms = [min(room - digit * 10**k, 10**k - 1) for k, room in enumerate(self.room[1:], start=1)]
        return _Number(tuple(room for room in rooms if room >= 0), is_begun=True)


_Rest = tuple[str | _Number, ...]
"""The rest that is left to write of one kind of answer: literal texts and numbers."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """The grammar over tokens.

    Attributes:
        token_ids: [C] int64, the tokens that are allowed in some state.
        is_allowed: [S, C] bool.
        column: [V] int64, where a token stands in `token_ids`; C for a token that is never allowed.
        next_state: [S, C + 1] int64.
    """

    token_ids: torch.Tensor
    is_allowed: torch.Tensor
    column: torch.Tensor
    next_state: torch.Tensor

    def to(self, device: torch.device) -> _Tables:
        return _Tables(*(getattr(self, field.name).to(device) for field in fields(self)))


class AnswerGrammar:
    """The strict answers as an automaton over a tokenizer's tokens.

    A token is allowed if the text so far with the token's text is the beginning of an answer; which tokens a text is
    split into does not matter. The end token is allowed where an answer is complete, and nowhere else. A row's state
    is an integer that `start` gives and `advance` carries on. One state stands for a row that has nothing left to
    write: its answer is complete, or has ended, or held a token that was not allowed. There only the end token is
    allowed, whatever follows. Thus every row has an allowed token at every step, and completions from elsewhere can be
    scored: a token that was not allowed has probability 0.

    The length of a completion is not limited here. An answer has at most as many tokens as characters, plus the end.

    Tensors are given back on the device of those that are given; the tables are copied to each device once. They are
    built in 0.6 s for 152,000 tokens on one CPU core, nearly all of it spent on the tokens' texts.

    Args:
        tokenizer: A byte-level BPE of transformers. A token's text is what decoding without special tokens gives, so
            that special tokens are never allowed, and neither are parts of characters beyond ASCII.
        vocab_size: V, the length of the model's logits. Ids that the tokenizer does not know are never allowed.
        eos_token_id: Ends a completion.
        allow_absent: Whether ``<answer>none</answer>`` is an answer.
        largest: The largest coordinate, on both axes.

    Raises:
        ValueError: If `largest` or `eos_token_id` is out of range, or a character of the grammar is no token of its
            own, since an answer might then come to where no token leads on.
    """

    def __init__(
        self, tokenizer: Any, vocab_size: int, *, eos_token_id: int, allow_absent: bool = False, largest: int = 1000
    ) -> None:
        if not 1 <= largest <= MAX_LARGEST:
            raise ValueError(f"largest: expected a coordinate from 1 to {MAX_LARGEST}, got {largest}")
        if not 0 <= eos_token_id < vocab_size:
            raise ValueError(f"eos_token_id: expected one of the model's {vocab_size} tokens, got {eos_token_id}")
        self.vocab_size = vocab_size
        self.eos_token_id = eos_token_id
        edges = _character_edges(_answers(allow_absent=allow_absent, largest=largest))
        alphabet = {character for successors in edges for character in successors}
        texts = _token_texts(tokenizer, alphabet)
        texts = {token: text for token, text in texts.items() if token < vocab_size and token != eos_token_id}
        if missing := sorted(alphabet - set(texts.values())):
            raise ValueError(
                f"tokenizer: expected a token for each character of an answer, got none for {missing[0]!r}"
            )
        tables = _compile(edges, texts, vocab_size, eos_token_id)
        self._tables = {tables.token_ids.device: tables}

    def start(self, num_rows: int, device: torch.device | str | None = None) -> torch.Tensor:
        """Return [B] int64 states of rows that have written nothing yet."""
        return torch.zeros(num_rows, dtype=torch.int64, device=device)

    def allowed(self, states: torch.Tensor) -> torch.Tensor:
        """Return the tokens that may come next; at least one in every state.

        Args:
            states: [B] int64, or any other shape.

        Returns:
            [B, V] bool.
        """
        tables = self._tables_on(states.device)
        allowed = torch.zeros(*states.shape, self.vocab_size, dtype=torch.bool, device=states.device)
        allowed[..., tables.token_ids] = tables.is_allowed[states]
        return allowed

    def advance(self, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the states after one more token in each row.

        Args:
            states: [B] int64, or any other shape.
            token_ids: int64 of the same shape. After one that is not allowed, only the end token is.

        Returns:
            [B] int64.
        """
        tables = self._tables_on(states.device)
        return tables.next_state[states, tables.column[token_ids]]

    def allowed_along(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the tokens that were allowed in place of each token of given completions.

        Args:
            token_ids: [..., T] int64; what stands after the end does not matter.

        Returns:
            [..., T, V] bool.
        """
        states = torch.zeros_like(token_ids)
        for step in range(1, token_ids.shape[-1]):
            states[..., step] = self.advance(states[..., step - 1], token_ids[..., step - 1])
        return self.allowed(states)

    def _tables_on(self, device: torch.device) -> _Tables:
        if device not in self._tables:
            self._tables[device] = next(iter(self._tables.values())).to(device)
        return self._tables[device]


def _answers(*, allow_absent: bool, largest: int) -> frozenset[_Rest]:
    """Return the kinds of answers, each from its first character on."""
    number = _Number(tuple(min(largest, 10**k - 1) for k in range(1, len(str(largest)) + 1)), is_begun=False)
    box: _Rest = (f"{ANSWER_OPEN}[", number, ", ", number, ", ", number, ", ", number, f"]{ANSWER_CLOSE}")
    absent: _Rest = (f"{ANSWER_OPEN}{ABSENT_WORD}{ANSWER_CLOSE}",)
    return frozenset({box, absent} if allow_absent else {box})


def _after(rest: _Rest, character: str) -> Iterator[_Rest]:
    """Yield the rests once `character` is written; nothing if it cannot come next."""
    if not rest:
        return
    head, tail = rest[0], rest[1:]
    if isinstance(head, str):
        if head[0] == character:
            yield (head[1:], *tail) if head[1:] else tail
        return
    if character in string.digits:
        number = head.after(int(character))
        if number is not None:
            yield (number, *tail)
    if head.is_begun:
        yield from _after(tail, character)


def _character_edges(answers: frozenset[_Rest]) -> list[dict[str, int]]:
    """Return the automaton over characters: for each state, the next state for each character. State 0 is the start.

    Every state leads to the end, since what is left of an answer can always be written. The only state without
    successors is the one where nothing is left.
    """
    states = [answers]
    index_of = {answers: 0}
    edges: list[dict[str, int]] = []
    for state in states:  # grows on the way
        successors: dict[str, int] = {}
        for character in string.printable:
            following = frozenset(after for rest in state for after in _after(rest, character))
            if not following:
                continue
            if following not in index_of:
                index_of[following] = len(states)
                states.append(following)
            successors[character] = index_of[following]
        edges.append(successors)
    return edges


def _token_texts(tokenizer: Any, alphabet: set[str]) -> dict[int, str]:
    """Return the text of each token that is written in these characters alone."""
    texts: dict[int, str] = {}
    for token in sorted(tokenizer.get_vocab().values()):
        text = tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if text and alphabet.issuperset(text):
            texts[token] = text
    return texts


def _compile(edges: list[dict[str, int]], texts: dict[int, str], vocab_size: int, eos_token_id: int) -> _Tables:
    """Compile from characters to tokens: walk the text of each token from each state."""
    (over,) = (state for state, successors in enumerate(edges) if not successors)
    steps = {
        (state, token): target
        for token, text in texts.items()
        for state in range(len(edges))
        if (target := _walk(edges, state, text)) is not None
    }
    steps[over, eos_token_id] = over
    token_ids = torch.tensor(sorted({token for _, token in steps}))
    column = torch.full((vocab_size,), len(token_ids))
    column[token_ids] = torch.arange(len(token_ids))
    is_allowed = torch.zeros(len(edges), len(token_ids), dtype=torch.bool)
    next_state = torch.full((len(edges), len(token_ids) + 1), over)
    for (state, token), target in steps.items():
        is_allowed[state, column[token]] = True
        next_state[state, column[token]] = target
    return _Tables(token_ids, is_allowed, column, next_state)


def _walk(edges: list[dict[str, int]], state: int, text: str) -> int | None:
    """Return the state after a text, or None if it leads out of the grammar."""
    for character in text:
        following = edges[state].get(character)
        if following is None:
            return None
        state = following
    return state
