"""LLaVA-OneVision: each picture of a prompt with several is padded to a square and becomes one grid of tokens.

The model cuts a picture into tiles only where it is a prompt's single one (arXiv:2408.03326). A prompt with supports
has several pictures.

Axis letters: K pictures of all prompts together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from focus_agents.models.counting import CountingFamily
from focus_agents.models.family import ModelParts, PreprocessedImages
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.views import ImageSize, View, num_image_tokens
from focus_env.boxes import CoordinateFrame
from focus_env.types import ImageArray

PIXELS, SIZES = "pixel_values", "image_sizes"


@dataclass(frozen=True, slots=True)
class FittedWh:
    """The (width, height) in pixels of a picture that is fitted into a square; around it lies padding.

    Attributes:
        side: Of the square in pixels.
    """

    side: int

    def __call__(self, image_wh: ImageSize) -> ImageSize:
        """Return the size at which a picture of a (width, height) in pixels is seen."""
        longest = max(image_wh)
        width, height = (max(1, round(self.side * length / longest)) for length in image_wh)
        return width, height


@dataclass(frozen=True, kw_only=True)
class LlavaOnevision(CountingFamily):
    """LLaVA-OneVision's family. Its arrays are `pixel_values`, [K, 1, 3, side, side], and `image_sizes`, [K, 2].

    Attributes:
        grid: (rows, columns) of a picture's tokens; one more ends a picture.
    """

    grid: tuple[int, int] = (27, 27)

    def for_config(self, config: Any) -> LlavaOnevision:
        """See `ModelFamily`."""
        side = config.vision_config.image_size // config.vision_config.patch_size
        return replace(self, grid=(side, side))

    # ---- pictures

    def preprocess(self, image_processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
        """See `ModelFamily`."""
        # A nested list is a prompt's pictures. A single one would be cut into tiles, so it gets company.
        together = [*images, images[0]] if len(images) == 1 else list(images)
        vision = image_processor(images=[together], input_data_format="channels_last", return_tensors="np")
        pixels = np.asarray(vision[PIXELS], dtype=np.float32)[: len(images)]
        sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        grids = np.tile(np.array([self.grid], dtype=np.int64), (len(images), 1))
        return PreprocessedImages(grids, {PIXELS: pixels, SIZES: sizes})

    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        """See `ModelFamily`; the number is fixed."""
        tokens = num_image_tokens([View(*self.grid, end=1)])
        if max_image_tokens < tokens:
            raise ValueError(
                f"max_image_tokens: expected at least {tokens}, got {max_image_tokens}; all pictures have as many"
            )

    def image_to_input_wh(self, image_processor: Any) -> Callable[[ImageSize], ImageSize]:
        """See `ModelFamily`; without the padding."""
        return FittedWh(int(image_processor.size["height"]))

    def pixel_shape(self, config: Any) -> tuple[int, ...]:
        """See `ModelFamily`; a square."""
        side = config.vision_config.image_size
        return config.vision_config.num_channels, side, side

    def views(self, image_processor: Any, grid: tuple[int, int], image_wh: ImageSize) -> tuple[View, ...]:
        """See `ModelFamily`; the padded square."""
        longest = max(image_wh)
        left, top = ((longest - length) // 2 for length in image_wh)
        width, height = image_wh
        area = (-left / width, -top / height, (longest - left) / width, (longest - top) / height)
        return (View(*grid, area=area, end=1),)

    # ---- the model

    def parts(self, model: Any) -> ModelParts:
        """See `ModelFamily`."""
        inner = model.model
        projections = (inner.multi_modal_projector, inner.image_newline)
        return ModelParts(inner.vision_tower, inner, inner.language_model.layers, model.lm_head, projections)

    def image_inputs(self, model: Any, prompts: PromptBatch, num_answer_tokens: int = 0) -> dict[str, Any]:
        """See `ModelFamily`."""
        if prompts.image_features is None:
            return dict(self._pictures(prompts))
        output = BaseModelOutputWithPooling(pooler_output=list(prompts.image_features))
        return {"mm_encoder_outputs": {"image": output}}

    def image_features(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
        """See `ModelFamily`; one tensor, [image tokens, hidden size]."""
        return (torch.cat(model.model.get_image_features(**self._pictures(prompts)).pooler_output),)

    def _pictures(self, prompts: PromptBatch) -> dict[str, torch.Tensor]:
        pixels = prompts.images[PIXELS]
        # Any number but 1 says that the pictures are several, and are not cut into tiles.
        several = torch.tensor([max(len(pixels), 2)], device=pixels.device)
        return {PIXELS: pixels, SIZES: prompts.images[SIZES], "batch_num_images": several}


LLAVA_ONEVISION = LlavaOnevision(
    name="llava_onevision",
    model_types=("llava_onevision",),
    frame=CoordinateFrame.NORM_1,
    image_token="<image>",
    never_sampled=("<image>", "<video>"),
    lora_targets=r".*\blanguage_model\b.*\.(q|k|v|o|gate|up|down)_proj",
    native_template="llava_onevision",
)
