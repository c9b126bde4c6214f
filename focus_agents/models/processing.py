"""Messages in, token ids and pixels out.

Axis letters: P prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from focus_agents.models.chat import as_text, end_token_id, prompt_text
from focus_agents.models.family import ModelFamily, PreprocessedImages
from focus_agents.models.inputs import EncodedPrompt, PromptBatch, collate_prompts
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import PromptTemplate
from focus_env.types import Box, ImageArray, ImagePart, Message, TextPart


@dataclass(frozen=True, slots=True)
class PromptSpans:
    """Where an encoded prompt holds its pictures and support boxes, as positions of tokens.

    Attributes:
        images: (start, stop) of each picture's tokens, in the order of the prompt.
        grids: (rows, columns) of each picture's tokens, which lie row by row.
        box_texts: For each marked box, [tokens] int64, the tokens of its text, brackets included.
        box_coordinates: For each marked box, [tokens] int64, those of its numbers and the spaces between them: without
            brackets and commas.
    """

    images: tuple[tuple[int, int], ...]
    grids: tuple[tuple[int, int], ...]
    box_texts: tuple[npt.NDArray[np.int64], ...]
    box_coordinates: tuple[npt.NDArray[np.int64], ...]


class VLMProcessor:
    """Turns messages into a model's inputs, and its tokens back into text.

    It holds a tokenizer and an image processor of transformers, and needs neither torchvision nor a video processor.

    Args:
        tokenizer: The model's.
        image_processor: Likewise.
        family: The model's family.
    """

    def __init__(self, tokenizer: Any, image_processor: Any, family: ModelFamily) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.family = family
        vocabulary = tokenizer.get_vocab()
        self.eos_token_id: int = end_token_id(tokenizer, family.end_token)
        padding = tokenizer.pad_token_id
        self.pad_token_id: int = self.eos_token_id if padding is None else padding
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(family.image_token)
        self.banned_token_ids: tuple[int, ...] = tuple(vocabulary[t] for t in family.never_sampled if t in vocabulary)

    def encode(self, messages: Sequence[Message]) -> EncodedPrompt:
        """Encode a conversation up to where the model's answer starts.

        Raises:
            ValueError: If the conversation holds no picture, or one that the model's image processor cannot take, or a
                text holds the image token.
        """
        images = [part.image for message in messages for part in message.content if isinstance(part, ImagePart)]
        if not images:
            raise ValueError("messages: expected at least one picture, got none; a prompt needs a query image")
        grids, arrays = self._preprocess(images)
        ids = np.asarray(self.tokenizer(self._chat_text(messages))["input_ids"], dtype=np.int64)
        if (ids == self.image_token_id).sum() != len(images):
            token = self.family.image_token
            raise ValueError(f"messages: a text holds the image token {token!r}; pictures are given as ImagePart")
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[ids == self.image_token_id] = grids.prod(1)
        return EncodedPrompt(np.repeat(ids, repeats), grids, arrays)

    def _preprocess(self, images: Sequence[ImageArray]) -> PreprocessedImages:
        try:
            return self.family.preprocess(self.image_processor, images)
        except (ValueError, TypeError, ArithmeticError) as error:
            for number, image in enumerate(images, start=1):
                try:
                    self.family.preprocess(self.image_processor, [image])
                except (ValueError, TypeError, ArithmeticError) as reason:
                    height, width = image.shape[:2]
                    raise ValueError(
                        f"picture {number} of {len(images)}, {width} x {height} pixels: the model's image processor "
                        f"cannot take it: {reason}; leave it out, or cut or pad it"
                    ) from error
            raise

    def locate(self, messages: Sequence[Message], prompt: EncodedPrompt) -> PromptSpans:
        """Where an encoded conversation holds its pictures and its marked boxes.

        Args:
            messages: The conversation.
            prompt: What `encode` made of it.

        Raises:
            ValueError: If the chat template changes the words, or the tokenizer has no offsets for a marked box.
        """
        text = self._chat_text(messages)
        tokens = self.tokenizer(text, return_offsets_mapping=True)
        is_image = np.asarray(tokens["input_ids"]) == self.image_token_id
        sizes = np.ones(len(is_image), dtype=np.int64)
        sizes[is_image] = prompt.grids.prod(1)
        starts = np.cumsum(sizes) - sizes
        marked = _marked_boxes(messages, text, self.family.image_token)
        boxes = [_tokens_of_box(text, tokens["offset_mapping"], *span) for span in marked]
        return PromptSpans(
            images=tuple((int(starts[i]), int(starts[i] + sizes[i])) for i in np.flatnonzero(is_image)),
            grids=tuple((int(rows), int(columns)) for rows, columns in prompt.grids),
            box_texts=tuple(starts[whole] for whole, _ in boxes),
            box_coordinates=tuple(starts[coordinates] for _, coordinates in boxes),
        )

    def _chat_text(self, messages: Sequence[Message]) -> str:
        return prompt_text(self.tokenizer, _as_chat(messages))

    def check_chat_template(self) -> None:
        """Check that the chat template writes each picture as one image token, and words as they are.

        Raises:
            ValueError: If there is none, or it does something else.
        """
        words = "Where is it?"
        text = prompt_text(self.tokenizer, [{"role": "user", "content": [{"type": "image"}, as_text(words)]}])
        if text.count(self.family.image_token) != 1 or words not in text:
            raise ValueError(
                f"chat template: expected {self.family.image_token} once for a picture, and words as they are, got "
                f"{text!r}; take chat_template.jinja from where the weights are from"
            )

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer with its end token, as the model should write it."""
        return [*self.tokenizer(text)["input_ids"], self.eos_token_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a completion, without its end token and other special tokens."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def collate(self, prompts: Sequence[EncodedPrompt]) -> PromptBatch:
        """Pad prompts on the left to the longest, and lay their pictures one after the other."""
        return collate_prompts(prompts, pad_token_id=self.pad_token_id, image_token_id=self.image_token_id)

    def replace_pixels(self, prompts: Sequence[EncodedPrompt], features: Sequence[torch.Tensor]) -> list[EncodedPrompt]:
        """The prompts with a vision tower's features of their pictures in place of the pictures themselves.

        Args:
            prompts: The prompts, in the order in which the tower saw them.
            features: [image tokens of all prompts, ...] each, as from `engine.forward.encode_images`.
        """
        sizes = [int((prompt.input_ids == self.image_token_id).sum()) for prompt in prompts]
        parts = zip(*(torch.split(tensor.cpu(), sizes) for tensor in features), strict=True)
        return [
            replace(prompt, images={}, image_features=tuple(p.clone() for p in part))
            for prompt, part in zip(prompts, parts, strict=True)
        ]

    def fit_template(self, template: PromptTemplate) -> PromptTemplate:
        """The template with the sizes at which this processor's model sees pictures, if its frame counts in them."""
        if template.frame is not CoordinateFrame.RESIZED_PIXEL:
            return template
        return replace(template, image_to_input_wh=self.family.image_to_input_wh(self.image_processor))

    def save_pretrained(self, directory: Path) -> None:
        """Write the tokenizer and the image processor in transformers' format."""
        self.tokenizer.save_pretrained(directory)
        self.image_processor.save_pretrained(directory)


def _as_chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Our messages in the shape that chat templates read."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if isinstance(part, ImagePart) else as_text(part.text) for part in message.content
            ],
        }
        for message in messages
    ]


def _marked_boxes(messages: Sequence[Message], text: str, image_token: str) -> list[tuple[int, int]]:
    """(start, stop) of each marked box in the text that a chat template made of the messages."""
    found: list[tuple[int, int]] = []
    cursor = 0
    for part in (part for message in messages for part in message.content):
        piece = image_token if isinstance(part, ImagePart) else part.text
        start = text.find(piece, cursor)
        if start < 0:
            raise ValueError(f"chat template: expected the prompt's {piece!r} word for word, got {text[cursor:]!r}")
        cursor = start + len(piece)
        if isinstance(part, TextPart) and part.box_span is not None:
            found.append((start + part.box_span[0], start + part.box_span[1]))
    return found


def _tokens_of_box(
    text: str, offsets: Sequence[tuple[int, int]], start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the tokens that write the box `text[start:stop]`, and of those among them that write its numbers."""
    whole: list[int] = []
    coordinates: list[int] = []
    num_digits = 0
    for index, (first, last) in enumerate(offsets):
        written = text[max(first, start) : min(last, stop)]
        digits = sum(character.isdigit() for character in written)
        if written:
            whole.append(index)
        if digits or (written and not set(written) & set("[],")):
            coordinates.append(index)
        num_digits += digits
    if num_digits != sum(character.isdigit() for character in text[start:stop]):
        raise ValueError(
            f"tokenizer: expected every digit of the box {text[start:stop]!r} in some token's offsets, got the tokens "
            f"{[text[slice(*offsets[index])] for index in whole]}; attention targets other than 'region' need offsets"
        )
    return np.array(whole, dtype=np.int64), np.array(coordinates, dtype=np.int64)


def box_cells(box: Box, image_wh: tuple[int, int], grid: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Cells of a grid over a picture whose centres a box holds, at least the one that holds the box's own centre.

    Args:
        box: `xyxy` in pixels of the picture.
        image_wh: (width, height) of the picture in pixels.
        grid: (rows, columns).

    Returns:
        [cells] int64 in rising order, numbered row by row.

    >>> box_cells(Box(0, 0, 64, 30), (64, 64), (4, 4))
    array([0, 1, 2, 3, 4, 5, 6, 7])
    """
    ranges = []
    for low, high, size, cells in (
        (box.y1, box.y2, image_wh[1], grid[0]),
        (box.x1, box.x2, image_wh[0], grid[1]),
    ):
        centres = (np.arange(cells) + 0.5) * size / cells
        inside = np.flatnonzero((centres >= low) & (centres <= high))
        middle = int(np.clip((low + high) / 2 / size * cells, 0, cells - 1))
        ranges.append(inside if len(inside) else np.array([middle]))
    rows, columns = ranges
    return (rows[:, None] * grid[1] + columns).ravel().astype(np.int64)
