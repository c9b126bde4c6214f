"""Chat templates that move pictures: LLaVA's write all pictures of a turn first, and then its words.

Then no box would stand behind its picture. Such a template gets a few words in front of it, which make each turn one
text: the pictures are written where they belong, in the template's own words. It is saved so, and other programs ask a
policy as it was trained.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from focus_agents.models.chat import as_text, prompt_text

PICTURE = {"type": "image"}
_IN_PLACE = (
    "{%- set focus = namespace(turns=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set focus.turns = focus.turns + [message] -%}{%- else -%}"
    "{%- set words = namespace(text='') -%}{%- for part in message['content'] -%}"
    "{%- set words.text = words.text + (PICTURE if part['type'] == 'image' else part['text']) -%}{%- endfor -%}"
    "{%- set part = {'type': 'text', 'text': words.text} -%}"
    "{%- set focus.turns = focus.turns + [{'role': message['role'], 'content': [part]}] -%}"
    "{%- endif -%}{%- endfor -%}{%- set messages = focus.turns -%}"
)
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


def in_place(chat_template: str, picture: str) -> str:
    """Return a chat template that leaves pictures between the words, where it would move them.

    Args:
        chat_template: In Jinja.
        picture: How it writes a picture.
    """
    return _IN_PLACE.replace("PICTURE", json.dumps(picture)) + chat_template


def settle_pictures(tokenizer: Any, placeholder: str, *, old_placeholder: str | None = None) -> None:
    """Let a tokenizer's chat template write each picture as its placeholder, in its place.

    One that cannot be used stays as it is; who asks by it is told.

    Args:
        tokenizer: Of transformers.
        placeholder: What stands for a picture in the template's text.
        old_placeholder: What stood for it in the templates of early conversions; None: the same.
    """
    found = tokenizer.chat_template
    name, template = ("default", found.get("default")) if isinstance(found, dict) else (None, found)
    if not isinstance(template, str):
        return

    def settle(fresh: str) -> None:
        tokenizer.chat_template = fresh if name is None else {**tokenizer.chat_template, name: fresh}

    if old_placeholder is not None and placeholder not in template:
        template = template.replace(old_placeholder, placeholder)
        settle(template)
    with contextlib.suppress(ValueError):
        if (picture := moved_picture(tokenizer, placeholder)) is not None:
            settle(in_place(template, picture))


def _ask(tokenizer: Any, parts: list[dict[str, str]]) -> str:
    return prompt_text(tokenizer, [{"role": "user", "content": parts}])


def _added(text: str, longer: str, placeholder: str) -> str | None:
    """Return a longer text's insertion, in one place, with one placeholder in it; None: the texts differ otherwise.

    Where it begins and ends as what follows it, as `<image>` before `<|im_end|>`, it may be cut in several ways.
    """
    length = len(longer) - len(text)
    for start in range(len(text), -1, -1):
        added = longer[start : start + length]
        if added.count(placeholder) == 1 and text[:start] + added + text[start:] == longer:
            return added
    return None
