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
