"""Messages in, token ids and pixels out.

Axis letters: B prompts, P prompt tokens, K pictures of all prompts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus_env.types import Box, ImageArray, ImagePart, Message, TextPart

IMAGE_TOKEN = "<|image_pad|>"
NEVER_SAMPLED = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
"""An answer that held one of these would break the count of image tokens in the next forward pass."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as arrays; what travels between processes.

    Attributes:
        input_ids: [P] int64, with one image token for each merged patch of each picture.
        pixel_values: [patches, channels * time * patch * patch] float32, all pictures one after the other.
        image_grid_thw: [pictures, 3] int64, patches of each picture along time, height and width.
        image_features: What a frozen vision tower made of the pixels (see `generation.encode_images`), in place of
            them: then `pixel_values` has no rows. None: not computed.
    """

    input_ids: npt.NDArray[np.int64]
    pixel_values: npt.NDArray[np.float32]
    image_grid_thw: npt.NDArray[np.int64]
    image_features: tuple[torch.Tensor, ...] | None = None


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


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Left-padded prompts as tensors.

    Attributes:
        input_ids: [B, P] int64.
        attention_mask: [B, P] int64, 0 where padded.
        mm_token_type_ids: [B, P] int32, 1 at image tokens.
        pixel_values: [patches of all pictures, patch size] float32.
        image_grid_thw: [K, 3] int64.
        num_images: How many of the pictures belong to each prompt.
        image_features: In place of the pixels, as in `EncodedPrompt`: [image tokens of all pictures, hidden size] each.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    mm_token_type_ids: torch.Tensor
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    num_images: tuple[int, ...]
    image_features: tuple[torch.Tensor, ...] | None = None

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch on another device."""
        tensors = {
            field.name: getattr(self, field.name).to(device)
            for field in fields(self)
            if isinstance(getattr(self, field.name), torch.Tensor)
        }
        features = None if self.image_features is None else tuple(part.to(device) for part in self.image_features)
        return replace(self, **tensors, image_features=features)

    def repeat(self, times: int) -> PromptBatch:
        """Each prompt `times` times, copies next to each other, with its pictures."""
        patches = [int(grids.prod(1).sum()) for grids in torch.split(self.image_grid_thw, list(self.num_images))]
        features = None
        if self.image_features is not None:
            tokens = self.mm_token_type_ids.sum(1).tolist()
            features = tuple(_repeat_parts(part, tokens, times) for part in self.image_features)
            patches = [0] * len(patches)
        return PromptBatch(
            input_ids=self.input_ids.repeat_interleave(times, 0),
            attention_mask=self.attention_mask.repeat_interleave(times, 0),
            mm_token_type_ids=self.mm_token_type_ids.repeat_interleave(times, 0),
            pixel_values=_repeat_parts(self.pixel_values, patches, times),
            image_grid_thw=_repeat_parts(self.image_grid_thw, self.num_images, times),
            num_images=tuple(count for count in self.num_images for _ in range(times)),
            image_features=features,
        )


def _repeat_parts(rows: torch.Tensor, sizes: Sequence[int], times: int) -> torch.Tensor:
    """Cut rows into parts of these sizes; each part `times` times, copies next to each other."""
    return torch.cat([part.repeat(times, 1) for part in torch.split(rows, list(sizes))])


class VLMProcessor:
    """Turns messages into a model's inputs, and its tokens back into text.

    It holds a tokenizer and an image processor of transformers, and needs neither torchvision nor a video processor.
    """

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.eos_token_id: int = tokenizer.eos_token_id
        self.pad_token_id: int = tokenizer.pad_token_id
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        vocabulary = tokenizer.get_vocab()
        self.banned_token_ids: tuple[int, ...] = tuple(vocabulary[t] for t in NEVER_SAMPLED if t in vocabulary)

    def encode(self, messages: Sequence[Message]) -> EncodedPrompt:
        """Encode a conversation up to where the model's answer starts.

        Raises:
            ValueError: If the conversation holds no picture, or a text holds the image token.
        """
        images = [part.image for message in messages for part in message.content if isinstance(part, ImagePart)]
        if not images:
            raise ValueError("messages: expected at least one picture, got none; a prompt needs a query image")
        pixels, grid = self._patches(images)
        ids = np.asarray(self.tokenizer(self._chat_text(messages))["input_ids"], dtype=np.int64)
        if (ids == self.image_token_id).sum() != len(images):
            raise ValueError(f"messages: a text holds the image token {IMAGE_TOKEN!r}; pictures are given as ImagePart")
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[ids == self.image_token_id] = grid.prod(1) // self.image_processor.merge_size**2
        return EncodedPrompt(np.repeat(ids, repeats), pixels, grid)

    def _patches(self, images: Sequence[ImageArray]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Patches and grids, as in `EncodedPrompt`; small pictures of one size, as in training, by a short cut."""
        if not self._keeps_size(images):
            vision = self.image_processor(images=images, input_data_format="channels_last", return_tensors="np")
            grid = np.asarray(vision["image_grid_thw"], dtype=np.int64)
            return np.asarray(vision["pixel_values"], dtype=np.float32), grid
        processor = self.image_processor
        (height, width, _), patch, merge = images[0].shape, processor.patch_size, processor.merge_size
        mean, std = (np.array(x, dtype=np.float32) for x in (processor.image_mean, processor.image_std))
        pixels = ((np.stack(images) * processor.rescale_factor).astype(np.float32) - mean) / std
        rows, columns = height // patch, width // patch
        blocks = pixels.reshape(len(images), rows // merge, merge, patch, columns // merge, merge, patch, 3)
        # Patches in the order of tokens, and in a patch channel, time, row, column; a picture is the same at all times.
        blocks = np.broadcast_to(
            blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None],
            (
                len(images),
                rows // merge,
                columns // merge,
                merge,
                merge,
                3,
                processor.temporal_patch_size,
                patch,
                patch,
            ),
        )
        grid = np.tile(np.array([1, rows, columns], dtype=np.int64), (len(images), 1))
        return blocks.reshape(len(images) * rows * columns, -1), grid

    def _keeps_size(self, images: Sequence[ImageArray]) -> bool:
        """Whether the image processor would only rescale and normalize these pictures, which have one size."""
        processor = self.image_processor
        if type(processor) is not Qwen2VLImageProcessorPil or not (processor.do_rescale and processor.do_normalize):
            return False
        height, width = images[0].shape[:2]
        factor, limits = processor.patch_size * processor.merge_size, processor.size
        is_even = height % factor == 0 and width % factor == 0
        is_within = limits["shortest_edge"] <= height * width <= limits["longest_edge"]
        are_equal = all(image.shape == (height, width, 3) and image.dtype == np.uint8 for image in images)
        return is_even and is_within and are_equal and max(height, width) <= 200 * min(height, width)

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
        grids = prompt.image_grid_thw[:, 1:] // self.image_processor.merge_size
        sizes = np.ones(len(is_image), dtype=np.int64)
        sizes[is_image] = grids.prod(1)
        starts = np.cumsum(sizes) - sizes
        boxes = [_tokens_of_box(text, tokens["offset_mapping"], *span) for span in _marked_boxes(messages, text)]
        return PromptSpans(
            images=tuple((int(starts[i]), int(starts[i] + sizes[i])) for i in np.flatnonzero(is_image)),
            grids=tuple((int(rows), int(columns)) for rows, columns in grids),
            box_texts=tuple(starts[whole] for whole, _ in boxes),
            box_coordinates=tuple(starts[coordinates] for _, coordinates in boxes),
        )

    def _chat_text(self, messages: Sequence[Message]) -> str:
        text: str = self.tokenizer.apply_chat_template(_as_chat(messages), tokenize=False, add_generation_prompt=True)
        return text

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer with its end token, as the model should write it."""
        return [*self.tokenizer(text)["input_ids"], self.eos_token_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a completion, without its end token and other special tokens."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def collate(self, prompts: Sequence[EncodedPrompt]) -> PromptBatch:
        """Pad prompts on the left to the longest, and lay their pictures one after the other."""
        input_ids = torch.full((len(prompts), max(len(p.input_ids) for p in prompts)), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            input_ids[row, -len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
            attention_mask[row, -len(prompt.input_ids) :] = 1
        return PromptBatch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mm_token_type_ids=(input_ids == self.image_token_id).int(),
            pixel_values=torch.tensor(np.concatenate([p.pixel_values for p in prompts])),
            image_grid_thw=torch.tensor(np.concatenate([p.image_grid_thw for p in prompts])),
            num_images=tuple(len(p.image_grid_thw) for p in prompts),
            image_features=_join_features(prompts),
        )

    def replace_pixels(self, prompts: Sequence[EncodedPrompt], features: Sequence[torch.Tensor]) -> list[EncodedPrompt]:
        """The prompts with what a vision tower made of their pictures in place of the pixels.

        Args:
            prompts: The prompts, in the order in which the tower saw them.
            features: [image tokens of all prompts, hidden size] each, as from `generation.encode_images`.
        """
        sizes = [int((prompt.input_ids == self.image_token_id).sum()) for prompt in prompts]
        parts = zip(*(torch.split(tensor.cpu(), sizes) for tensor in features), strict=True)
        return [
            replace(prompt, pixel_values=prompt.pixel_values[:0], image_features=tuple(p.clone() for p in part))
            for prompt, part in zip(prompts, parts, strict=True)
        ]

    def save_pretrained(self, directory: Path) -> None:
        """Write the tokenizer and the image processor in transformers' format."""
        self.tokenizer.save_pretrained(directory)
        self.image_processor.save_pretrained(directory)


def _join_features(prompts: Sequence[EncodedPrompt]) -> tuple[torch.Tensor, ...] | None:
    """The features of all prompts' pictures, one after the other."""
    features = [p.image_features for p in prompts if p.image_features is not None]
    if not features:
        return None
    if len(features) < len(prompts):
        raise ValueError(f"prompts: expected image features of all {len(prompts)} or of none, got {len(features)}")
    return tuple(torch.cat(parts) for parts in zip(*features, strict=True))


def _as_chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Our messages in the shape that chat templates read."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
                for part in message.content
            ],
        }
        for message in messages
    ]


def _marked_boxes(messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
    """(start, stop) of each marked box in the text that a chat template made of the messages."""
    found: list[tuple[int, int]] = []
    cursor = 0
    for part in (part for message in messages for part in message.content):
        piece = IMAGE_TOKEN if isinstance(part, ImagePart) else part.text
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
