"""Qwen2-VL and the families that follow its conventions: Qwen2.5-VL, Qwen3-VL and Qwen3.5.

They share the image processor, `<|image_pad|>` tokens, a vision tower that merges blocks of patches into one token,
and M-RoPE: three positions a token, on axes for time, row and column. They differ in what lies inside (windows in
Qwen2.5-VL's tower, Qwen3-VL's features for the first decoder layers, Qwen3.5's recurrent layers) and in the unit of
their coordinates.

Axis letters: N prompts, P prompt tokens, C answer columns, K pictures of all prompts together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from focus_agents.models.family import ModelFamily, ModelParts, PreprocessedImages
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.views import ImageSize
from focus_agents.models.vision import batch_pictures
from focus_env.boxes import CoordinateFrame
from focus_env.types import ImageArray

PIXELS, GRID_THW = "pixel_values", "image_grid_thw"
LEAST_IMAGE_TOKENS = 4
"""The fewest in which a model sees anything; image processors scale smaller pictures up."""
LONGEST_SIDE = 200
"""Times the shorter one; the image processors refuse pictures that are longer."""


@dataclass(frozen=True, slots=True)
class ResizedWh:
    """The (width, height) at which a model sees a picture of a given (width, height), all in pixels.

    Attributes:
        factor: Side of what becomes one token; both sides of the result are multiples of it.
        least: Smaller pictures are scaled up to so many pixels.
        most: Larger ones are scaled down to so many.
    """

    factor: int
    least: int
    most: int

    def __call__(self, image_wh: ImageSize) -> ImageSize:
        """Return the size after resizing."""
        width, height = image_wh
        height, width = smart_resize(height, width, self.factor, min_pixels=self.least, max_pixels=self.most)
        return width, height


class QwenVL(ModelFamily):
    """One of Qwen's families. Its array of pictures is `pixel_values`, [patches, channels * time * patch * patch]."""

    # ---- pictures

    def preprocess(self, image_processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
        """See `ModelFamily`. Small pictures of one size, as in training, take a short cut."""
        if keeps_size(image_processor, images):
            return _patches_of_equal_images(image_processor, images)
        vision = image_processor(images=images, input_data_format="channels_last", return_tensors="np")
        patches = np.asarray(vision[GRID_THW], dtype=np.int64)
        grids = patches[:, 1:] // image_processor.merge_size
        return PreprocessedImages(grids, {PIXELS: np.asarray(vision[PIXELS], dtype=np.float32)})

    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        """See `ModelFamily`."""
        if max_image_tokens < LEAST_IMAGE_TOKENS:
            raise ValueError(f"max_image_tokens: expected at least {LEAST_IMAGE_TOKENS}, got {max_image_tokens}")
        pixels_per_token = token_side(image_processor) ** 2
        least, most = image_processor.size["shortest_edge"], max_image_tokens * pixels_per_token
        if least > most:
            # Small pictures are scaled up to at least `least`, rounded up to whole tokens on both sides.
            side = math.isqrt(max_image_tokens) - 1
            least = min(least, max(LEAST_IMAGE_TOKENS, side * side) * pixels_per_token)
        image_processor.size = {"shortest_edge": least, "longest_edge": most}

    def image_to_input_wh(self, image_processor: Any) -> Callable[[ImageSize], ImageSize]:
        """See `ModelFamily`."""
        size = image_processor.size
        return ResizedWh(token_side(image_processor), size["shortest_edge"], size["longest_edge"])

    def pixel_shape(self, config: Any) -> tuple[int, ...]:
        """See `ModelFamily`; a patch, all its numbers in a row."""
        vision = config.vision_config
        channels = getattr(vision, "in_channels", None) or vision.in_chans
        return (channels * vision.temporal_patch_size * vision.patch_size**2,)

    # ---- the model

    def parts(self, model: Any) -> ModelParts:
        """See `ModelFamily`."""
        backbone = model.model
        return ModelParts(backbone.visual, backbone, backbone.language_model.layers, model.lm_head)

    def prompt_positions(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ModelFamily`; positions are [3, N, P]."""
        positions: torch.Tensor = model.model.get_rope_index(
            prompts.input_ids,
            mm_token_type_ids=prompts.image_mask.int(),
            image_grid_thw=_grid_thw(model, prompts.grids),
            attention_mask=prompts.attention_mask,
        )[0]
        # A picture takes as many positions as its longer side has tokens, so the largest of the three axes counts on.
        return positions, positions.amax(dim=(0, 2)) + 1

    def text_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """See `ModelFamily`; text has the same position on all three axes, [3, N, C]."""
        return positions.expand(3, -1, -1)

    def image_inputs(self, model: Any, prompts: PromptBatch, num_answer_tokens: int = 0) -> dict[str, Any]:
        """See `ModelFamily`."""
        types = torch.nn.functional.pad(prompts.image_mask.int(), (0, num_answer_tokens))
        shared = {"mm_token_type_ids": types, GRID_THW: _grid_thw(model, prompts.grids)}
        if prompts.image_features is None:
            return {PIXELS: prompts.images[PIXELS], **shared}
        embeddings, *deepstack = prompts.image_features
        # In the shape of the tower's own output. Qwen2-VL and Qwen2.5-VL have no deepstack features, and read none.
        features = BaseModelOutputWithDeepstackFeatures(
            pooler_output=[embeddings], deepstack_features=[[layer] for layer in deepstack]
        )
        return {"mm_encoder_outputs": {"image": features}, **shared}

    def image_features(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
        """See `ModelFamily`; [image tokens, hidden size] each, embeddings and then those for the deepstack layers."""
        features = model.model.get_image_features(prompts.images[PIXELS], _grid_thw(model, prompts.grids))
        deepstack = getattr(features, "deepstack_features", None) or []
        return tuple(torch.cat(tuple(part)) for part in (features.pooler_output, *deepstack))

    # ---- what Qwen's families do better

    def batch_pictures(self, model: Any) -> None:
        """See `ModelFamily` and `vision.py`."""
        batch_pictures(model)

    def transformers_processor(self, tokenizer: Any, image_processor: Any) -> Any:
        """See `ModelFamily`; transformers' own would need torchvision, for videos."""
        return ImagesOnlyProcessor(image_processor, tokenizer, tokenizer.chat_template)


class ImagesOnlyProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without videos.

    Args:
        image_processor: Of the family.
        tokenizer: Likewise.
        chat_template: Likewise.
    """

    # transformers finds out by the names of these arguments that there are no videos.
    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def keeps_size(image_processor: Any, images: Sequence[ImageArray]) -> bool:
    """Return whether an image processor would only rescale and normalize these pictures, which have one size."""
    processor = image_processor
    if type(processor) is not Qwen2VLImageProcessorPil or not (processor.do_rescale and processor.do_normalize):
        return False
    height, width = images[0].shape[:2]
    factor, limits = token_side(processor), processor.size
    is_even = height % factor == 0 and width % factor == 0
    is_within = limits["shortest_edge"] <= height * width <= limits["longest_edge"]
    are_equal = all(image.shape == (height, width, 3) and image.dtype == np.uint8 for image in images)
    return is_even and is_within and are_equal and max(height, width) <= LONGEST_SIDE * min(height, width)


def _patches_of_equal_images(processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
    """Return the very arrays that the image processor makes of pictures for which `keeps_size` is true, all at once."""
    (height, width, _), patch, merge = images[0].shape, processor.patch_size, processor.merge_size
    mean, std = (np.array(x, dtype=np.float32) for x in (processor.image_mean, processor.image_std))
    pixels = ((np.stack(images) * processor.rescale_factor).astype(np.float32) - mean) / std
    rows, columns = height // patch // merge, width // patch // merge
    blocks = pixels.reshape(len(images), rows, merge, patch, columns, merge, patch, 3)
    # Patches in the order of tokens, and in a patch channel, time, row, column; a picture is the same at all times.
    blocks = np.broadcast_to(
        blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None],
        (len(images), rows, columns, merge, merge, 3, processor.temporal_patch_size, patch, patch),
    )
    grids: npt.NDArray[np.int64] = np.tile(np.array([rows, columns], dtype=np.int64), (len(images), 1))
    return PreprocessedImages(grids, {PIXELS: blocks.reshape(len(images) * rows * columns * merge**2, -1)})


def token_side(image_processor: Any) -> int:
    """Side in pixels of the square that becomes one token."""
    return int(image_processor.patch_size * image_processor.merge_size)


def _grid_thw(model: Any, grids: torch.Tensor) -> torch.Tensor:
    """Return [K, 3] int64 patches of each picture along time, height and width, from [K, 2] tokens."""
    patches = grids * model.config.vision_config.spatial_merge_size
    return torch.cat([torch.ones_like(patches[:, :1]), patches], dim=1)


LANGUAGE_MODEL_PROJECTIONS = r".*\blanguage_model\b.*\.(q|k|v|o|gate|up|down)_proj"
"""The seven projections of a decoder layer (paper, table 7). Some vision towers use the same names and stay frozen. The
experts of a mixture are no modules of their own, so of these layers the attention's four get adapters."""


HYBRID_PROJECTIONS = r".*\blanguage_model\b.*\.((q|k|v|o|gate|up|down)_proj|in_proj_(qkv|z|a|b)|out_proj)"
"""The same, and those of the recurrent layers, which have no attention."""


def _family(
    name: str,
    *model_types: str,
    frame: CoordinateFrame,
    lora_targets: str = LANGUAGE_MODEL_PROJECTIONS,
    native_template: str = "qwen3_vl",
) -> QwenVL:
    return QwenVL(
        name=name,
        model_types=model_types,
        frame=frame,
        image_token="<|image_pad|>",
        never_sampled=("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
        lora_targets=lora_targets,
        native_template=native_template,
    )


QWEN2_VL = _family("qwen2_vl", "qwen2_vl", frame=CoordinateFrame.NORM_1000, native_template="qwen2_vl")
QWEN2_5_VL = _family("qwen2_5_vl", "qwen2_5_vl", frame=CoordinateFrame.RESIZED_PIXEL, native_template="qwen2_5_vl")
QWEN3_VL = _family("qwen3_vl", "qwen3_vl", "qwen3_vl_moe", frame=CoordinateFrame.NORM_1000)
QWEN3_5 = _family("qwen3_5", "qwen3_5", "qwen3_5_moe", frame=CoordinateFrame.NORM_1000, lora_targets=HYBRID_PROJECTIONS)
