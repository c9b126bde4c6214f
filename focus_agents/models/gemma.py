"""Gemma 3 and PaliGemma, which do not look from left to right alone: pictures, or whole prompts, see all of themselves.

Both stretch a picture to one square, which a SigLIP tower makes into a grid of tokens. The families say in
`prompt_reach` how far each token of a prompt sees, and to transformers' own code by `token_type_ids`.

Axis letters: N prompts, P prompt tokens, S squares of all pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

PIXELS = "pixel_values"
PAN_AND_SCAN: Mapping[str, float] = {
    "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
"""How Gemma 3's processor of transformers crops pictures where the image processor, as published, leaves it open."""


@dataclass(frozen=True, slots=True)
class SquareWh:
    """The (width, height) in pixels to which every picture is stretched.

    Attributes:
        wh: The size.
    """

    wh: ImageSize

    def __call__(self, image_wh: ImageSize) -> ImageSize:
        """Return the size, whatever a picture's own is."""
        return self.wh


@dataclass(frozen=True, kw_only=True)
class SquareFamily(CountingFamily):
    """The parts that both families share. Their array of pictures is `pixel_values`, [S, 3, side, side].

    Attributes:
        side: Rows and columns of a square's tokens.
    """

    side: int = 16

    # ---- pictures

    def preprocess(self, image_processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
        """See `ModelFamily`; `grids` counts the parts that a picture is cut into beside the whole, 0 x 0 of none."""
        vision = image_processor(images=list(images), input_data_format="channels_last", return_tensors="np")
        grids = np.zeros((len(images), 2), dtype=np.int64)
        return PreprocessedImages(grids, {PIXELS: np.asarray(vision[PIXELS], dtype=np.float32)})

    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        """See `ModelFamily`; the number is fixed."""
        if max_image_tokens < self.side**2:
            raise ValueError(
                f"max_image_tokens: expected at least {self.side**2}, got {max_image_tokens}; all pictures have as many"
            )

    def image_to_input_wh(self, image_processor: Any) -> SquareWh:
        """See `ModelFamily`; the square."""
        return SquareWh((int(image_processor.size["width"]), int(image_processor.size["height"])))

    def pixel_shape(self, config: Any) -> tuple[int, ...]:
        """See `ModelFamily`; a square."""
        side = config.vision_config.image_size
        return config.vision_config.num_channels, side, side

    def views(self, image_processor: Any, grid: tuple[int, int], image_wh: ImageSize) -> tuple[View, ...]:
        """See `ModelFamily`; the whole picture."""
        return (View(self.side, self.side),)

    # ---- the model

    def parts(self, model: Any) -> ModelParts:
        """See `ModelFamily`."""
        inner = model.model
        projections = (inner.multi_modal_projector,)
        return ModelParts(inner.vision_tower, inner, inner.language_model.layers, model.lm_head, projections)

    def token_types(self, prompts: PromptBatch, num_answer_tokens: int) -> torch.Tensor:
        """Return transformers' `token_type_ids` of prompts and answers, [N, P + answer tokens] int64."""
        raise NotImplementedError

    def image_inputs(self, model: Any, prompts: PromptBatch, num_answer_tokens: int = 0) -> dict[str, Any]:
        """See `ModelFamily`."""
        types = {"token_type_ids": self.token_types(prompts, num_answer_tokens)}
        if prompts.image_features is None:
            return {PIXELS: prompts.images[PIXELS], **types}
        (features,) = prompts.image_features
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}, **types}

    def image_features(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
        """See `ModelFamily`; one tensor, [image tokens, hidden size]."""
        features = model.model.get_image_features(prompts.images[PIXELS]).pooler_output
        return (features.flatten(0, 1),)


class Gemma3(SquareFamily):
    """Gemma 3's family: the tokens of a square see each other, all others what stands before them.

    Where the image processor says `do_pan_and_scan`, the parts of a long picture follow the whole as squares of their
    own; as published it does not.
    """

    def for_config(self, config: Any) -> Gemma3:
        """See `ModelFamily`."""
        return replace(self, side=int(config.mm_tokens_per_image**0.5))

    def preprocess(self, image_processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
        """See `SquareFamily`."""
        vision = image_processor(
            images=list(images), input_data_format="channels_last", return_tensors="np", **_crops(image_processor)
        )
        # Parts stand beside each other along the longer side.
        grids = [
            (0, 0) if count == 0 else (1, count) if image.shape[1] >= image.shape[0] else (count, 1)
            for image, count in zip(images, np.ravel(vision["num_crops"]).tolist(), strict=True)
        ]
        return PreprocessedImages(
            np.array(grids, dtype=np.int64), {PIXELS: np.asarray(vision[PIXELS], dtype=np.float32)}
        )

    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        """See `ModelFamily`; fewer parts of a picture, which come at least in twos."""
        super().limit_image_tokens(image_processor, max_image_tokens)
        if image_processor.do_pan_and_scan:
            most = max_image_tokens // self.side**2 - 1
            image_processor.do_pan_and_scan = most >= 2
            image_processor.pan_and_scan_max_num_crops = min(
                int(_crops(image_processor)["pan_and_scan_max_num_crops"]), max(most, 2)
            )

    def views(self, image_processor: Any, grid: tuple[int, int], image_wh: ImageSize) -> tuple[View, ...]:
        """See `ModelFamily`; the whole picture, and its parts, of which the last may be narrower."""
        (rows, columns), (width, height) = grid, image_wh
        found = [View(self.side, self.side)]
        for number in range(rows * columns):
            wide, high = -(-width // columns), -(-height // rows)
            x, y = (number * wide, 0) if rows == 1 else (0, number * high)
            area = (x / width, y / height, min(x + wide, width) / width, min(y + high, height) / height)
            found.append(View(self.side, self.side, area=area))
        return tuple(found)

    def image_text(self, views: Sequence[View]) -> tuple[str, tuple[int, ...]]:
        """See `ModelFamily`; each square between its marks, as in transformers' processor."""
        square = f"\n\n{self.placeholder}{self.image_token}<end_of_image>\n\n"
        runs = tuple(num_image_tokens([view]) for view in views)
        if len(views) == 1:
            return square, runs
        parts = " ".join([square] * (len(views) - 1))
        return f"Here is the original image {square} and here are some crops to help you see better {parts}", runs

    def prompt_reach(self, prompts: PromptBatch) -> torch.Tensor:
        """See `ModelFamily`; to the end of the square that a token is in."""
        is_image = prompts.image_mask
        size = is_image.shape[1]
        columns = torch.arange(size, device=is_image.device).expand_as(is_image)
        is_last = is_image & ~torch.nn.functional.pad(is_image[:, 1:], (0, 1))
        ends = columns.masked_fill(~is_last, size).flip(1).cummin(1).values.flip(1)
        return torch.where(is_image, ends, columns)

    def token_types(self, prompts: PromptBatch, num_answer_tokens: int) -> torch.Tensor:
        """See `SquareFamily`; 1 at image tokens."""
        return torch.nn.functional.pad(prompts.image_mask.long(), (0, num_answer_tokens))


def _crops(image_processor: Any) -> dict[str, float]:
    """Return the limits of crops that an image processor has, or else those of transformers' processor."""
    return {name: getattr(image_processor, name, None) or default for name, default in PAN_AND_SCAN.items()}


@dataclass(frozen=True, slots=True)
class CappedHead:
    """A linear head whose logits a hyperbolic tangent holds below a cap.

    Attributes:
        linear: The model's own.
        cap: The cap.
    """

    linear: Any
    cap: float

    @property
    def out_features(self) -> int:
        """How many logits there are."""
        return int(self.linear.out_features)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return [..., V] logits of [..., H] states."""
        return torch.tanh(self.linear(hidden) / self.cap) * self.cap


BOS = "<bos>"
"""The token that begins a text, of Gemma's tokenizers."""


class PaliGemma(SquareFamily):
    """PaliGemma's family, 1 and 2: all tokens of a prompt see each other, and the answer's what stands before them."""

    def for_config(self, config: Any) -> PaliGemma:
        """See `ModelFamily`."""
        return replace(self, side=config.vision_config.image_size // config.vision_config.patch_size)

    def complete_text(self, text: str) -> str:
        """See `ModelFamily`; beginning-of-text behind the last picture, and a line's end behind the text.

        Templates of policies that were saved by an older release write both themselves.
        """
        before, picture, behind = text.rpartition(self.image_token)
        behind = behind.removeprefix(BOS)
        return f"{before}{picture}{BOS}{behind}" + ("" if behind.endswith("\n") else "\n")

    def parts(self, model: Any) -> ModelParts:
        """See `ModelFamily`; the head of PaliGemma 2 caps its logits."""
        parts, cap = super().parts(model), getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        return parts if cap is None else parts._replace(head=CappedHead(parts.head, cap))

    def prompt_positions(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ModelFamily`; positions are [N, P], counted from 1."""
        return prompts.attention_mask.cumsum(1), prompts.attention_mask.sum(1) + 1

    def prompt_reach(self, prompts: PromptBatch) -> torch.Tensor:
        """See `ModelFamily`; to the prompt's end."""
        return torch.full_like(prompts.input_ids, prompts.input_ids.shape[1] - 1)

    def token_types(self, prompts: PromptBatch, num_answer_tokens: int) -> torch.Tensor:
        """See `SquareFamily`; 1 at tokens of answers."""
        return torch.nn.functional.pad(torch.zeros_like(prompts.input_ids), (0, num_answer_tokens), value=1)


_LANGUAGE_MODEL_PROJECTIONS = r".*\blanguage_model\b.*\.(q|k|v|o|gate|up|down)_proj"

GEMMA3 = Gemma3(
    name="gemma3",
    model_types=("gemma3",),
    frame=CoordinateFrame.NORM_1000,
    image_token="<image_soft_token>",
    placeholder="<start_of_image>",
    never_sampled=("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    lora_targets=_LANGUAGE_MODEL_PROJECTIONS,
    native_template="gemma3",
)

PALIGEMMA = PaliGemma(
    name="paligemma",
    model_types=("paligemma",),
    frame=CoordinateFrame.NORM_1024,
    image_token="<image>",
    never_sampled=("<image>",),
    lora_targets=_LANGUAGE_MODEL_PROJECTIONS,
    native_template="paligemma",
    vllm_fault="which takes one picture a prompt of them, and lets the prompt's text see no further than itself",
    # Pictures where they stand; `complete_text` adds the rest.
    chat_template=(
        "{% for message in messages %}{% for part in message.content %}"
        "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
    ),
)
