"""Chat templates of tokenizers: the text of a prompt, and the token that ends a turn."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import AddedToken

Chat = list[dict[str, Any]]
"""Turns as chat templates read them, each with a role and a list of parts."""
THOUGHT = "<think>"
NO_THOUGHT = "\n\n</think>\n\n"
"""Closes a thought that is empty, as Qwen's templates write it."""
MOST_CHARACTERS = 4_000_000
"""Of a prompt: more than any model's context holds."""


def as_text(text: str) -> dict[str, str]:
    """Return words as a part of a turn."""
    return {"type": "text", "text": text}


def prompt_text(tokenizer: Any, chat: Chat) -> str:
    """Return the text of a prompt up to where the answer starts.

    Templates of models that think are asked not to, and a thought that the prompt opens all the same is closed: the
    answer comes at once. A system turn that a template does not take stands before the first turn of the user.

    Args:
        tokenizer: Of transformers.
        chat: The conversation.

    Raises:
        ValueError: If there is no chat template, or it does not take the conversation.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "chat template: expected one in tokenizer_config.json, chat_template.jinja or chat_template.json, got "
            "none; take it from the instruction-tuned model"
        )
    try:
        text = _render(tokenizer, chat, add_generation_prompt=True)
    except TemplateError as error:
        if not any(turn["role"] == "system" for turn in chat):
            raise ValueError(f"chat template: it does not take the conversation ({error})") from error
        try:
            text = _render(tokenizer, _without_system(chat), add_generation_prompt=True)
        except TemplateError as reason:
            raise ValueError(f"chat template: it does not take the conversation ({reason})") from error
    bare = text.rstrip()
    return bare + NO_THOUGHT if bare.endswith(THOUGHT) else text


def end_token_id(tokenizer: Any, named: str | None = None) -> int:
    """Return the token that ends an answer.

    One that the tokenizer does not mark as special is marked, so that decoding leaves it out as it does others.

    Args:
        tokenizer: Of transformers.
        named: The token that is known to; None: the first added one that the chat template writes behind an answer,
            or else before what the user says next, as in GLM's, or else the tokenizer's end-of-text.

    Raises:
        ValueError: If there is none, or the tokenizer cuts special tokens into pieces.
    """
    if getattr(tokenizer, "split_special_tokens", False):
        raise ValueError(
            "tokenizer_config.json: split_special_tokens must be false, got true: the tokens of pictures and turns "
            "would be cut into pieces that no model was trained on; set it to false, or leave it out"
        )
    if named is not None:
        return int(tokenizer.get_vocab()[named])
    found = None if tokenizer.chat_template is None else _end_of_turn(tokenizer)
    found = tokenizer.eos_token_id if found is None else found
    if found is None:
        raise ValueError(
            "tokenizer: expected a token that ends an answer, in the chat template, as eos_token or in "
            "generation_config.json, got none; take the tokenizer's files from where the weights are from"
        )
    return int(found)


def _end_of_turn(tokenizer: Any) -> int | None:
    # Some tokenizers do not mark the ends of turns as special; blanks in a row may be added tokens as well.
    added = {
        token_id: token
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or token.content.strip()
    }
    word = "answer"
    for is_followed in (False, True):
        for content in (lambda text: [as_text(text)], str):  # older templates take a text only
            question = {"role": "user", "content": content("question")}
            chat = [question, {"role": "assistant", "content": content(word)}, *[question] * is_followed]
            try:
                text = _render(tokenizer, chat, add_generation_prompt=False)
            except TemplateError:
                continue
            behind = tokenizer(text.rpartition(word)[2], add_special_tokens=False)["input_ids"]
            found = [token_id for token_id in behind if token_id in added]
            if word in text and found:
                _mark_special(tokenizer, added[found[0]])
                return int(found[0])
    return None


def _mark_special(tokenizer: Any, token: AddedToken) -> None:
    if not token.special:
        marked = AddedToken(token.content, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=True)
        tokenizer.add_tokens([marked], special_tokens=True)


def _render(tokenizer: Any, chat: Chat, *, add_generation_prompt: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=False
        )
    except TemplateError:
        raise
    except Exception as error:  # a template is a stranger's program
        raise TemplateError(f"{type(error).__name__}: {error}") from error
    if len(text) > MOST_CHARACTERS:
        raise TemplateError(f"it makes {len(text):,} characters of it, more than {MOST_CHARACTERS:,}")
    return text


def _without_system(chat: Chat) -> Chat:
    """Return the conversation with the parts of system turns at the front of the user's first."""
    system = [part for turn in chat if turn["role"] == "system" for part in turn["content"]]
    rest = [turn for turn in chat if turn["role"] != "system"]
    first = next((index for index, turn in enumerate(rest) if turn["role"] == "user"), None)
    if first is None:
        return rest
    joined = {**rest[first], "content": [*system, *rest[first]["content"]]}
    return [*rest[:first], joined, *rest[first + 1 :]]
