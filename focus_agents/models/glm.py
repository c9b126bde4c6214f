"""GLM-4.1V and its followers: Qwen2-VL's conventions for pictures and positions, with limits of their own.

The image processor counts a picture as two frames of a video when it compares with its limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize

from focus_agents.models.qwen import LEAST_IMAGE_TOKENS, QwenVL, token_side
from focus_agents.models.views import ImageSize
from focus_env.boxes import CoordinateFrame


@dataclass(frozen=True, slots=True)
class ResizedFramesWh:
    """The (width, height) at which a model sees a picture of a given (width, height), all in pixels.

    Attributes:
        factor: Side of what becomes one token; both sides of the result are multiples of it.
        frames: As how many frames a picture counts.
        least: Smaller pictures are scaled up to so many pixels, over all frames.
        most: Larger ones are scaled down to so many.
    """

    factor: int
    frames: int
    least: int
    most: int

    def __call__(self, image_wh: ImageSize) -> ImageSize:
        """Return the size after resizing."""
        width, height = image_wh
        height, width = smart_resize(
            num_frames=self.frames,
            height=height,
            width=width,
            temporal_factor=self.frames,
            factor=self.factor,
            min_pixels=self.least,
            max_pixels=self.most,
        )
        return width, height


class GlmVL(QwenVL):
    """GLM's family."""

    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        """See `ModelFamily`."""
        if max_image_tokens < LEAST_IMAGE_TOKENS:
            raise ValueError(f"max_image_tokens: expected at least {LEAST_IMAGE_TOKENS}, got {max_image_tokens}")
        pixels_per_token = token_side(image_processor) ** 2 * image_processor.temporal_patch_size
        size = image_processor.size
        longest = min(size["longest_edge"], max_image_tokens * pixels_per_token)
        image_processor.size = {"shortest_edge": min(size["shortest_edge"], longest), "longest_edge": longest}

    def image_to_input_wh(self, image_processor: Any) -> Callable[[ImageSize], ImageSize]:
        """See `ModelFamily`."""
        size, frames = image_processor.size, image_processor.temporal_patch_size
        return ResizedFramesWh(token_side(image_processor), frames, size["shortest_edge"], size["longest_edge"])

    def batch_pictures(self, model: Any) -> None:
        """See `ModelFamily`; the tower is left as it is."""


GLM4V = GlmVL(
    name="glm4v",
    model_types=("glm4v",),
    frame=CoordinateFrame.NORM_1000,
    image_token="<|image|>",
    never_sampled=("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>"),
    lora_targets=r".*\blanguage_model\b.*\.(q|k|v|o|gate_up|down)_proj",
    native_template="glm4v",
)
