"""Messages with grey pictures, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from focus_env.types import ImageArray, ImagePart, Message, TextPart


def picture(height: int, width: int, *, grey: int = 120) -> ImageArray:
    return np.full((height, width, 3), grey, dtype=np.uint8)


def ask(*images: ImageArray) -> list[Message]:
    """One user turn: a text before each picture, and one at the end."""
    parts = [part for n, image in enumerate(images) for part in (TextPart(f"{n}:"), ImagePart(image))]
    return [Message("user", [*parts, TextPart("Answer:")])]


def num_image_tokens(prompt: EncodedPrompt, processor: VLMProcessor) -> int:
    return int((prompt.input_ids == processor.image_token_id).sum())


def pixels(prompt: EncodedPrompt) -> np.ndarray:
    return prompt.images["pixel_values"]


def as_plain_chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as users of transformers write them."""
    return [{"role": message.role, "content": [_as_part(part) for part in message.content]} for message in messages]


def _as_part(part: ImagePart | TextPart) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
