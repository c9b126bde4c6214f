"""What a policy is asked: from an observation to messages.

A template is data: a few sentences with placeholders. Neither the sentences nor the placeholders can carry a
category, so a model must match what it sees; only the baseline that is defined by names, `IPLocTemplate`, has one.
Everything is one user turn: the instruction, then each support image followed by its box in text, then the query image
and a short request.

The structure follows FOCUS (arXiv:2605.31145, sec. 5.1); the wording is ours. A support's box is written just
as the answer is, and is the only bracketed group of numbers in its part of the text.
"""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from focus_env.answer_text import ABSENT_WORD, ANSWER_CLOSE, ANSWER_OPEN, THOUGHT_CLOSE, THOUGHT_OPEN
from focus_env.arrays import as_picture
from focus_env.boxes import CoordinateFrame, as_box, refuse_shares
from focus_env.parsing import parse_answer, write_answer, write_box
from focus_env.spaces import Observation
from focus_env.types import Box, Episode, ImageArray, ImagePart, Message, ParseResult, TextPart

_COORDINATES: Mapping[CoordinateFrame, str] = MappingProxyType(
    {
        CoordinateFrame.PIXEL: "integer coordinates in pixels of their own image",
        CoordinateFrame.NORM_1: (
            "decimal coordinates from 0 to 1, as shares of the width and height of their own image"
        ),
        CoordinateFrame.NORM_100: (
            "integer coordinates from 0 to 100, as hundredths of the width and height of their own image"
        ),
        CoordinateFrame.NORM_1000: (
            "integer coordinates from 0 to 1000, as thousandths of the width and height of their own image"
        ),
        CoordinateFrame.RESIZED_PIXEL: "integer coordinates in pixels of their own image",
    }
)
_ANSWER_FORMAT = f"{ANSWER_OPEN}[x_min, y_min, x_max, y_max]{ANSWER_CLOSE}"
_ABSENT_ANSWER = f"{ANSWER_OPEN}{ABSENT_WORD}{ANSWER_CLOSE}"

_PLACEHOLDERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "instruction": frozenset({"num_support", "coordinates", "answer_format"}),
        "absent_text": frozenset({"absent_answer"}),
        "support_text": frozenset({"index", "box"}),
        "query_text": frozenset({"num_support", "answer_format"}),
    }
)


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """The sentences of a prompt, and the frame in which boxes are written and read.

    Attributes:
        name: Names the template in configurations and reports.
        instruction: Opens the turn. May use ``{num_support}``, ``{coordinates}`` (the frame in words) and
            ``{answer_format}``.
        support_text: Follows each support image. Uses ``{box}`` once; may use ``{index}``, counted from 1.
        query_text: Follows the query image and closes the turn. May use ``{num_support}`` and
            ``{answer_format}``.
        absent_text: Added to the instruction if `allow_absent`. May use ``{absent_answer}``.
        frame: The frame of every box in text.
        allow_absent: Whether the model is told what to answer if the object is not in the query. Reading an
            answer does not depend on it.
        thinking: Whether the sentences ask for thoughts in `<think>` tags before the answer. The strict format then has
            them, and the right answer an empty thought; see `focus_env.parsing`.
        image_to_input_wh: Gives the (width, height) at which the model sees an image of a given (width,
            height), both in pixels. The frame `RESIZED_PIXEL` needs it; picklable, if the template is to be.

    Raises:
        ValueError: If a sentence uses an unknown placeholder, or `support_text` has not exactly one
            ``{box}``.
    """

    name: str
    instruction: str
    support_text: str
    query_text: str
    absent_text: str = ""
    frame: CoordinateFrame = CoordinateFrame.NORM_1000
    allow_absent: bool = False
    thinking: bool = False
    image_to_input_wh: Callable[[tuple[int, int]], tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        for field, allowed in _PLACEHOLDERS.items():
            used = [key for _, key, _, _ in string.Formatter().parse(getattr(self, field)) if key is not None]
            if unknown := sorted(set(used) - allowed):
                raise ValueError(
                    f"template {self.name!r}: {field} may use the placeholders {sorted(allowed)}, "
                    f"got {unknown}; write a literal brace twice"
                )
            if field == "support_text" and used.count("box") != 1:
                raise ValueError(
                    f"template {self.name!r}: support_text must hold {{box}} exactly once, got {self.support_text!r}"
                )

    def render(self, observation: Observation) -> list[Message]:
        """Ask for the box: one user turn, with k + 1 images in it.

        Args:
            observation: As the environment gives it; see `focus_env.spaces.Observation`. Pictures may be what
                `focus_env.arrays` takes, and boxes tuples, lists or arrays.

        Raises:
            ValueError: If there are not as many support boxes as images, one is no picture or no box, or a box has no
                area in its image.
        """
        images, boxes, query = (_given(observation, key) for key in ("support_images", "support_boxes", "query_image"))
        if len(images) != len(boxes):
            raise ValueError(f"expected one box per support image, got {len(boxes)} for {len(images)} images")
        instruction = self.instruction.format(
            num_support=len(images), coordinates=_COORDINATES[self.frame], answer_format=_ANSWER_FORMAT
        )
        if self.allow_absent:
            instruction += self.absent_text.format(absent_answer=_ABSENT_ANSWER)
        query_text = self.query_text.format(num_support=len(images), answer_format=_ANSWER_FORMAT)
        content: list[TextPart | ImagePart] = [TextPart(instruction)] if instruction else []
        for index, (given, coordinates) in enumerate(zip(images, boxes, strict=True), start=1):
            image = as_picture(given, f"support_images, number {index}")
            box = as_box(coordinates, f"support_boxes, number {index}")
            refuse_shares(box, _wh(image), f"support_boxes, number {index}")
            content += [ImagePart(image), self._support_part(index, image, box)]
        content.append(ImagePart(as_picture(query, "query_image")))
        if query_text:
            content.append(TextPart(query_text))
        return [Message("user", content)]

    def write_box(self, box: Box, image_wh: tuple[int, int]) -> str:
        """Write a pixel box as bracketed text in this template's frame; see `focus_env.parsing.write_box`."""
        return write_box(box, frame=self.frame, image_wh=image_wh, input_wh=self._input_wh(image_wh))

    def answer(self, box: Box | None, image_wh: tuple[int, int]) -> str:
        """Write the right answer, in strict format.

        Args:
            box: Where the object is in the query, `xyxy` in pixels; None where it is absent.
            image_wh: (width, height) of the query image in pixels.
        """
        return write_answer(
            box, frame=self.frame, image_wh=image_wh, input_wh=self._input_wh(image_wh), thinking=self.thinking
        )

    def parse(self, text: str, image_wh: tuple[int, int]) -> ParseResult:
        """Read a model's text in this template's frame; see `focus_env.parsing.parse_answer`."""
        return parse_answer(
            text, frame=self.frame, image_wh=image_wh, input_wh=self._input_wh(image_wh), thinking=self.thinking
        )

    def _support_part(self, index: int, image: ImageArray, box: Box) -> TextPart:
        """The text that follows a support image, with its box marked."""
        written = self.write_box(box, _wh(image))
        text = self.support_text.format(index=index, box=written)
        start = text.index(written)
        return TextPart(text, box_span=(start, start + len(written)), box=box)

    def _input_wh(self, image_wh: tuple[int, int]) -> tuple[int, int] | None:
        return None if self.image_to_input_wh is None else self.image_to_input_wh(image_wh)


@dataclass(frozen=True, kw_only=True)
class IPLocTemplate(PromptTemplate):
    """The prompt of IPLoc (arXiv:2411.13317), the baseline that names the object; sec. 2 there, our answer format.

    Each support is two user turns, picture with name and then box; the query is one more. Without `for_episode` the
    name is `object_name`, so that a policy can be asked by it where no category is known.

    Attributes:
        object_name: What the object is called.
        names: What `for_episode` calls it: its category, a pseudo-name that means nothing, or the one in half of the
            episodes and the other in the rest, as IPLoc trains. Episodes without a category get a pseudo-name.
    """

    names: Literal["category", "pseudo", "both"] = "both"
    object_name: str = "object"

    def for_episode(self, episode: Episode) -> IPLocTemplate:
        """This template with the name for an episode, the same for an episode in every process."""
        draw = zlib.crc32(episode.episode_id.encode())
        is_pseudo = self.names == "pseudo" or (self.names == "both" and draw % 2 == 1)
        name = None if is_pseudo else episode.category
        return replace(self, object_name=name or PSEUDO_NAMES[draw // 2 % len(PSEUDO_NAMES)])

    def render(self, observation: Observation) -> list[Message]:
        """Ask for the box in consecutive user turns; see `PromptTemplate.render`."""
        parts = super().render(observation)[0].content
        name = TextPart(f"<ref>{self.object_name}</ref>")
        return [Message("user", (part, name) if isinstance(part, ImagePart) else (part,)) for part in parts]


def read_observation(messages: Sequence[Message]) -> Observation:
    """The observation that a template has put into messages, for policies that look at boxes rather than at words.

    Args:
        messages: As `PromptTemplate.render` gives them, also those of templates with several turns.

    Returns:
        The very pictures, and the boxes without rounding.

    Raises:
        ValueError: If the messages do not hold a picture for each box and one more.
    """
    parts = [part for message in messages for part in message.content]
    images = [part.image for part in parts if isinstance(part, ImagePart)]
    boxes = [part.box for part in parts if isinstance(part, TextPart) and part.box is not None]
    if len(images) != len(boxes) + 1:
        raise ValueError(
            f"prompt: expected a picture for each support box and one more, got {len(images)} pictures and "
            f"{len(boxes)} boxes; make it with PromptTemplate.render"
        )
    return Observation(
        support_images=tuple(images[:-1]),
        support_boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        query_image=images[-1],
    )


PSEUDO_NAMES = ("Alba", "Bruno", "Cora", "Dario", "Elio", "Fara", "Gino", "Hilda", "Ivo", "Juna", "Kalo", "Lina")
"""Names that say nothing about an object."""


def _given(observation: Observation, key: str) -> Any:
    """A part of an observation."""
    if not isinstance(observation, Mapping) or key not in observation:
        raise ValueError(f"observation: expected {', '.join(Observation.__annotations__)}, found no {key}")
    return observation[key]  # type: ignore[literal-required]


def _wh(image: ImageArray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


_DEFAULT = PromptTemplate(
    name="default",
    instruction=(
        "Below are {num_support} example image(s) and one final image. After each example image comes the "
        "bounding box of one particular object, the same object every time. Find that object in the final "
        "image. All boxes are [x_min, y_min, x_max, y_max] with {coordinates}. "
        "Reply with {answer_format} and nothing else."
    ),
    absent_text=" If the object is not in the final image, reply with {absent_answer}.",
    support_text="Example {index}: the object is at {box}.",
    query_text="Final image: where is the object?",
)
_THINKING = replace(
    _DEFAULT,
    name="thinking",
    instruction=(
        "Below are {num_support} example image(s) and one final image. After each example image comes the "
        "bounding box of one particular object, the same object every time. Find that object in the final "
        "image. All boxes are [x_min, y_min, x_max, y_max] with {coordinates}. "
        f"First think between {THOUGHT_OPEN} and {THOUGHT_CLOSE}, then reply with {{answer_format}} and nothing else."
    ),
    thinking=True,
)
_COMPACT = PromptTemplate(
    name="compact",
    instruction="Find the object.",
    absent_text=" It may be absent.",
    support_text="{box}",
    query_text="Answer:",
)

_QUESTIONS = PromptTemplate(
    name="questions",
    instruction="Find the object.",
    absent_text=" It may be absent.",
    support_text="What is at {box}? ",
    query_text="Where is it? Answer:",
    frame=CoordinateFrame.NORM_100,
)

_IPLOC = IPLocTemplate(name="iploc", instruction="", support_text="{box}", query_text="")

TEMPLATES: Mapping[str, PromptTemplate] = MappingProxyType(
    {template.name: template for template in (_DEFAULT, _COMPACT, _QUESTIONS, _IPLOC, _THINKING)}
)
"""``"default"``: full sentences, for pretrained models. ``"compact"``: very few words, for small models trained from
scratch, which learn the format from answers. ``"questions"``: in the words that the small base model was taught single
objects in. ``"iploc"``: the baseline that names the object, see `IPLocTemplate`. ``"thinking"``: full sentences, for
models that think before they answer; raise the limit of tokens, since an answer that is cut in its thoughts has none.
For another frame or absent targets use `dataclasses.replace`."""


def get_template(template: PromptTemplate | str) -> PromptTemplate:
    """Look a template up by name; a template is given back as it is.

    Raises:
        ValueError: If no template has that name.
    """
    if isinstance(template, PromptTemplate):
        return template
    if template not in TEMPLATES:
        raise ValueError(f"unknown prompt template {template!r}; known are {', '.join(TEMPLATES)}")
    return TEMPLATES[template]
