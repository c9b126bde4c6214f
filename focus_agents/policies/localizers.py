"""Policies that look at pictures and boxes rather than at words, and the floors that any result must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from focus_agents.rollout.records import Completion, Generation, Sampling
from focus_env.boxes import CoordinateFrame, are_shares, box_to_frame, clip_box, frame_to_box
from focus_env.errors import FocusError
from focus_env.plain_numbers import as_numbers
from focus_env.prompts import PromptTemplate, read_observation
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray, Message

_THUMBNAIL_WH = (32, 32)
"""Pictures are compared at this size in `copy_nearest_support`."""


Localizer = Callable[[Observation, np.random.Generator], Box | None]
"""Anything that finds a box without words, a function or an object to call: from the supports with their boxes and the
query, and what chance there is, to four numbers `xyxy` in pixels of the query. What reaches beyond the picture is cut
off. None, and nothing else, says that the object is not there. An object that can say how sure it is has a method
`scored` with the same arguments, which gives (the box, a number from 0 to 1)."""


class LocalizerPolicy:
    """A localizer as a policy: its boxes are written into answers; satisfies `focus_agents.rollout.records.Policy`.

    Args:
        localizer: What finds boxes.
        template: The format of its answers, that of the environment.
    """

    def __init__(self, localizer: Localizer, template: PromptTemplate) -> None:
        self.localizer = localizer
        self.template = template

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        """Return `num_completions` answers to each prompt, one after the other.

        What is no box is an answer that cannot be read: a `Completion` without a text, whose `error` says why.
        """
        generations = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            question = read_observation(prompt)
            rng = np.random.default_rng(seed)
            completions = tuple(self._answer(question, rng) for _ in range(num_completions))
            generations.append(Generation(completions))
        return generations

    def _answer(self, question: Observation, rng: np.random.Generator) -> Completion:
        image_wh = picture_wh(question["query_image"])
        text, error = "", None
        score = None
        try:
            if (scored := getattr(self.localizer, "scored", None)) is not None:
                found, sureness = scored(question, rng)
                score = min(1.0, max(0.0, float(sureness)))
            else:
                found = self.localizer(question, rng)
            text = self.template.answer(None if found is None else _read_box(found, image_wh), image_wh)
        except NoBoxError as reason:
            error = f"{_name(self.localizer)}: {reason}"
        no_tokens, no_logprobs = np.empty(0, np.int64), np.empty(0, np.float32)
        return Completion(text, no_tokens, no_logprobs, is_finished=True, error=error, score=score)


class NoBoxError(FocusError):
    """A localizer gave something that is neither a box nor None."""


def _read_box(found: object, image_wh: tuple[int, int]) -> Box:
    """Return the part of a box that lies in the picture, from any four numbers.

    Raises:
        NoBoxError: If `found` is no box of the picture; the message says why.
    """
    expected = f"expected a box x1, y1, x2, y2 in pixels of the picture of {image_wh} (width, height), or None"
    try:
        x1, y1, x2, y2 = values = [float(value) for value in as_numbers(found)]
    except Exception as error:  # of whatever library it is
        raise NoBoxError(f"{expected}, got {found!r:.100}") from error
    if not all(map(math.isfinite, values)):
        raise NoBoxError(f"{expected}, got the numbers {values}, which are not all finite")
    if are_shares((x1, y1, x2, y2), image_wh):
        raise NoBoxError(f"{expected}, got {values}, which look like shares: multiply by the width and height")
    if x2 <= x1 or y2 <= y1:
        raise NoBoxError(
            f"{expected}, got {values}, with x2 <= x1 or y2 <= y1; x, y, width, height are converted by xywh_to_xyxy"
        )
    box = clip_box((x1, y1, x2, y2), image_wh)
    if box is None:
        raise NoBoxError(f"{expected}, got {values}, which lies outside")
    return box


def _name(localizer: Localizer) -> str:
    return getattr(localizer, "__qualname__", type(localizer).__qualname__)


def random_box(question: Observation, rng: np.random.Generator) -> Box:
    """Return a box whose corners are drawn uniformly in the query, which shares nothing with the supports."""
    width, height = picture_wh(question["query_image"])
    x1, x2 = np.sort(rng.uniform(0, width, 2))
    y1, y2 = np.sort(rng.uniform(0, height, 2))
    return Box(float(x1), float(y1), float(x2), float(y2))


def center_box(question: Observation, rng: np.random.Generator) -> Box:
    """Return a box in the middle of the query, of the supports' mean width and height as shares of their pictures."""
    boxes = np.array(_relative_supports(question))
    width, height = (boxes[:, 2:] - boxes[:, :2]).mean(axis=0).tolist()
    relative = (0.5 - width / 2, 0.5 - height / 2, 0.5 + width / 2, 0.5 + height / 2)
    return frame_to_box(relative, CoordinateFrame.NORM_1, image_wh=picture_wh(question["query_image"]))


def copy_last_support(question: Observation, rng: np.random.Generator) -> Box:
    """Return the box of the last support, at the same place of the query in shares of width and height."""
    return _copied(question, -1)


def copy_nearest_support(question: Observation, rng: np.random.Generator) -> Box:
    """Return the box of the support whose picture is most like the query, by mean squared difference of thumbnails."""
    query = _thumbnail(question["query_image"])
    distances = [float(((_thumbnail(image) - query) ** 2).mean()) for image in question["support_images"]]
    return _copied(question, int(np.argmin(distances)))


FLOORS: Mapping[str, Localizer] = {
    "random": random_box,
    "center": center_box,
    "copy_support:last": copy_last_support,
    "copy_support:nearest": copy_nearest_support,
}
"""Policies that do not look for the object."""


def picture_wh(image: ImageArray) -> tuple[int, int]:
    """Return (width, height) of a picture [H, W, 3]."""
    return image.shape[1], image.shape[0]


def _copied(question: Observation, index: int) -> Box:
    relative = _relative_supports(question)[index]
    return frame_to_box(relative, CoordinateFrame.NORM_1, image_wh=picture_wh(question["query_image"]))


def _relative_supports(question: Observation) -> list[tuple[float, float, float, float]]:
    """Return the supports' boxes in shares of the width and height of their own pictures."""
    return [
        box_to_frame(Box(*box), CoordinateFrame.NORM_1, image_wh=picture_wh(image))
        for image, box in zip(question["support_images"], question["support_boxes"].tolist(), strict=True)
    ]


def _thumbnail(image: ImageArray) -> npt.NDArray[np.float64]:
    return np.asarray(Image.fromarray(image).resize(_THUMBNAIL_WH, Image.Resampling.BOX), dtype=np.float64)
