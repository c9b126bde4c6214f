"""Decoding under the answer grammar, against the parser and against a search of all tokens.

Axis letters: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer

from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.models.processing import VLMProcessor
from focus_env.boxes import CoordinateFrame
from focus_env.parsing import parse_answer
from focus_env.prompts import get_template
from focus_env.types import Box, ParseStatus

BOX = re.compile(r"<answer>\[(\d+), (\d+), (\d+), (\d+)\]</answer>", re.ASCII)
BOX_TEXT, ABSENT_TEXT = "<answer>[0, 0, 0, 0]</answer>", "<answer>none</answer>"


def is_answer(text: str, absent: bool, largest: int) -> bool:
    match = BOX.fullmatch(text)
    in_range = match is not None and all(n == str(int(n)) and int(n) <= largest for n in match.groups())
    return in_range or (absent and text == ABSENT_TEXT)


@functools.cache
def is_beginning(text: str, absent: bool, largest: int) -> bool:
    """Whether the rest of one of two plain answers completes it: enough, since a number may stop after any digit."""
    ends = [answer[start:] for answer in (BOX_TEXT, ABSENT_TEXT) for start in range(len(answer) + 1)]
    return any(is_answer(text + end, absent, largest) for end in ends)


def merged_tokenizer(*, without: str = "") -> Any:
    """Qwen2's kind of tokenizer with tokens that reach over the grammar's parts and over several digits."""
    merges = [("1", "0"), ("10", "0"), ("100", "0"), ("0", "0"), ("0", "1"), ("2", "3"), ("1000", "0"), (",", "Ġ")]
    merges += [(",Ġ", "1"), ("7", ",Ġ"), ("]", "<"), ("]<", "/"), ("0", "]</"), ("n", "o"), ("Ġ", "Ġ"), (">", "[")]
    merges += [
        ("100", ",Ġ"),
        ("100,Ġ", "0"),
        ("[", "1"),
        (">", "no"),
        (">", "<"),
        ("Ġ", "]"),
        ("é", "["),
        ("0", "5"),
    ]
    alphabet = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c not in without]
    merges = [pair for pair in merges if not set("".join(pair)) & set(without)]
    vocab = {text: token for token, text in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|pad|>", unk_token=None)
    tokenizer.add_tokens(["77, 7"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["88, 8"]})  # a special token is no text
    return tokenizer


@pytest.fixture(scope="module", params=["tiny", "merged"])
def tokenizer(request: pytest.FixtureRequest, processor: VLMProcessor) -> Any:
    return processor.tokenizer if request.param == "tiny" else merged_tokenizer()


def grammar_of(tokenizer: Any, vocab_size: int = 512, **options: Any) -> AnswerGrammar:
    return AnswerGrammar(tokenizer, vocab_size, eos_token_id=tokenizer.eos_token_id, **options)


def walk(grammar: AnswerGrammar, num_rows: int, *, seed: int = 0, num_steps: int = 60) -> torch.Tensor:
    """[B, T] tokens, each drawn from those that are allowed. At every step there must be one to draw."""
    generator = torch.Generator().manual_seed(seed)
    states, tokens = grammar.start(num_rows), []
    for _ in range(num_steps):
        tokens.append(torch.multinomial(grammar.allowed(states).float(), 1, generator=generator)[:, 0])
        states = grammar.advance(states, tokens[-1])
    return torch.stack(tokens, dim=1)


def is_walkable(grammar: AnswerGrammar, token_ids: list[int]) -> bool:
    ids = torch.tensor(token_ids)
    return bool(grammar.allowed_along(ids).gather(-1, ids[:, None]).all())


@pytest.mark.parametrize("absent", [False, True])
def test_whatever_is_drawn_is_a_strict_answer(tokenizer: Any, absent: bool) -> None:
    eos, statuses = tokenizer.eos_token_id, set()
    for ids in walk(grammar_of(tokenizer, allow_absent=absent), 300).tolist():
        end = ids.index(eos)
        assert set(ids[end:]) == {eos}
        result = parse_answer(tokenizer.decode(ids[:end]), frame=CoordinateFrame.NORM_1000, image_wh=(640, 480))
        assert result.is_strict
        statuses.add(result.status)
    expected = {ParseStatus.OK, ParseStatus.REVERSED, ParseStatus.DEGENERATE}
    assert statuses == expected | ({ParseStatus.ABSENT} if absent else set())


@pytest.mark.parametrize(
    ("absent", "largest"), [(False, 1), (True, 57), (False, 999), (False, 1000), (True, 1000), (False, 20_304)]
)
def test_allowed_is_what_a_search_of_all_tokens_finds(tokenizer: Any, absent: bool, largest: int) -> None:
    """In each reachable state, and for several texts that lead to it."""
    grammar = grammar_of(tokenizer, allow_absent=absent, largest=largest)
    texts = {token: tokenizer.decode([token], skip_special_tokens=True) for token in range(len(tokenizer))}
    texts_of_state: dict[int, list[str]] = {}
    stack = [(0, "", False)]
    while stack:
        state, text, is_over = stack.pop()
        seen = texts_of_state.setdefault(state, [])
        if len(seen) == 3 or text in seen:
            continue
        seen.append(text)
        allowed = grammar.allowed(torch.tensor([state]))[0].nonzero()[:, 0].tolist()
        found = {t for t, more in texts.items() if more and not is_over and is_beginning(text + more, absent, largest)}
        if is_over or is_answer(text, absent, largest):
            found.add(tokenizer.eos_token_id)
        assert set(allowed) == found, text
        following = grammar.advance(torch.full((len(allowed),), state), torch.tensor(allowed)).tolist()
        stack += [(s, text + texts[t], t == tokenizer.eos_token_id) for s, t in zip(following, allowed, strict=True)]
    assert sum(len(seen) > 1 for seen in texts_of_state.values()) > 10


def test_every_number(processor: VLMProcessor) -> None:
    """All strings of up to four digits: canonical ones up to the largest number can be written, and no others."""
    tokenizer, grammar = processor.tokenizer, grammar_of(processor.tokenizer)
    digits = torch.tensor(tokenizer("0123456789")["input_ids"])
    opening, comma = (torch.tensor(tokenizer(text)["input_ids"]) for text in ("<answer>[0, ", ","))
    for length in range(1, 5):
        strings = list(itertools.product(range(10), repeat=length))
        parts = opening.expand(len(strings), -1), digits[torch.tensor(strings)], comma.expand(len(strings), -1)
        ids = torch.cat(parts, dim=1)
        is_written = grammar.allowed_along(ids).gather(-1, ids[..., None]).all(1)[:, 0]
        numbers = ["".join(map(str, string)) for string in strings]
        assert is_written.tolist() == [n == str(int(n)) and int(n) <= 1000 for n in numbers]


@pytest.mark.parametrize(
    ("text", "is_possible"),
    [
        ("<answer>[0, 1000, 57, 999]</answer>", True),
        ("<answer>[0, 01, 5, 9]</answer>", False),
        ("<answer>[0, 1001, 5, 9]</answer>", False),
        ("<answer>[0,1, 5, 9]</answer>", False),
        ("<answer>[0,  1, 5, 9]</answer>", False),
        ("<answer>[ 0, 1, 5, 9]</answer>", False),
        ("<answer>[0, 1, 5]</answer>", False),
        ("<answer>[0, 1, 5, 9, 9]</answer>", False),
        (" <answer>[0, 1, 5, 9]</answer>", False),
        ("<answer>[0, 1, 5, 9]</answer>\n", False),
        ("<answer>[0, 1, 5, 9]</answer><answer>[0, 1, 5, 9]</answer>", False),
        ("<answer>[-1, 1, 5, 9]</answer>", False),
    ],
)
def test_by_hand(processor: VLMProcessor, text: str, is_possible: bool) -> None:
    grammar = grammar_of(processor.tokenizer, allow_absent=True)
    assert is_walkable(grammar, processor.encode_answer(text)) == is_possible


@pytest.mark.parametrize("name", ["compact", "default", "iploc"])
def test_a_templates_answers_can_be_written(processor: VLMProcessor, name: str) -> None:
    template, rng = get_template(name), np.random.default_rng(0)
    grammars = [grammar_of(processor.tokenizer, allow_absent=absent) for absent in (False, True)]
    for _ in range(150):
        width, height = rng.integers(1, 2000, 2).tolist()
        (x1, x2), (y1, y2) = (np.sort(rng.choice([0.0, *rng.random(4), 1.0], 2, replace=False)) for _ in range(2))
        box = Box(x1 * width, y1 * height, x2 * width, y2 * height)
        ids = processor.encode_answer(template.answer(box, (width, height)))
        assert [is_walkable(grammar, ids) for grammar in grammars] == [True, True]
    ids = processor.encode_answer(template.answer(None, (64, 48)))
    assert [is_walkable(grammar, ids) for grammar in grammars] == [False, True]


def test_allowed_along_is_stepping(tokenizer: Any) -> None:
    grammar = grammar_of(tokenizer, allow_absent=True)
    ids = walk(grammar, 12, num_steps=30)
    ids[6:, 5] = 3  # not allowed anywhere
    steps, states = [], grammar.start(12)
    for tokens in ids.unbind(1):
        steps.append(grammar.allowed(states))
        states = grammar.advance(states, tokens)
    along = grammar.allowed_along(ids.reshape(3, 4, 30))
    assert torch.equal(along, torch.stack(steps, dim=1).reshape(3, 4, 30, 512))
    assert torch.equal(grammar.allowed_along(ids[0]), along[0, 0])
    assert grammar.allowed_along(ids[:, :0]).shape == (12, 0, 512)


def test_after_a_token_that_is_not_allowed_only_the_end_is(tokenizer: Any) -> None:
    grammar, eos = grammar_of(tokenizer), tokenizer.eos_token_id
    good = tokenizer(BOX_TEXT)["input_ids"]
    padded = grammar.allowed_along(torch.tensor([*good, eos, tokenizer.pad_token_id, 511, good[0]]))
    assert padded[len(good) :].nonzero()[:, 1].tolist() == [eos] * 4
    for foreign in (tokenizer.pad_token_id, eos, tokenizer("é")["input_ids"][0], 511):
        for place in range(len(good)):
            allowed = grammar.allowed_along(torch.tensor([*good[:place], foreign, *good[place:]]))
            assert not allowed[place, foreign]
            assert allowed[place + 1 :].nonzero()[:, 1].tolist() == [eos] * (len(good) - place)


@pytest.mark.parametrize("vocab_size", [512, 4000])
def test_shapes_types_and_ids_that_no_token_has(tokenizer: Any, vocab_size: int) -> None:
    grammar = grammar_of(tokenizer, vocab_size)
    allowed = grammar.allowed_along(walk(grammar, 5))
    assert (allowed.shape, allowed.dtype) == ((5, 60, vocab_size), torch.bool)
    assert allowed.any(-1).all()
    assert not allowed[..., len(tokenizer) :].any()
    states = grammar.start(5)
    states = grammar.advance(states, torch.full((5,), vocab_size - 1))
    assert (states.shape, states.dtype) == ((5,), torch.int64)
    assert (grammar.start(5).shape, grammar.start(5).dtype) == ((5,), torch.int64)


def test_tokens_beyond_the_models_ids_and_the_text_of_the_end_are_left_out() -> None:
    tokenizer = merged_tokenizer()
    eos = tokenizer.convert_tokens_to_ids("100")  # the last id of the model
    rows = walk(AnswerGrammar(tokenizer, eos + 1, eos_token_id=eos), 200).tolist()
    assert all(set(ids[ids.index(eos) :]) == {eos} for ids in rows)
    assert all(is_answer(tokenizer.decode(ids[: ids.index(eos)]), absent=False, largest=1000) for ids in rows)


def test_tensors_stay_on_their_device(tokenizer: Any) -> None:
    """The meta device has no values, but every operation checks that all its tensors lie there."""
    grammar = grammar_of(tokenizer)
    states = grammar.start(3, device="meta")
    along = grammar.allowed_along(states.expand(2, 3))
    for tensor in (states, grammar.allowed(states), grammar.advance(states, states), along):
        assert tensor.device.type == "meta"
    assert grammar.allowed(grammar.start(3)).any(-1).all()


@pytest.mark.parametrize("character", ["[", "7", "Ġ", "w"])
def test_a_missing_character_is_refused(character: str) -> None:
    written = character.replace("Ġ", " ")
    with pytest.raises(ValueError, match=rf"tokenizer: .* got none for '{re.escape(written)}'"):
        grammar_of(merged_tokenizer(without=character))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"largest": 0}, "largest: expected a coordinate from 1 to 999999, got 0"),
        ({"largest": 1_000_000}, "largest: expected a coordinate from 1 to 999999, got 1000000"),
        ({"eos_token_id": 512}, "eos_token_id: expected one of the model's 512 tokens, got 512"),
        ({"eos_token_id": -1}, "eos_token_id: expected one of the model's 512 tokens, got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(tokenizer: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnswerGrammar(tokenizer, 512, **({"eos_token_id": tokenizer.eos_token_id} | options))
