"""Wrappers that fit the environment to other libraries."""

from __future__ import annotations

from typing import Any, TypedDict, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from PIL import Image

from focus_env.boxes import CoordinateFrame, box_to_frame
from focus_env.spaces import BoxAction, Observation
from focus_env.types import Box, ImageArray


class FixedObservation(TypedDict):
    """An observation as arrays of one shape; k is the number of supports, S the image size."""

    images: npt.NDArray[np.uint8]
    """[k + 1, S, S, 3] uint8: the supports in order, and the query last."""
    boxes: npt.NDArray[np.float32]
    """[k, 4] float32 in [0, 1]: `xyxy` as shares of each support's width and height."""


class FixedSizeObservation(
    gymnasium.ObservationWrapper[FixedObservation, str | BoxAction, Observation],
    gymnasium.utils.RecordConstructorArgs,
):
    """Resizes and stacks observations to `FixedObservation`, for libraries that need fixed shapes.

    Images are stretched to squares, not padded. Boxes and box actions are shares of the width and height,
    which stretching leaves as they are; with ``action_type="box"`` any library for image observations and
    continuous actions can use the environment.

    Args:
        env: An in-context localization environment.
        shots: How many supports each episode has.
        image_size: Side of the squares in pixels.

    Raises:
        ValueError: If `shots` or `image_size` is not positive; and by `reset` if an episode has another
            number of supports.
    """

    def __init__(self, env: gymnasium.Env[Observation, str | BoxAction], *, shots: int, image_size: int = 84) -> None:
        if shots < 1 or image_size < 1:
            raise ValueError(f"shots and image_size must be at least 1, got {shots} and {image_size}")
        gymnasium.utils.RecordConstructorArgs.__init__(self, shots=shots, image_size=image_size)
        gymnasium.ObservationWrapper.__init__(self, env)
        self.shots, self.image_size = shots, image_size
        space = spaces.Dict(
            {
                "images": spaces.Box(0, 255, (shots + 1, image_size, image_size, 3), np.uint8),
                "boxes": spaces.Box(0.0, 1.0, (shots, 4), np.float32),
            }
        )
        self.observation_space = cast("spaces.Space[FixedObservation]", space)

    def observation(self, observation: Observation) -> FixedObservation:
        """Resize and stack one observation.

        Raises:
            ValueError: If it has not `shots` supports.
        """
        supports = observation["support_images"]
        if len(supports) != self.shots:
            raise ValueError(
                f"FixedSizeObservation was made for {self.shots} supports per episode, got {len(supports)}; "
                "give it the number of supports of the data set"
            )
        images = [self._resize(image) for image in (*supports, observation["query_image"])]
        boxes = [
            box_to_frame(Box(*coordinates), CoordinateFrame.NORM_1, image_wh=(image.shape[1], image.shape[0]))
            for image, coordinates in zip(supports, observation["support_boxes"].tolist(), strict=True)
        ]
        return FixedObservation(images=np.stack(images), boxes=np.array(boxes, dtype=np.float32))

    def _resize(self, image: ImageArray) -> npt.NDArray[Any]:
        size = (self.image_size, self.image_size)
        return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


class SingleImageObservation(
    gymnasium.ObservationWrapper[npt.NDArray[np.uint8], str | BoxAction, FixedObservation],
    gymnasium.utils.RecordConstructorArgs,
):
    """Makes one image of a `FixedObservation`, for encoders that take a single image: most convolutional ones.

    [S, S, 4 * k + 3] uint8. Each support is four channels, its colours and its box; the query's colours come last. A
    box is 255 inside and 0 outside; a pixel that it cuts has the share that it covers, so that none of it is lost.

    Args:
        env: An environment in `FixedSizeObservation`.

    Raises:
        ValueError: If it is in none.
    """

    def __init__(self, env: gymnasium.Env[FixedObservation, str | BoxAction]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        if "images" not in getattr(env.observation_space, "spaces", {}):
            raise ValueError(f"SingleImageObservation: expected an environment in FixedSizeObservation, got {env}")
        num_pictures, height, width, _ = cast("spaces.Dict", env.observation_space)["images"].shape or ()
        self.observation_space = spaces.Box(0, 255, (height, width, 4 * num_pictures - 1), np.uint8)

    def observation(self, observation: FixedObservation) -> npt.NDArray[np.uint8]:
        """Stack one observation."""
        *supports, query = observation["images"]
        boxes = [_draw_box(box, size=len(query)) for box in observation["boxes"]]
        support_channels = [channels for pair in zip(supports, boxes, strict=True) for channels in pair]
        return np.concatenate([*support_channels, query], axis=2)


def _draw_box(box: npt.NDArray[np.float32], *, size: int) -> npt.NDArray[np.uint8]:
    """Return [size, size, 1] how much of each pixel a box in shares of the sides covers, 0 to 255."""
    x1, y1, x2, y2 = (box.astype(np.float64) * size).tolist()
    pixels = np.arange(size)
    columns = np.clip(np.minimum(pixels + 1, x2) - np.maximum(pixels, x1), 0, None)
    rows = np.clip(np.minimum(pixels + 1, y2) - np.maximum(pixels, y1), 0, None)
    covered: npt.NDArray[np.uint8] = np.rint(255 * np.outer(rows, columns)).astype(np.uint8)
    return covered[..., None]
