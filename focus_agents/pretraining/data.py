"""Make the data of the base model: pictures with questions about single objects, answered in the next tokens.

    <picture> Where is red blue stripes star? Answer:<answer>[12, 20, 40, 55]</answer>
    <picture> What is at [12, 20, 40, 55]? Answer: red blue stripes star

A document holds a few such pictures that have nothing to do with each other, so that a model which has read nothing
else knows objects, names and boxes, but has never matched an object across pictures. Each object of a picture is asked
for at most once: asked again, the answer could be copied from the text, and the picture would not be looked at.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from focus_agents.models.inputs import IGNORED, EncodedPrompt, PromptBatch
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.small import LARGEST_COORDINATE, NAMES, VOCAB_SIZE
from focus_env.datasets.synthetic.drawing import BACKGROUND_DRAWS, LIGHT_DRAWS, draw_scene
from focus_env.datasets.synthetic.identities import Identity, identity_from_number, num_identities
from focus_env.datasets.synthetic.paints import Split
from focus_env.datasets.synthetic.scenes import DRAWS_PER_OBJECT, LEVELS, Level, arrange, visible_box
from focus_env.prompts import PromptTemplate
from focus_env.types import Box, ImageArray, ImagePart, Message, TextPart

ANSWER_CUE = "Answer:"
NAME_LENGTH = 4
"""Words of a name, and tokens."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the curriculum.

    Attributes:
        until: Step at which it ends.
        num_objects: Least and most objects in a picture.
        num_questions: Questions about each picture, at most the least number of objects.
        num_pictures: Pictures of a document.
        num_documents: Documents of a batch.
    """

    until: int
    num_objects: tuple[int, int]
    num_questions: int
    num_pictures: int
    num_documents: int


CURRICULUM = (
    Stage(until=400, num_objects=(1, 1), num_questions=1, num_pictures=1, num_documents=64),
    Stage(until=800, num_objects=(1, 2), num_questions=1, num_pictures=1, num_documents=64),
    Stage(until=1200, num_objects=(2, 3), num_questions=2, num_pictures=2, num_documents=24),
    Stage(until=10**9, num_objects=(3, 5), num_questions=3, num_pictures=4, num_documents=16),
)
"""With several objects, or several pictures, from the first step on, colours are not learned in any time that was
waited for."""

FURTHER_CURRICULUM = (
    Stage(until=150, num_objects=(1, 2), num_questions=1, num_pictures=4, num_documents=16),
    Stage(until=300, num_objects=(2, 3), num_questions=2, num_pictures=4, num_documents=16),
    CURRICULUM[-1],
)
"""Of a model that knows objects and colours already."""

EASY_SCENES_UNTIL = 500
"""Step up to which objects are large and stand nearly upright on faint backgrounds, for a model with new weights."""
EASY_SCENES = LEVELS[1]
SCENES = Level(
    num_objects=(1, 5),
    rotation=math.pi,
    radius=(0.11, 0.22),
    light=0.7,
    tint=0.1,
    max_overlap=0.0,
    background=1.0,
    cut=0.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AskedBoxes:
    """The boxes in the questions of a batch of documents, "What is at [12, 20, 40, 55]?", and what they hold.

    Attributes:
        rows: [K] int64, the document of each box.
        ends: [K] int64, the column of the token that ends the box's last number.
        names: [K, 4] int64, the tokens of the object's name.
    """

    rows: torch.Tensor
    ends: torch.Tensor
    names: torch.Tensor

    def to(self, device: torch.device | str) -> AskedBoxes:
        """Return the same on another device."""
        return AskedBoxes(self.rows.to(device), self.ends.to(device), self.names.to(device))


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Documents, questions and answers alike.

    Attributes:
        prompts: B documents.
        labels: [B, N] int64, the tokens of the answers, `IGNORED` elsewhere.
        boxes: The boxes that are asked about; None where nobody needs them.
    """

    prompts: PromptBatch
    labels: torch.Tensor
    boxes: AskedBoxes | None = None


def object_name(identity: Identity) -> str:
    """Name an object in four words: ground colour, pattern colour (the ground's if there is none), texture, shape."""
    return " ".join((identity.colours[0], identity.colours[-1], identity.texture, identity.family))


def draw_picture(
    rng: np.random.Generator, identities: Sequence[Identity], level: Level, size: int
) -> tuple[ImageArray, list[Box | None]]:
    """Return a scene, and the box of what is seen of each object, in their order; None for one that is hidden."""
    draws = rng.random(BACKGROUND_DRAWS + LIGHT_DRAWS + len(identities) * DRAWS_PER_OBJECT).tolist()
    background, light = draws[:BACKGROUND_DRAWS], draws[BACKGROUND_DRAWS : BACKGROUND_DRAWS + LIGHT_DRAWS]
    poses = np.array(draws[BACKGROUND_DRAWS + LIGHT_DRAWS :]).reshape(len(identities), -1).tolist()
    placed = arrange(identities, poses, level, size).objects
    pixels = draw_scene(placed, background_draws=background, light_draws=light, level=level, size=size)
    boxes = {thing.identity: visible_box(thing, placed[i + 1 :], size)[0] for i, thing in enumerate(placed)}
    return pixels, [boxes[identity] for identity in identities]


def draw_identities(rng: np.random.Generator, split: Split, count: int) -> list[Identity]:
    """Return objects that differ in their names."""
    chosen: dict[str, Identity] = {}
    while len(chosen) < count:
        identity = identity_from_number(split, int(rng.integers(num_identities(split))))
        chosen.setdefault(object_name(identity), identity)
    return list(chosen.values())


def draw_document(
    rng: np.random.Generator, stage: Stage, level: Level, *, split: Split, template: PromptTemplate, size: int
) -> list[Message]:
    """Return a document: a user and an assistant turn for each question; a picture stands before its first question."""
    messages: list[Message] = []
    for _ in range(stage.num_pictures):
        count = int(rng.integers(stage.num_objects[0], stage.num_objects[1] + 1))
        identities = draw_identities(rng, split, count)
        pixels, boxes = draw_picture(rng, identities, level, size)
        seen = [(identity, box) for identity, box in zip(identities, boxes, strict=True) if box is not None]
        picture: list[TextPart | ImagePart] = [ImagePart(pixels)]
        for index in rng.permutation(len(seen))[: stage.num_questions]:
            identity, box = seen[index]
            name, where = object_name(identity), template.write_box(box, (size, size))
            if rng.random() < 0.5:
                question = TextPart(f"Where is {name}? {ANSWER_CUE}")
                answer = template.answer(box, (size, size))
            else:
                start = len("What is at ")
                span = (start, start + len(where))
                question = TextPart(f"What is at {where}? {ANSWER_CUE}", box_span=span, box=box)
                answer = f" {name}"
            messages += [Message("user", [*picture, question]), Message("assistant", [TextPart(answer)])]
            picture = []
    return messages


def encode_documents(
    processor: VLMProcessor, documents: Sequence[Sequence[Message]], *, finds_boxes: bool = False
) -> DocumentBatch:
    """Return documents as tokens, with the answers, from after `ANSWER_CUE` to the end token, as labels.

    Args:
        processor: The small model's.
        documents: B of them.
        finds_boxes: Whether to say where the boxes are that are asked about.
    """
    encoded = [processor.encode(document) for document in documents]
    prompts = processor.collate(encoded)
    is_cue = prompts.input_ids == processor.tokenizer.convert_tokens_to_ids(ANSWER_CUE)
    is_end = prompts.input_ids == processor.eos_token_id
    is_answer = ((is_cue.cumsum(1) > is_end.cumsum(1)) & ~is_cue) | is_end
    labels = prompts.input_ids.masked_fill(~is_answer, IGNORED)
    return DocumentBatch(prompts, labels, find_boxes(processor, documents, encoded) if finds_boxes else None)


def find_boxes(
    processor: VLMProcessor, documents: Sequence[Sequence[Message]], encoded: Sequence[EncodedPrompt]
) -> AskedBoxes:
    """Find the boxes that are asked about in documents that are padded on the left to the longest.

    Args:
        processor: The small model's.
        documents: B of them.
        encoded: The same as tokens.
    """
    longest = max(len(prompt.input_ids) for prompt in encoded)
    rows: list[int] = []
    ends: list[int] = []
    names: list[list[int]] = []
    for row, (document, prompt) in enumerate(zip(documents, encoded, strict=True)):
        padding = longest - len(prompt.input_ids)
        found = processor.locate(document, prompt).box_numbers
        rows += [row] * len(found)
        ends += [padding + int(numbers[-1]) for numbers in found]
        for question, answer in zip(document[::2], document[1::2], strict=True):
            if any(isinstance(part, TextPart) and part.box_span is not None for part in question.content):
                names.append(processor.encode_answer(_text(answer))[:-1])
    as_tensor = functools.partial(torch.tensor, dtype=torch.int64)
    return AskedBoxes(as_tensor(rows), as_tensor(ends), as_tensor(names).view(len(names), NAME_LENGTH))


def _text(message: Message) -> str:
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


def number_values(processor: VLMProcessor) -> torch.Tensor:
    """Return [V] int64 the number that a token writes, -1 for other tokens."""
    values = torch.full((VOCAB_SIZE,), -1)
    for value in range(LARGEST_COORDINATE + 1):
        values[processor.tokenizer.convert_tokens_to_ids(str(value))] = value
    return values


def name_tokens(processor: VLMProcessor) -> torch.Tensor:
    """Return [V] bool whether a token is a word of names."""
    is_name = torch.zeros(VOCAB_SIZE, dtype=torch.bool)
    is_name[processor.tokenizer.convert_tokens_to_ids(list(NAMES))] = True
    return is_name


class PretrainingBatches(Dataset[DocumentBatch]):
    """The batch of each step, a function of the seed and the step; picklable, for worker processes.

    Args:
        processor: The small model's.
        template: Writes boxes.
        seed: Of all draws.
        split: Whose identities.
        size: Side of the pictures in pixels.
        is_further: Whether the model has been pretrained before, so that the curriculum is `FURTHER_CURRICULUM`.
        finds_boxes: As for `encode_documents`.
    """

    def __init__(
        self,
        processor: VLMProcessor,
        template: PromptTemplate,
        *,
        seed: int,
        split: Split = "train",
        size: int = 64,
        is_further: bool = False,
        finds_boxes: bool = False,
    ) -> None:
        self.processor = processor
        self.template = template
        self.seed = seed
        self.split: Split = split
        self.size = size
        self.is_further = is_further
        self.finds_boxes = finds_boxes

    def __getitem__(self, step: int) -> DocumentBatch:
        rng = np.random.default_rng([self.seed, step])
        curriculum = FURTHER_CURRICULUM if self.is_further else CURRICULUM
        stage = next(stage for stage in curriculum if step < stage.until)
        level = EASY_SCENES if step < EASY_SCENES_UNTIL and not self.is_further else SCENES
        documents = [
            draw_document(rng, stage, level, split=self.split, template=self.template, size=self.size)
            for _ in range(stage.num_documents)
        ]
        return encode_documents(self.processor, documents, finds_boxes=self.finds_boxes)
