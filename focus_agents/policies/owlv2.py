"""OWLv2's detection guided by pictures: what in the query looks like the objects in the support boxes.

The steps are those of `Owlv2ForObjectDetection.image_guided_detection`, except that the support's box, not the most
object-like place of its picture, says which predicted box is meant. They are tested with random weights alone.

Axis letters: P patches of a picture, each of which predicts one box; d features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoImageProcessor, Owlv2ForObjectDetection

from focus_agents.models.loading import VISION_MODELS, load_part, load_vision_model
from focus_agents.policies.localizers import picture_wh
from focus_env.boxes import iou
from focus_env.spaces import Observation
from focus_env.types import Box, BoxArray, ImageArray


@dataclass(frozen=True)
class OWLv2Localizer:
    """Finds the predicted box of the query whose class is most like that of the support boxes; a `Localizer`.

    A support's class embedding is that of the box predicted on its own picture that overlaps its box most. Their mean
    takes the place of a text's embedding.

    Args:
        model: `Owlv2ForObjectDetection`.
        image_processor: That which belongs to it.
    """

    model: Any
    image_processor: Any

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, device: str | torch.device = "cpu") -> OWLv2Localizer:
        """Load the model and its image processor.

        Args:
            name_or_path: A folder with both, or a hub name such as "google/owlv2-base-patch16-ensemble".
            device: Where it computes.

        Raises:
            CheckpointError: If there is no such model, or it is of another type.
        """
        model = load_vision_model(Owlv2ForObjectDetection, name_or_path, model_types=("owlv2",), device=device)
        return cls(model, load_part(AutoImageProcessor.from_pretrained, name_or_path, expected=VISION_MODELS))

    @torch.no_grad()
    def __call__(self, question: Observation, rng: np.random.Generator) -> Box | None:
        """Return the best predicted box, `xyxy` in pixels of the query, which may reach beyond it; None without any."""
        embeddings = [
            self._support_embedding(image, np.array(box))
            for image, box in zip(question["support_images"], question["support_boxes"], strict=True)
        ]
        query = question["query_image"]
        patches, boxes = self._predict_boxes(query)
        logits, _ = self.model.class_predictor(patches, torch.stack(embeddings).mean(dim=0)[None, None])
        return best_box(boxes, logits[0, :, 0].float().cpu().numpy(), picture_wh(query))

    def _support_embedding(self, image: ImageArray, box: BoxArray) -> torch.Tensor:
        """Return [d] class embedding, at length 1, of what is in the box."""
        patches, boxes = self._predict_boxes(image)
        _, embeddings = self.model.class_predictor(patches)
        return torch.nn.functional.normalize(embeddings[0, closest_box(boxes, box)], dim=0)

    def _predict_boxes(self, image: ImageArray) -> tuple[torch.Tensor, BoxArray]:
        """Return features [1, P, d] of a picture's patches, and the box [P, 4] that each predicts, `xyxy` in pixels."""
        side = self.model.config.vision_config.image_size
        inputs = self.image_processor(
            image, size={"height": side, "width": side}, input_data_format="channels_last", return_tensors="pt"
        )
        (pixels_name, *_) = self.image_processor.model_input_names
        feature_map, _ = self.model.image_embedder(inputs[pixels_name].to(self.model.device))
        patches = feature_map.flatten(1, 2)
        boxes = self.model.box_predictor(patches, feature_map)[0].double().cpu().numpy()
        return patches, boxes_in_pixels(boxes, picture_wh(image))


def boxes_in_pixels(predicted: npt.NDArray[np.float64], image_wh: tuple[int, int]) -> BoxArray:
    """Return boxes as the model predicts them, in pixels of the picture.

    The model sees the picture in the upper left corner of a square with the longer side, the rest of which is padded;
    its boxes are shares of that square.

    Args:
        predicted: [P, 4] x and y of the centre, width, height, 0 to 1.
        image_wh: (width, height) of the picture.

    Returns:
        [P, 4] `xyxy`; they may reach into the padding.
    """
    centers, sizes = predicted[:, :2], predicted[:, 2:]
    return np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1) * max(image_wh)


def closest_box(boxes: BoxArray, box: BoxArray) -> int:
    """Find the box [P, 4] that overlaps a box [4] most; if none does, the one whose centre is nearest."""
    overlaps = iou(boxes, box)
    if overlaps.any():
        return int(np.argmax(overlaps))
    distances = np.linalg.norm((boxes[:, :2] + boxes[:, 2:] - box[:2] - box[2:]) / 2, axis=1)
    return int(np.argmin(np.nan_to_num(distances, nan=np.inf)))


def best_box(boxes: BoxArray, scores: npt.NDArray[np.floating], image_wh: tuple[int, int]) -> Box | None:
    """Return the box with the best score among those that show something of the picture.

    Args:
        boxes: [P, 4] `xyxy` in pixels.
        scores: [P].
        image_wh: (width, height) of the picture; a box beyond it lies in the padding and does not count.

    Returns:
        None if no box counts, or none has a score that is a number.
    """
    is_seen = iou(np.clip(boxes, 0, (*image_wh, *image_wh)), (0, 0, *image_wh)) > 0
    counts = is_seen & np.isfinite(scores)
    return Box(*boxes[np.argmax(np.where(counts, scores, -np.inf))].tolist()) if counts.any() else None
