"""InternVL 2, 2.5, 3 and 3.5 by transformers' own classes: pictures as tiles, and the whole picture once more.

A picture is stretched to the canvas of equal squares, up to a dozen, whose shape is nearest to its own. Each square
becomes a grid of tokens. Where there are several, a small copy of the whole picture follows.

Axis letters: K pictures of all prompts together, T tiles of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from focus_agents.models.counting import CountingFamily
from focus_agents.models.family import ModelParts, PreprocessedImages
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.views import ImageSize, View, num_image_tokens, tile_views
from focus_env.boxes import CoordinateFrame
from focus_env.types import ImageArray

PIXELS = "pixel_values"


@dataclass(frozen=True, slots=True)
class Canvas:
    """The (width, height) in pixels of the canvas to which a picture is stretched.

    Attributes:
        tile_wh: (width, height) of a tile in pixels.
        least: Fewest tiles.
        most: Most tiles, without the copy of the whole picture.
    """

    tile_wh: ImageSize
    least: int
    most: int

    def __call__(self, image_wh: ImageSize) -> ImageSize:
        """Return the size of the canvas for a picture of a (width, height) in pixels."""
        rows, columns = self.grid(image_wh)
        return columns * self.tile_wh[0], rows * self.tile_wh[1]

    def grid(self, image_wh: ImageSize) -> tuple[int, int]:
        """Return (rows, columns) of the tiles for a picture of a (width, height) in pixels."""
        if self.most == 1:
            return 1, 1
        (width, height), (tile_width, tile_height) = image_wh, self.tile_wh
        columns, rows = get_optimal_tiled_canvas((height, width), (tile_height, tile_width), self.least, self.most)
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class InternVL(CountingFamily):
    """InternVL's family. Its array of pictures is `pixel_values`, [T, 3, tile, tile].

    Attributes:
        tile_grid: (rows, columns) of a tile's tokens.
    """

    tile_grid: tuple[int, int] = (16, 16)

    def for_config(self, config: Any) -> InternVL:
        """See `ModelFamily`; a tile's tokens follow from the tower's patches and from how many are merged."""
        vision = config.vision_config
        rows, columns = (
            int(side // patch * config.downsample_ratio)
            for side, patch in zip(vision.image_size, vision.patch_size, strict=True)
        )
        return replace(self, tile_grid=(rows, columns))

    # ---- pictures

    def preprocess(self, image_processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
        """See `ModelFamily`; `grids` counts tiles."""
        canvas = self.image_to_input_wh(image_processor)
        # The published settings leave `crop_to_patches` off, which transformers' processor of the model turns on.
        vision = image_processor(
            images=list(images), crop_to_patches=True, input_data_format="channels_last", return_tensors="np"
        )
        grids = np.array([canvas.grid((image.shape[1], image.shape[0])) for image in images], dtype=np.int64)
        return PreprocessedImages(grids, {PIXELS: np.asarray(vision[PIXELS], dtype=np.float32)})

    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        """See `ModelFamily`; fewer tiles."""
        tokens = num_image_tokens([View(*self.tile_grid)])
        if max_image_tokens < tokens:
            raise ValueError(
                f"max_image_tokens: expected at least {tokens}, got {max_image_tokens}; a picture has a tile or more"
            )
        views = max_image_tokens // tokens
        # Two tiles come with a copy of the whole, which makes three.
        most = 1 if views < 3 else views - 1
        image_processor.max_patches = min(image_processor.max_patches, most)
        image_processor.min_patches = min(image_processor.min_patches, image_processor.max_patches)

    def image_to_input_wh(self, image_processor: Any) -> Canvas:
        """See `ModelFamily`; the canvas of all tiles."""
        size = image_processor.size
        tile_wh = (int(size["width"]), int(size["height"]))
        return Canvas(tile_wh, image_processor.min_patches, image_processor.max_patches)

    def pixel_shape(self, config: Any) -> tuple[int, ...]:
        """See `ModelFamily`; a tile."""
        height, width = config.vision_config.image_size
        return config.vision_config.num_channels, height, width

    def views(self, image_processor: Any, grid: tuple[int, int], image_wh: ImageSize) -> tuple[View, ...]:
        """See `ModelFamily`; the tiles row by row, and the whole picture behind them if they are several."""
        tiles = tile_views(grid, self.tile_grid)
        return tuple(tiles) if len(tiles) == 1 else (*tiles, View(*self.tile_grid))

    def image_text(self, views: Sequence[View]) -> tuple[str, tuple[int, ...]]:
        """See `ModelFamily`; all tokens are one run."""
        return f"<img>{self.image_token}</img>", (num_image_tokens(views),)

    # ---- the model

    def parts(self, model: Any) -> ModelParts:
        """See `ModelFamily`."""
        inner = model.model
        projections = (inner.multi_modal_projector,)
        return ModelParts(inner.vision_tower, inner, inner.language_model.layers, model.lm_head, projections)

    def image_inputs(self, model: Any, prompts: PromptBatch, num_answer_tokens: int = 0) -> dict[str, Any]:
        """See `ModelFamily`."""
        if prompts.image_features is None:
            return {PIXELS: prompts.images[PIXELS]}
        (features,) = prompts.image_features
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}

    def image_features(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
        """See `ModelFamily`; one tensor, [image tokens, hidden size]."""
        features = model.model.get_image_features(prompts.images[PIXELS]).pooler_output
        return (features.flatten(0, 1),)


INTERNVL = InternVL(
    name="internvl",
    model_types=("internvl",),
    frame=CoordinateFrame.NORM_1000,
    image_token="<IMG_CONTEXT>",
    old_placeholder="<image>",
    never_sampled=("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    lora_targets=r".*\blanguage_model\b.*\.(q|k|v|o|gate|up|down)_proj",
    native_template="internvl",
)
