"""One episode as a model is asked of it, taken apart: which tokens are pictures, boxes, digits, words."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import PromptSpans, VLMProcessor
from focus_agents.models.views import ImageSize, View
from focus_env.answer_format import BoxFormat
from focus_env.boxes import frame_to_box
from focus_env.env import observe
from focus_env.prompts import PromptTemplate
from focus_env.types import Box, Episode, ImageArray, ImagePart, Message, TextPart


class Kind(enum.StrEnum):
    """The kind of a run of tokens."""

    TEXT = "words"
    SUPPORT = "support picture"
    QUERY = "query picture"
    BOX = "support box"
    DIGITS = "digits of a box"
    ANSWER = "right answer"
    END = "end of the answer"


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens of one kind.

    Attributes:
        kind: What they are.
        text: What they decode to, special tokens included; of a picture nothing.
        start: Position of the first token.
        num_tokens: How many there are.
        number: Of the picture or box, from 1; 0 for others.
    """

    kind: Kind
    text: str
    start: int
    num_tokens: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class BoxInText:
    """A support box as its prompt writes it.

    Attributes:
        number: Of the support, from 1.
        written: As the template wrote it.
        tokens: What each of its tokens decodes to. The first and last may hold more than the box, as `">["` does.
        start: Position of the first one.
        box: Read back from the tokens, `xyxy` in pixels of the picture; None if there is no box in them.
        true_box: The episode's.
        unit_wh: Width and height of a unit of the text in pixels of the picture.
        most_error: What rounding explains of `error`.
    """

    number: int
    written: str
    tokens: tuple[str, ...]
    start: int
    box: Box | None
    true_box: Box
    unit_wh: tuple[float, float]
    most_error: float

    @property
    def text(self) -> str:
        """The decoded text of all tokens together."""
        return "".join(self.tokens)

    @property
    def error(self) -> float | None:
        """The largest distance of a side from the episode's box, in units of the text; rounding explains a half."""
        if self.box is None:
            return None
        scale = (*self.unit_wh, *self.unit_wh)
        return max(abs(a - b) / unit for a, b, unit in zip(self.box, self.true_box, scale, strict=True))


@dataclass(frozen=True)
class Question:
    """An episode as it is asked.

    Attributes:
        episode: The episode.
        template: What words it, in its unit, with the sizes at which the model sees pictures.
        messages: The prompt.
        prompt: The same as token ids and arrays.
        views: For each picture, which part of it its image tokens show.
        pictures: In the order of the prompt, [H, W, 3] uint8; the query is last.
        input_whs: For each picture, the (width, height) in pixels at which the model sees it.
        answer: The right one as text.
        answer_ids: As tokens, the end token included.
    """

    episode: Episode
    template: PromptTemplate
    messages: tuple[Message, ...]
    prompt: EncodedPrompt
    views: tuple[tuple[View, ...], ...]
    pictures: tuple[ImageArray, ...]
    input_whs: tuple[ImageSize, ...]
    answer: str
    answer_ids: tuple[int, ...]

    @property
    def support_boxes(self) -> tuple[Box, ...]:
        """The support boxes of the episode, in pixels."""
        return tuple(exemplar.box for exemplar in self.episode.support)

    @property
    def query_wh(self) -> ImageSize:
        """(width, height) of the query picture in pixels."""
        return self.pictures[-1].shape[1], self.pictures[-1].shape[0]


def ask(processor: VLMProcessor, template: PromptTemplate, episode: Episode) -> Question:
    """Word and encode an episode.

    Raises:
        ValueError: If the processor cannot take it.
        FocusError: If its pictures cannot be read.
    """
    template = processor.fit_template(template).for_question(episode)
    messages = tuple(template.render(observe(episode)))
    prompt = processor.encode(messages)
    pictures = tuple(p.image for m in messages for p in m.content if isinstance(p, ImagePart))
    sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
    rule = processor.family.image_to_input_wh(processor.image_processor)
    answer = template.answer(episode.target_box, sizes[-1])
    return Question(
        episode=episode,
        template=template,
        messages=messages,
        prompt=prompt,
        views=tuple(processor.views(pictures, prompt.grids)),
        pictures=pictures,
        input_whs=tuple(map(rule, sizes)),
        answer=answer,
        answer_ids=tuple(processor.encode_answer(answer)),
    )


def decode(processor: VLMProcessor, ids: npt.NDArray[np.int64] | tuple[int, ...]) -> str:
    """Return what tokens decode to, special ones included."""
    text: str = processor.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def read_boxes(processor: VLMProcessor, question: Question, spans: PromptSpans) -> list[BoxInText]:
    """Read the support boxes back from the tokens of the prompt, as the model can."""
    parts = [p for m in question.messages for p in m.content if isinstance(p, TextPart) and p.box_span is not None]
    template = question.template
    form = BoxFormat(template.support_box_text or template.box_text)
    found = []
    for index, (part, where, true_box) in enumerate(zip(parts, spans.box_texts, question.support_boxes, strict=True)):
        assert part.box_span is not None
        ids = question.prompt.input_ids[where]
        picture = question.pictures[index]
        image_wh, input_wh = (picture.shape[1], picture.shape[0]), question.input_whs[index]
        match = re.search(form.pattern(template.frame), decode(processor, ids))
        box = None
        if match is not None:
            numbers = Box(*(float(match[name]) for name in ("x1", "y1", "x2", "y2")))
            box = frame_to_box(numbers, template.frame, image_wh=image_wh, input_wh=input_wh)
        extent = template.frame.extent(image_wh=image_wh, input_wh=input_wh)
        units = 10 ** (form.decimals(template.frame) or 0)
        found.append(
            BoxInText(
                number=index + 1,
                written=part.text[slice(*part.box_span)],
                tokens=tuple(token_texts(processor, ids)),
                start=int(where[0]) if len(where) else 0,
                box=box,
                true_box=true_box,
                most_error=1.01 if form.has_location_tokens else 0.51,  # location tokens end one before the edge
                unit_wh=(image_wh[0] / extent[0] / units, image_wh[1] / extent[1] / units),
            )
        )
    return found


def token_texts(processor: VLMProcessor, ids: npt.NDArray[np.int64]) -> Iterator[str]:
    """Yield the text that each token adds; one that ends in the middle of a character adds nothing yet."""
    before = ""
    for count in range(1, len(ids) + 1):
        text = decode(processor, ids[:count])
        whole = text.removesuffix("\N{REPLACEMENT CHARACTER}")
        yield whole[len(before) :]
        before = whole


def cut(processor: VLMProcessor, question: Question, spans: PromptSpans) -> list[Piece]:
    """Cut a prompt and its right answer into runs of tokens of one kind."""
    ids = question.prompt.input_ids
    kinds: list[tuple[Kind, int]] = [(Kind.TEXT, 0)] * len(ids)
    for number, tokens in enumerate(spans.images, start=1):
        is_query = number == len(spans.images)
        for position in tokens.tolist():
            kinds[position] = (Kind.QUERY if is_query else Kind.SUPPORT, number)
    for kind, groups in ((Kind.BOX, spans.box_texts), (Kind.DIGITS, spans.box_coordinates)):
        for number, tokens in enumerate(groups, start=1):
            for position in tokens.tolist():
                kinds[position] = (kind, number)
    kinds += [(Kind.ANSWER, 0)] * (len(question.answer_ids) - 1) + [(Kind.END, 0)]
    whole = np.concatenate([ids, np.array(question.answer_ids, dtype=np.int64)])
    starts = [0, *(n for n in range(1, len(whole)) if kinds[n] != kinds[n - 1])]
    pieces = []
    for start, stop in zip(starts, [*starts[1:], len(whole)], strict=True):
        kind, number = kinds[start]
        text = "" if kind in (Kind.SUPPORT, Kind.QUERY) else decode(processor, whole[start:stop])
        pieces.append(Piece(kind, text, start, stop - start, number))
    return pieces
