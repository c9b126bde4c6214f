"""A template: a few sentences with placeholders, and from an observation to messages.

Neither the sentences nor the placeholders can carry a category, so a model must match what it sees; only templates that
are defined by names, `focus_env.prompts.named`, have one. By default everything is one user turn: the instruction, then
each support image followed by its box in text, then the query image and a short request.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from focus_env.answer_format import LABEL, PLAIN_ANSWER, AnswerFormat, BoxFormat, fields_of, formats_of
from focus_env.answer_text import ANSWER_CLOSE, ANSWER_OPEN
from focus_env.arrays import as_picture
from focus_env.boxes import CoordinateFrame, as_box, refuse_shares
from focus_env.parsing import holds_box, parse_answer, write_answer, write_box
from focus_env.prompts.round_trip import misread
from focus_env.spaces import Observation
from focus_env.types import Box, Episode, ImageArray, ImagePart, Message, ParseResult, ParseStatus, TextPart

Layout = Literal["interleaved", "images_first"]

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
        CoordinateFrame.NORM_1024: (
            "integer coordinates from 0 to 1024, as 1024ths of the width and height of their own image"
        ),
        CoordinateFrame.RESIZED_PIXEL: "integer coordinates in pixels of their own image",
    }
)

PLACEHOLDERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "instruction": frozenset({"num_support", "num_images", "coordinates", "answer_format"}),
        "absent_text": frozenset({"absent_answer"}),
        "support_text": frozenset({"index", "box"}),
        "query_text": frozenset({"num_support", "num_images", "answer_format"}),
        "answer_text": frozenset({"box", "label"}),
        "absent_answer_text": frozenset({"label"}),
        "rejected_answer_text": frozenset({"box", "label"}),
    }
)
"""The placeholders that each sentence of a template may use."""

_WITH_A_BOX = ("support_text", "answer_text")
_MARK = "\0"
_EXAMPLE = {
    "num_support": 1, "num_images": 2, "index": 1, "coordinates": "", "answer_format": "", "absent_answer": "",
    "box": _MARK, "label": LABEL,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """The sentences of a prompt, and how boxes and answers are written and read.

    Attributes:
        name: Names the template in configurations and reports.
        instruction: Opens the turn. May use ``{num_support}``, ``{num_images}`` (one more), ``{coordinates}`` (the
            frame in words) and ``{answer_format}``.
        support_text: Follows each support image. Uses ``{box}`` once; may use ``{index}``, counted from 1.
        query_text: Follows the query image and closes the turn. May use ``{num_support}``, ``{num_images}`` and
            ``{answer_format}``.
        absent_text: Added to the instruction if `allow_absent`. May use ``{absent_answer}``.
        box_text: How a box is written, by ``{x1}``, ``{y1}``, ``{x2}`` and ``{y2}``; see `focus_env.answer_format`.
        support_box_text: How a support's box is written where that differs from answers; "": as answers have it.
        answer_text: The right answer. Uses ``{box}`` once; may use ``{label}``.
        absent_answer_text: The right answer for an object that is not there.
        rejected_answer_text: Another answer that says so, with a ``{box}`` that does not count; "": there is none.
        optional_tokens: Special tokens of an answer, which decoding leaves out; strict answers may lack them.
        layout: "interleaved": each image with its text behind it. "images_first": all images, then all texts.
        image_separator: A text between two images that stand first.
        frame: The frame of every box in text.
        keeps_frame: Whether a model that is asked by this template is asked in its frame. If not, the model's own unit
            stands in for it. A unit that the user names always does.
        allow_absent: Whether the model is told what to answer if the object is not in the query. Reading an
            answer does not depend on it.
        thinking: Whether the sentences ask for thoughts in `<think>` tags before the answer. The strict format then has
            them, and the right answer an empty thought; see `focus_env.parsing`.
        image_to_input_wh: Gives the (width, height) at which the model sees an image of a given (width,
            height), both in pixels. The frame `RESIZED_PIXEL` needs it; picklable, if the template is to be.

    Raises:
        ValueError: If a sentence uses an unknown placeholder, `support_text` or `answer_text` has not exactly one
            ``{box}``, boxes cannot be written so in the frame, `absent_answer_text` is not read as "not there", or a
            right answer is not read back as it was written.
    """

    name: str
    instruction: str
    support_text: str
    query_text: str
    absent_text: str = ""
    box_text: str = PLAIN_ANSWER.box.text
    support_box_text: str = ""
    answer_text: str = PLAIN_ANSWER.answer
    absent_answer_text: str = PLAIN_ANSWER.absent
    rejected_answer_text: str = ""
    optional_tokens: tuple[str, ...] = ()
    layout: Layout = "interleaved"
    image_separator: str = ""
    frame: CoordinateFrame = CoordinateFrame.NORM_1000
    keeps_frame: bool = False
    allow_absent: bool = False
    thinking: bool = False
    image_to_input_wh: Callable[[tuple[int, int]], tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        for field, allowed in PLACEHOLDERS.items():
            self._check_sentence(field, allowed)
        if self.layout not in get_args(Layout):
            raise ValueError(
                f"template {self.name!r}: layout must be one of {', '.join(get_args(Layout))}, got {self.layout!r}"
            )
        try:
            for box in (self.form.box, self._support_box):
                box.check_frame(self.frame)
        except ValueError as error:
            raise ValueError(f"template {self.name!r}: {error}") from error
        self._check_absent_answer()
        if (fault := misread(self.form, CoordinateFrame(self.frame), thinking=self.thinking)) is not None:
            raise ValueError(f"template {self.name!r}: {fault}")

    def _check_absent_answer(self) -> None:
        """See that the answer for an object that is not there is read as that: an episode's right answer is it."""
        written = self.form.absent.format(label=LABEL)
        # No size changes how the text is read.
        size: dict[str, Any] = {"frame": self.frame, "image_wh": (1000, 1000), "input_wh": (1000, 1000)}
        text = write_answer(None, **size, thinking=self.thinking, form=self.form)
        found = parse_answer(text, **size, thinking=self.thinking, form=self.form)
        if not written.replace(ANSWER_OPEN, "").replace(ANSWER_CLOSE, "").strip():
            reason = f"{self.absent_answer_text!r}, which says nothing"
        elif found.status is not ParseStatus.ABSENT or holds_box(written):
            reason = f"{self.absent_answer_text!r}, which is read as a box or as several answers"
        else:
            return
        raise ValueError(
            f"template {self.name!r}: absent_answer_text must say that the object is not there, as "
            f"{PLAIN_ANSWER.absent!r} does, got {reason}"
        )

    def _check_sentence(self, field: str, allowed: frozenset[str]) -> None:
        text = getattr(self, field)
        try:
            used = fields_of(text)
        except ValueError as error:
            raise ValueError(f"template {self.name!r}: {field}: {error}; write a literal brace twice") from error
        if formats := formats_of(text):
            raise ValueError(
                f"template {self.name!r}: {field}: expected placeholders as they are, got the format {formats[0]!r} "
                "behind one; leave it out"
            )
        if unknown := sorted(set(used) - allowed):
            raise ValueError(
                f"template {self.name!r}: {field} may use the placeholders {sorted(allowed)}, "
                f"got {unknown}; write a literal brace twice"
            )
        if field in _WITH_A_BOX and used.count("box") != 1:
            raise ValueError(f"template {self.name!r}: {field} must hold {{box}} exactly once, got {text!r}")
        if used.count("box") > 1:
            raise ValueError(f"template {self.name!r}: {field} must hold {{box}} at most once, got {text!r}")
        try:
            is_plain = text.format(**_EXAMPLE).count(_MARK) == used.count("box") == text.count("{box}")
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"template {self.name!r}: {field}: {error} in {text!r}") from error
        if not is_plain:
            raise ValueError(f"template {self.name!r}: {field} must hold {{box}} as it is, got {text!r}")

    @functools.cached_property
    def form(self) -> AnswerFormat:
        """How answers are written."""
        return AnswerFormat(
            box=BoxFormat(self.box_text),
            answer=self.answer_text,
            absent=self.absent_answer_text,
            rejected=self.rejected_answer_text,
            optional_tokens=tuple(self.optional_tokens),
        )

    @functools.cached_property
    def _support_box(self) -> BoxFormat:
        return BoxFormat(self.support_box_text or self.box_text)

    @property
    def has_plain_answers(self) -> bool:
        """Whether the right answer is the paper's tag and nothing else, as decoding under a grammar has it."""
        return self.form == PLAIN_ANSWER and not self.thinking

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
        counts = {"num_support": len(images), "num_images": len(images) + 1}
        answer_format = self.form.in_words
        instruction = self.instruction.format(
            **counts, coordinates=_COORDINATES[self.frame], answer_format=answer_format
        )
        if self.allow_absent:
            instruction += self.absent_text.format(absent_answer=self.form.absent.format(label=LABEL))
        query_text = self.query_text.format(**counts, answer_format=answer_format)
        supports: list[tuple[ImagePart, TextPart]] = []
        for index, (given, coordinates) in enumerate(zip(images, boxes, strict=True), start=1):
            image = as_picture(given, f"support_images, number {index}")
            box = as_box(coordinates, f"support_boxes, number {index}")
            refuse_shares(box, _wh(image), f"support_boxes, number {index}")
            supports.append((ImagePart(image), self._support_part(index, image, box)))
        last = ImagePart(as_picture(query, "query_image"))
        content: list[TextPart | ImagePart] = [TextPart(instruction)] if instruction else []
        if self.layout == "images_first":
            content = [*self._pictures([*(image for image, _ in supports), last]), *content]
            content += [text for _, text in supports]
        else:
            content += [part for pair in supports for part in pair]
            content.append(last)
        if query_text:
            content.append(TextPart(query_text))
        return [Message("user", content)]

    def for_question(self, episode: Episode) -> PromptTemplate:
        """Return the template that asks of an episode: this one, unless its kind tells more of the object."""
        return self

    def write_box(self, box: Box, image_wh: tuple[int, int]) -> str:
        """Write a pixel box as a support's, in this template's frame; see `focus_env.parsing.write_box`."""
        return write_box(
            box, frame=self.frame, image_wh=image_wh, input_wh=self._input_wh(image_wh), form=self._support_box
        )

    def answer(self, box: Box | None, image_wh: tuple[int, int]) -> str:
        """Write the right answer, in strict format.

        Args:
            box: Where the object is in the query, `xyxy` in pixels; None where it is absent.
            image_wh: (width, height) of the query image in pixels.
        """
        return write_answer(
            box,
            frame=self.frame,
            image_wh=image_wh,
            input_wh=self._input_wh(image_wh),
            thinking=self.thinking,
            form=self.form,
        )

    def parse(self, text: str, image_wh: tuple[int, int]) -> ParseResult:
        """Read a model's text in this template's frame; see `focus_env.parsing.parse_answer`."""
        return parse_answer(
            text,
            frame=self.frame,
            image_wh=image_wh,
            input_wh=self._input_wh(image_wh),
            thinking=self.thinking,
            form=self.form,
        )

    def _pictures(self, images: Sequence[ImagePart]) -> list[TextPart | ImagePart]:
        """Draw images in a row, with the separator between them."""
        row: list[TextPart | ImagePart] = []
        for image in images:
            row += [TextPart(self.image_separator), image] if row and self.image_separator else [image]
        return row

    def _support_part(self, index: int, image: ImageArray, box: Box) -> TextPart:
        """Return the text that belongs to a support image, with its box marked."""
        try:
            written = self.write_box(box, _wh(image))
        except ValueError as error:
            raise ValueError(f"support_images, number {index}: {error}") from error
        # Not found by its text, which other words of the sentence may have, too.
        before, _, behind = self.support_text.format(index=index, box=_MARK).partition(_MARK)
        return TextPart(before + written + behind, box_span=(len(before), len(before) + len(written)), box=box)

    def _input_wh(self, image_wh: tuple[int, int]) -> tuple[int, int] | None:
        if self.image_to_input_wh is None:
            return None
        try:
            return self.image_to_input_wh(image_wh)
        except ValueError as error:
            width, height = image_wh
            raise ValueError(
                f"a picture of {width} x {height} pixels: the model's image processor cannot take it: {error}; leave "
                "it out, or cut or pad it"
            ) from error


def read_observation(messages: Sequence[Message]) -> Observation:
    """Return the observation that a template has put into messages, for policies that look at boxes, not at words.

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


def _given(observation: Observation, key: str) -> Any:
    """Return a part of an observation."""
    if not isinstance(observation, Mapping) or key not in observation:
        raise ValueError(f"observation: expected {', '.join(Observation.__annotations__)}, found no {key}")
    return observation[key]  # type: ignore[literal-required]


def _wh(image: ImageArray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]
