"""Find the boxes in the text of a prompt, and the tokens that write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from focus_env.types import ImagePart, Message, TextPart

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def marked_boxes(messages: Sequence[Message], text: str, image_texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return (start, stop) of each marked box in the text that a chat template made of the messages.

    Args:
        messages: The conversation.
        text: The chat template's.
        image_texts: What stands in it for each picture.

    Raises:
        ValueError: If the chat template changes the words.
    """
    found: list[tuple[int, int]] = []
    cursor, pictures = 0, iter(image_texts)
    for part in (part for message in messages for part in message.content):
        piece = next(pictures) if isinstance(part, ImagePart) else part.text
        start = text.find(piece, cursor)
        if start < 0:
            # Some chat templates trim what is said.
            trimmed = piece.strip()
            start = text.find(trimmed, cursor) - piece.index(trimmed)
            piece = piece.rstrip()
        if start < 0:
            raise ValueError(f"chat template: expected the prompt's {piece!r} word for word, got {text[cursor:]!r}")
        cursor = start + len(piece)
        if isinstance(part, TextPart) and part.box_span is not None:
            found.append((start + part.box_span[0], start + part.box_span[1]))
    return found


class BoxTokens(NamedTuple):
    """Indices of tokens, [tokens] int64 each: of all that writes a box, of its numbers, and of each number's end."""

    whole: npt.NDArray[np.int64]
    coordinates: npt.NDArray[np.int64]
    number_ends: npt.NDArray[np.int64]


def tokens_of_box(text: str, offsets: Sequence[tuple[int, int]], start: int, stop: int) -> BoxTokens:
    """Return the tokens that write the box `text[start:stop]`.

    Args:
        text: Of the prompt.
        offsets: (start, stop) of each token in the text.
        start: Where the box begins.
        stop: Where it ends.

    Raises:
        ValueError: If the offsets leave a digit of the box out.
    """
    whole: list[int] = []
    coordinates: list[int] = []
    number_ends: list[int] = []
    ends = {found.end() - 1 for found in _NUMBER.finditer(text, start, stop)}
    num_digits = 0
    for index, (first, last) in enumerate(offsets):
        if last <= start or first >= stop:  # nearly all of a prompt's
            continue
        span = max(first, start), min(last, stop)
        written = text[slice(*span)]
        digits = sum(character.isdigit() for character in written)
        if written:
            whole.append(index)
        if digits or (written and set(written) <= set(" .")):
            coordinates.append(index)
        number_ends += [index] * sum(place in ends for place in range(*span))
        num_digits += digits
    if num_digits != sum(character.isdigit() for character in text[start:stop]):
        raise ValueError(
            f"tokenizer: expected every digit of the box {text[start:stop]!r} in some token's offsets, got the tokens "
            f"{[text[slice(*offsets[index])] for index in whole]}; attention targets other than 'region' need offsets"
        )
    return BoxTokens(*(np.array(found, dtype=np.int64) for found in (whole, coordinates, number_ends)))
