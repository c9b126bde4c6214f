"""Messages in, token ids and pixels out.

Axis letters: P prompt tokens.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from focus_agents.models.box_text import marked_boxes, tokens_of_box
from focus_agents.models.chat import as_text, end_token_id, prompt_text
from focus_agents.models.family import ModelFamily, PreprocessedImages
from focus_agents.models.inputs import EncodedPrompt, PromptBatch, collate_prompts
from focus_agents.models.picture_places import are_in_order, settle_pictures
from focus_agents.models.views import View, num_image_tokens
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import PromptTemplate
from focus_env.types import ImageArray, ImagePart, Message, TextPart

PROCESSOR_FILE = "processor_config.json"
"""Settings of transformers' own processor, such as how many tokens a picture has in its prompts."""
CHECKED_WORDS = (
    """Where is it? Write <answer>[10, 20, 300, 400]</answer>, {"none"} & no 'other' (word).""",
    "And here? " + "It is the same one, as large as before. " * 20 + "Answer:",
)
"""Words that a chat template has to leave as they are."""
_TOKENIZING = threading.Lock()
"""Prompts may be encoded in several threads, for their pictures' sake; a tokenizer is for one at a time."""


@dataclass(frozen=True, slots=True)
class PromptSpans:
    """The places of an encoded prompt's pictures and support boxes, as positions of tokens.

    Attributes:
        images: For each picture in the order of the prompt, [tokens] int64, its image tokens.
        views: For each picture, which part of it they show.
        box_texts: For each marked box, [tokens] int64, the tokens of its text, brackets included.
        box_coordinates: For each marked box, [tokens] int64, those of its numbers and the spaces between them: without
            brackets, commas and whatever else a template writes there.
        box_numbers: For each marked box, [4] int64, the token that ends each of its numbers: a number's only token, or
            its last digit's where a tokenizer writes digit by digit.
    """

    images: tuple[npt.NDArray[np.int64], ...]
    views: tuple[tuple[View, ...], ...]
    box_texts: tuple[npt.NDArray[np.int64], ...]
    box_coordinates: tuple[npt.NDArray[np.int64], ...]
    box_numbers: tuple[npt.NDArray[np.int64], ...]


class VLMProcessor:
    """Turns messages into a model's inputs, and its tokens back into text.

    It holds a tokenizer and an image processor of transformers, and needs neither torchvision nor a video processor.

    Args:
        tokenizer: The model's.
        image_processor: Likewise.
        family: The model's family.
        own_image_processor: The same with the model's own limits, which is what is saved; None: it has those.
        settings: What the model's processor in transformers is told beside these; kept for other programs.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any,
        family: ModelFamily,
        *,
        own_image_processor: Any = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.own_image_processor = image_processor if own_image_processor is None else own_image_processor
        self.family = family
        self.settings = dict(settings or {})
        settle_pictures(tokenizer, self._placeholder, old_placeholder=family.old_placeholder)
        vocabulary = tokenizer.get_vocab()
        self.eos_token_id: int = end_token_id(tokenizer, family.end_token)
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(family.image_token)
        padding = tokenizer.pad_token_id  # as an image token it would be counted as a part of a picture
        self.pad_token_id: int = self.eos_token_id if padding in (None, self.image_token_id) else padding
        self.banned_token_ids: tuple[int, ...] = tuple(vocabulary[t] for t in family.never_sampled if t in vocabulary)

    def encode(self, messages: Sequence[Message], *, known_grids: npt.NDArray[np.int64] | None = None) -> EncodedPrompt:
        """Encode a conversation up to where the model's answer starts.

        Args:
            messages: The conversation.
            known_grids: [k, 2] int64, the grids of its first k pictures, which the model has seen already: the arrays
                are of the other pictures alone, the token ids and grids of all. None: the arrays are of all, too.

        Raises:
            ValueError: If the conversation holds no picture, or one that the model's image processor cannot take, or a
                text holds the image token.
        """
        images = _pictures(messages)
        if not images:
            raise ValueError("messages: expected at least one picture, got none; a prompt needs a query image")
        num_known = 0 if known_grids is None else len(known_grids)
        grids, arrays = self._preprocess(images[num_known:])
        grids = grids if known_grids is None else np.concatenate([known_grids, grids])
        with _TOKENIZING:
            text, runs = self._text(messages, self.views(images, grids))
            ids = np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        return EncodedPrompt(np.repeat(ids, self._repeats(ids, runs)), grids, arrays)

    def views(self, images: Sequence[ImageArray], grids: npt.NDArray[np.int64]) -> list[tuple[View, ...]]:
        """Return which part of each picture its image tokens show.

        Args:
            images: The pictures of a prompt, [H, W, 3] uint8 each.
            grids: [pictures, 2] int64, the prompt's.
        """
        return [
            self.family.views(self.image_processor, (int(rows), int(columns)), (image.shape[1], image.shape[0]))
            for image, (rows, columns) in zip(images, grids, strict=True)
        ]

    def _text(self, messages: Sequence[Message], views: Sequence[Sequence[View]]) -> tuple[str, list[int]]:
        """Return the chat template's text with one image token for each run of them, and the lengths of the runs."""
        text = self._chat_text(messages)
        pieces = text.split(self._placeholder)
        if len(pieces) != len(views) + 1:
            raise ValueError(
                f"messages: a text holds the image token {self._placeholder!r}; pictures are given as ImagePart"
            )
        texts = [pieces[0]]
        runs: list[int] = []
        for piece, picture_views in zip(pieces[1:], views, strict=True):
            written, lengths = self.family.image_text(picture_views)
            texts += [written, piece]
            runs += lengths
        return "".join(texts), runs

    def _repeats(self, ids: npt.NDArray[np.int64], runs: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return [tokens] int64, how many tokens of the prompt each token of the text becomes."""
        repeats = np.ones(len(ids), dtype=np.int64)
        is_image = ids == self.image_token_id
        if is_image.sum() != len(runs):
            token = self.family.image_token
            raise ValueError(f"messages: a text holds the image token {token!r}; pictures are given as ImagePart")
        repeats[is_image] = runs
        return repeats

    def _preprocess(self, images: Sequence[ImageArray]) -> PreprocessedImages:
        try:
            return self.family.preprocess(self.image_processor, images)
        except MemoryError:
            raise
        except Exception as error:  # what an image processor raises at an odd shape is no family
            for number, image in enumerate(images, start=1):
                try:
                    self.check_picture(image)
                except ValueError as reason:
                    raise ValueError(f"picture {number} of {len(images)}, {reason}") from error
            raise

    def check_picture(self, image: ImageArray) -> None:
        """Check that the image processor can take a picture.

        Args:
            image: [H, W, 3] uint8.

        Raises:
            ValueError: If it cannot, as Qwen's cannot take one that is more than 200 times as long as wide.
        """
        try:
            self.family.preprocess(self.image_processor, [image])
        except MemoryError:
            raise
        except Exception as error:  # what an image processor raises at an odd shape is no family
            height, width = image.shape[:2]
            raise ValueError(
                f"{width} x {height} pixels: the model's image processor cannot take it: {error}; leave it out, or cut "
                "or pad it"
            ) from error

    def locate(self, messages: Sequence[Message], prompt: EncodedPrompt) -> PromptSpans:
        """Find the pictures and the marked boxes of an encoded conversation.

        Args:
            messages: The conversation.
            prompt: What `encode` made of it.

        Raises:
            ValueError: If the chat template changes the words, or the tokenizer has no offsets for a marked box.
        """
        views = self.views(_pictures(messages), prompt.grids)
        text, runs = self._text(messages, views)
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        sizes = self._repeats(np.asarray(tokens["input_ids"]), runs)
        starts = np.cumsum(sizes) - sizes
        marked = marked_boxes(messages, text, [self.family.image_text(v)[0] for v in views])
        boxes = [tokens_of_box(text, tokens["offset_mapping"], *span) for span in marked]
        ends = np.cumsum([num_image_tokens(v) for v in views])
        return PromptSpans(
            images=tuple(np.split(np.flatnonzero(prompt.input_ids == self.image_token_id), ends[:-1])),
            views=tuple(views),
            box_texts=tuple(starts[box.whole] for box in boxes),
            box_coordinates=tuple(starts[box.coordinates] for box in boxes),
            box_numbers=tuple(starts[box.number_ends] for box in boxes),
        )

    def _chat_text(self, messages: Sequence[Message]) -> str:
        return self.family.complete_text(prompt_text(self.tokenizer, _as_chat(messages)))

    @property
    def _placeholder(self) -> str:
        """The text that stands for a picture in a chat template's text."""
        return self.family.placeholder or self.family.image_token

    def check_chat_template(self) -> None:
        """Check that the chat template writes each picture as one image token, in its place, and words as they are.

        Raises:
            ValueError: If there is none, or it does something else.
        """
        placeholder, picture = self._placeholder, ImagePart(np.zeros((1, 1, 3), dtype=np.uint8))
        parts = [part for words in CHECKED_WORDS for part in (picture, TextPart(words))]
        text = self._chat_text([Message("user", parts)])
        pieces = [piece for words in CHECKED_WORDS for piece in (placeholder, words)]
        counts = [text.count(piece) for piece in (placeholder, *CHECKED_WORDS)]
        if counts != [len(CHECKED_WORDS), *(1 for _ in CHECKED_WORDS)] or not are_in_order(text, pieces):
            raise ValueError(
                f"chat template: expected {placeholder} once for a picture, in its place, and words as they are, got "
                f"{text!r}; take chat_template.jinja from where the weights are from"
            )

    def chat_token_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the chat template's own text, in which a placeholder stands for each picture.

        Processors of other programs take prompts in this form, and expand the placeholders themselves.
        """
        ids: list[int] = self.tokenizer(self._chat_text(messages), add_special_tokens=False)["input_ids"]
        return ids

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer with its end token, as the model should write it."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.eos_token_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a completion, without its end token and other special tokens."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def collate(self, prompts: Sequence[EncodedPrompt]) -> PromptBatch:
        """Pad prompts on the left to the longest, and lay their pictures one after the other."""
        return collate_prompts(prompts, pad_token_id=self.pad_token_id, image_token_id=self.image_token_id)

    def replace_pixels(self, prompts: Sequence[EncodedPrompt], features: Sequence[torch.Tensor]) -> list[EncodedPrompt]:
        """Return the prompts with a vision tower's features of their pictures in place of the pictures themselves.

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
        """Return the template with the sizes at which this processor's model sees pictures, if its frame needs them."""
        if template.frame is not CoordinateFrame.RESIZED_PIXEL:
            return template
        return replace(template, image_to_input_wh=self.family.image_to_input_wh(self.image_processor))

    def save_pretrained(self, directory: Path) -> None:
        """Write tokenizer, image processor, with the model's own limits, and settings in transformers' format."""
        for name in ("is_local", "local_files_only"):  # how it was loaded here
            self.tokenizer.init_kwargs.pop(name, None)
        self.tokenizer.save_pretrained(directory)
        self.own_image_processor.save_pretrained(directory)
        if self.settings:
            (directory / PROCESSOR_FILE).write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")


def _as_chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return our messages in the shape that chat templates read."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if isinstance(part, ImagePart) else as_text(part.text) for part in message.content
            ],
        }
        for message in messages
    ]


def _pictures(messages: Sequence[Message]) -> list[ImageArray]:
    return [part.image for message in messages for part in message.content if isinstance(part, ImagePart)]
