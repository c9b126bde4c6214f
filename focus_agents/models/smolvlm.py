"""SmolVLM: pictures as named tiles, each a run of tokens of its own, and the whole picture behind them.

Axis letters: K pictures of all prompts together, T tiles of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from focus_agents.models.counting import CountingFamily
from focus_agents.models.family import ModelParts, PreprocessedImages
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.views import ImageSize, View, tile_views
from focus_env.boxes import CoordinateFrame
from focus_env.types import ImageArray

PIXELS = "pixel_values"


@dataclass(frozen=True, slots=True)
class StretchedWh:
    """The (width, height) in pixels to which a picture is stretched before it is cut into tiles.

    Attributes:
        longest: Length of the longer side before both become multiples of a tile's.
        tile: Side of a tile in pixels.
    """

    longest: int
    tile: int

    def __call__(self, image_wh: ImageSize) -> ImageSize:
        """Return the size for a picture of a (width, height) in pixels."""
        processor = SmolVLMImageProcessorPil(
            size={"longest_edge": self.longest}, max_image_size={"longest_edge": self.tile}
        )
        _, rows, columns = processor.get_number_of_image_patches(image_wh[1], image_wh[0])
        return max(1, columns) * self.tile, max(1, rows) * self.tile


@dataclass(frozen=True, kw_only=True)
class SmolVLM(CountingFamily):
    """SmolVLM's family. Its array of pictures is `pixel_values`, [T, 3, tile, tile].

    Attributes:
        tile_side: Rows and columns of a tile's tokens.
    """

    tile_side: int = 8

    def for_config(self, config: Any) -> SmolVLM:
        """See `ModelFamily`; a tile's tokens follow from the tower's patches and from how many are merged."""
        vision = config.vision_config
        return replace(self, tile_side=vision.image_size // vision.patch_size // config.scale_factor)

    # ---- pictures

    def preprocess(self, image_processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
        """See `ModelFamily`; `grids` counts tiles, 0 x 0 for a picture that is not cut."""
        vision = image_processor(
            images=[list(images)], return_row_col_info=True, input_data_format="channels_last", return_tensors="np"
        )
        grids = np.stack([np.ravel(vision["rows"]), np.ravel(vision["cols"])], axis=1).astype(np.int64)
        return PreprocessedImages(grids, {PIXELS: np.asarray(vision[PIXELS][0], dtype=np.float32)})

    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        """See `ModelFamily`; fewer tiles."""
        tokens = self.tile_side**2
        if max_image_tokens < tokens:
            raise ValueError(
                f"max_image_tokens: expected at least {tokens}, got {max_image_tokens}; a picture has a tile or more"
            )
        # A square of n x n tiles comes with a copy of the whole picture, a single tile without.
        side = max(1, math.isqrt(max_image_tokens // tokens - 1))
        longest = min(_longest(image_processor.size), side * _longest(image_processor.max_image_size))
        image_processor.size = {"longest_edge": longest}

    def image_to_input_wh(self, image_processor: Any) -> Callable[[ImageSize], ImageSize]:
        """See `ModelFamily`; all tiles together."""
        return StretchedWh(_longest(image_processor.size), _longest(image_processor.max_image_size))

    def pixel_shape(self, config: Any) -> tuple[int, ...]:
        """See `ModelFamily`; a tile."""
        side = config.vision_config.image_size
        return config.vision_config.num_channels, side, side

    def views(self, image_processor: Any, grid: tuple[int, int], image_wh: ImageSize) -> tuple[View, ...]:
        """See `ModelFamily`; the tiles row by row, and the whole picture."""
        tokens = (self.tile_side, self.tile_side)
        return (*tile_views(grid, tokens), View(*tokens))

    def image_text(self, views: Sequence[View]) -> tuple[str, tuple[int, ...]]:
        """See `ModelFamily`; each tile is announced by its row and column, as in transformers' processor."""
        fake, tiles = "<fake_token_around_image>", views[:-1]
        columns = sum(view.area[1] == 0 for view in tiles)
        text = ""
        for index in range(len(tiles)):
            row, column = divmod(index, columns)
            text += f"{fake}<row_{row + 1}_col_{column + 1}>{self.image_token}"
            text += "\n" if column + 1 == columns else ""
        text += "\n" if tiles else ""
        text += f"{fake}<global-img>{self.image_token}{fake}"
        return text, tuple(view.num_tokens for view in views)

    # ---- the model

    def parts(self, model: Any) -> ModelParts:
        """See `ModelFamily`."""
        inner = model.model
        return ModelParts(inner.vision_model, inner, inner.text_model.layers, model.lm_head, (inner.connector,))

    def image_inputs(self, model: Any, prompts: PromptBatch, num_answer_tokens: int = 0) -> dict[str, Any]:
        """See `ModelFamily`."""
        if prompts.image_features is None:
            return {PIXELS: prompts.images[PIXELS][None]}
        output = BaseModelOutputWithPooling(pooler_output=list(prompts.image_features))
        return {"mm_encoder_outputs": {"image": output}}

    def image_features(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
        """See `ModelFamily`; one tensor, [image tokens, hidden size]."""
        return (torch.cat(model.model.get_image_features(prompts.images[PIXELS][None]).pooler_output),)


def _longest(size: Any) -> int:
    return int(size["longest_edge"])


SMOLVLM = SmolVLM(
    name="smolvlm",
    model_types=("smolvlm",),
    picture_size="max_image_size",
    frame=CoordinateFrame.NORM_1000,
    image_token="<image>",
    never_sampled=("<image>", "<fake_token_around_image>", "<global-img>"),
    lora_targets=r".*\btext_model\b.*\.(q|k|v|o|gate|up|down)_proj",
)
