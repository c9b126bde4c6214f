"""Chat templates that move pictures: LLaVA's write all pictures of a turn first, and then its words.

Then no box would stand behind its picture. Such a template is given each turn as one text, in which the pictures are
written where they belong, in the template's own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from focus_agents.models.chat import Chat, as_text, prompt_text

PICTURE = {"type": "image"}
WORDS = "Where is it?", "And here?"


def are_in_order(text: str, pieces: Sequence[str]) -> bool:
    """Return whether a text holds all pieces, one behind the other."""
    place = 0
    for piece in pieces:
        found = text.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    return True


def moved_picture(tokenizer: Any, placeholder: str) -> str | None:
    """Return how a chat template writes a picture, if it moves pictures from between the words; None: it does not.

    Args:
        tokenizer: Of transformers, with the template.
        placeholder: What stands for a picture in its text.

    Raises:
        ValueError: If there is no chat template, or it does not take pictures and words.
    """
    first, second = WORDS
    shown = _ask(tokenizer, [PICTURE, as_text(first), PICTURE, as_text(second)])
    if are_in_order(shown, (placeholder, first, placeholder, second)):
        return None
    return _added(_ask(tokenizer, [as_text(first)]), _ask(tokenizer, [PICTURE, as_text(first)]), placeholder)


def with_written_pictures(chat: Chat, picture: str) -> Chat:
    """Return a conversation whose turns are one text each.

    Args:
        chat: Turns with parts.
        picture: What is written for each picture.
    """
    texts = ("".join(part.get("text", picture) for part in turn["content"]) for turn in chat)
    return [{**turn, "content": [as_text(text)]} for turn, text in zip(chat, texts, strict=True)]


def _ask(tokenizer: Any, parts: list[dict[str, str]]) -> str:
    return prompt_text(tokenizer, [{"role": "user", "content": parts}])


def _added(text: str, longer: str, placeholder: str) -> str | None:
    """What a longer text has in one place that another has not, with one placeholder in it; None: it is otherwise.

    Where it begins and ends as what follows it, as `<image>` before `<|im_end|>`, it may be cut in several ways.
    """
    length = len(longer) - len(text)
    for start in range(len(text), -1, -1):
        added = longer[start : start + length]
        if added.count(placeholder) == 1 and text[:start] + added + text[start:] == longer:
            return added
    return None
