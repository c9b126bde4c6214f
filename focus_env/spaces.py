"""Gymnasium spaces that the built-in ones do not offer: for any text, and for images of any size.

`gymnasium.spaces.Text` admits letters and digits of a fixed alphabet, so it refuses every box answer, and the
empty string. Both spaces here work in vector environments: Gymnasium batches a custom space as a tuple of its
items.
"""

from __future__ import annotations

import string
from typing import Any, TypedDict

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from focus_env.types import BoxArray, ImageArray

_SAMPLE_LENGTH = 64
"""Most characters of a sampled text."""
_SAMPLE_SIDE = 64
"""Longest side of a sampled image in pixels."""


class CompletionSpace(spaces.Space[str]):
    """Any text of at most `max_length` characters, the empty one included.

    Samples are short random strings of printable ASCII; they are legal actions, and score like any other
    text.

    Args:
        max_length: Most characters of a member.
        seed: Seeds the sampling.

    Raises:
        ValueError: If `max_length` is negative.
    """

    def __init__(self, max_length: int = 1_000_000, *, seed: int | np.random.Generator | None = None) -> None:
        if max_length < 0:
            raise ValueError(f"max_length must be a number of characters, 0 or more, got {max_length}")
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text has no fixed length."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> str:
        """Draw a short random text; there is nothing to mask.

        Raises:
            ValueError: If `mask` or `probability` is given.
        """
        _refuse_mask(self, mask, probability)
        length = int(self.np_random.integers(min(self.max_length, _SAMPLE_LENGTH) + 1))
        return "".join(string.printable[i] for i in self.np_random.integers(len(string.printable), size=length))

    def contains(self, x: Any) -> bool:
        """Return whether `x` is a text that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompletionSpace) and self.max_length == other.max_length

    def __repr__(self) -> str:
        return f"CompletionSpace(max_length={self.max_length})"


class ImageSpace(spaces.Space[ImageArray]):
    """Any RGB image: an array [H, W, 3] uint8 with sides of at least one pixel.

    Samples are noise, with sides from 1 to 64 pixels.

    Args:
        seed: Seeds the sampling.
    """

    def __init__(self, *, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(dtype=np.uint8, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: an image has no fixed size."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> ImageArray:
        """Draw an image of noise; there is nothing to mask.

        Raises:
            ValueError: If `mask` or `probability` is given.
        """
        _refuse_mask(self, mask, probability)
        height, width = self.np_random.integers(1, _SAMPLE_SIDE + 1, size=2)
        return self.np_random.integers(256, size=(height, width, 3), dtype=np.uint8)

    def contains(self, x: Any) -> bool:
        """Return whether `x` is an array [H, W, 3] uint8, not empty."""
        is_image = isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 3 and x.shape[2] == 3
        return is_image and min(x.shape) > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageSpace)

    def __repr__(self) -> str:
        return "ImageSpace()"


def _refuse_mask(space: gymnasium.Space[Any], mask: None, probability: None) -> None:
    if mask is not None or probability is not None:
        raise ValueError(f"{space} samples without mask and probability, got {mask=}, {probability=}")


class Observation(TypedDict):
    """The part of an episode that a policy may see; k is the number of supports."""

    support_images: tuple[ImageArray, ...]
    """k images [H, W, 3] uint8, each of its own size."""
    support_boxes: BoxArray
    """[k, 4] float64, `xyxy` in pixels of the respective support image."""
    query_image: ImageArray
    """[H, W, 3] uint8."""


def observation_space() -> spaces.Dict:
    """Return the space of `Observation`: any number of supports, images of any size."""
    box = spaces.Box(0.0, np.inf, shape=(4,), dtype=np.float64)
    return spaces.Dict(
        {
            "support_images": spaces.Sequence(ImageSpace()),
            "support_boxes": spaces.Sequence(box, stack=True),
            "query_image": ImageSpace(),
        }
    )


def box_action_space() -> spaces.Box:
    """Return the space of floats in [0, 1]: x_min, y_min, x_max, y_max as shares of the query's width and height."""
    return spaces.Box(0.0, 1.0, shape=(4,), dtype=np.float32)


BoxAction = npt.NDArray[np.float32]
"""[4] float32, a member of `box_action_space`."""
