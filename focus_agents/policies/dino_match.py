"""Patch features of a DINOv2-like backbone: which patches of the query are like those in the support boxes.

Nothing here is trained or tuned. The constants were chosen by reasoning and on synthetic similarity maps, not on the
features of real weights.

Axis letters: h, w rows and columns of a picture's grid of patches (cells), d features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage
from transformers import AutoModel
from transformers.image_processing_base import ImageProcessingMixin

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import VISION_MODELS, load_part, load_vision_model
from focus_agents.policies.localizers import picture_wh
from focus_env.boxes import Coordinates
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray

MODEL_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit")

NUM_PATCHES = 37 * 37
"""Pictures are resized to about so many patches, never more; at 14 pixels these are DINOv2's last 518x518."""

SUBCELLS = 4
"""Points per cell and axis at which the similarity map is interpolated."""

FLAT = 1e-6
"""A similarity map whose values, differences of cosines, are all within this range has no place that stands out."""

Grid = npt.NDArray[np.float64]
FeatureFunction = Callable[[ImageArray], npt.NDArray[np.floating]]
"""From a picture [H, W, 3] uint8 to features [h, w, d] of the cells of an even grid over the whole of it."""


@dataclass(frozen=True)
class DinoMatcher:
    """Finds the cells of the query that are more like the support boxes than like what is around them; a `Localizer`.

    Each cell's similarity is the cosine to the mean feature inside the support boxes minus the cosine to the mean
    feature outside; `box_from_map` makes a box of it.

    Args:
        features: Features of a picture's cells.
    """

    features: FeatureFunction

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, device: str | torch.device = "cpu") -> DinoMatcher:
        """Load the backbone DINOv2, the same with registers, or a DINOv3 ViT.

        Args:
            name_or_path: A folder with a saved model and the settings of its image processor, or a hub name such as
                "facebook/dinov2-small".
            device: Where it computes.

        Raises:
            CheckpointError: If there is no such model, or it is of another type.
        """
        model = load_vision_model(AutoModel, name_or_path, model_types=MODEL_TYPES, device=device)
        # Only the settings: the image processors themselves cut off edges, and DINOv3's needs torchvision.
        settings, _ = load_part(ImageProcessingMixin.get_image_processor_dict, name_or_path, expected=VISION_MODELS)
        if missing := sorted({"image_mean", "image_std"} - set(settings)):
            raise CheckpointError(
                f"model {name_or_path!r}: expected preprocessor_config.json with {' and '.join(missing)}; save its "
                "image processor beside it"
            )
        return cls(BackboneFeatures(model, mean=settings["image_mean"], std=settings["image_std"]))

    def __call__(self, question: Observation, rng: np.random.Generator) -> Box:
        """Return the box around the most similar place, `xyxy` in pixels of the query."""
        images, boxes = question["support_images"], question["support_boxes"].tolist()
        supports = [unit_features(self.features(image)) for image in images]
        inside = [
            coverage(box, features.shape[:2], picture_wh(image))
            for features, box, image in zip(supports, boxes, images, strict=True)
        ]
        foreground = prototype(supports, inside)
        background = prototype(supports, [1 - share for share in inside])
        query = question["query_image"]
        return box_from_map(unit_features(self.features(query)) @ (foreground - background), picture_wh(query))


class BackboneFeatures:
    """The last layer's patch features of a ViT.

    Args:
        model: Its output holds a class token, registers if it has any, then the patches, row by row.
        mean: Of each colour, 0 to 1, that the model expects to be taken off.
        std: What it expects to be divided by then.
        num_patches: Most patches of a picture.
    """

    def __init__(
        self, model: Any, *, mean: Sequence[float], std: Sequence[float], num_patches: int = NUM_PATCHES
    ) -> None:
        self.model = model
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)
        self.num_patches = num_patches

    @torch.no_grad()
    def __call__(self, image: ImageArray) -> npt.NDArray[np.float32]:
        """Return [h, w, d] features of a picture [H, W, 3] uint8."""
        patch = self.model.config.patch_size
        columns, rows = grid_wh(picture_wh(image), self.num_patches)
        resized = Image.fromarray(image).resize((columns * patch, rows * patch), Image.Resampling.BICUBIC)
        pixels = (np.asarray(resized, np.float32) / 255 - self.mean) / self.std
        inputs = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.model.device)
        tokens = self.model(inputs).last_hidden_state[0]
        num_others = 1 + getattr(self.model.config, "num_register_tokens", 0)
        features: npt.NDArray[np.float32] = tokens[num_others:].reshape(rows, columns, -1).float().cpu().numpy()
        return features


def grid_wh(image_wh: tuple[int, int], num_patches: int) -> tuple[int, int]:
    """Return (columns, rows) of square patches over a picture of about its shape, at least one, at most `num_patches`.

    >>> grid_wh((640, 480), 1369), grid_wh((64, 64), 1369), grid_wh((10000, 1), 1369)
    ((42, 32), (37, 37), (1369, 1))
    """
    width, height = image_wh
    columns = math.isqrt(num_patches * width // height)
    rows = math.isqrt(num_patches * height // width)
    return min(max(columns, 1), num_patches), min(max(rows, 1), num_patches)


def coverage(box: Coordinates, grid: tuple[int, ...], image_wh: tuple[int, int]) -> Grid:
    """Return [h, w] which share of each cell lies inside a box, 0 to 1.

    Args:
        box: `xyxy` in pixels.
        grid: (h, w), rows and columns of cells over the whole picture.
        image_wh: (width, height) of the picture.

    >>> coverage((2, 0, 6, 4), (1, 2), (8, 8))
    array([[0.25, 0.25]])
    """
    rows, columns = grid
    across = _overlaps(box[0] * columns / image_wh[0], box[2] * columns / image_wh[0], columns)
    down = _overlaps(box[1] * rows / image_wh[1], box[3] * rows / image_wh[1], rows)
    return np.outer(down, across)


def _overlaps(start: float, stop: float, num_cells: int) -> Grid:
    """Return how much of each cell [i, i + 1] lies between two points."""
    edges = np.clip(np.arange(num_cells + 1, dtype=np.float64), start, stop)
    return np.diff(edges)


def unit_features(features: npt.NDArray[np.floating]) -> Grid:
    """Return features [..., d] at length 1; those of length 0 stay 0, and infinite ones become nan."""
    features = np.asarray(features, np.float64)
    with np.errstate(invalid="ignore"):
        lengths = np.linalg.norm(features, axis=-1, keepdims=True)
        units: Grid = features / np.where(lengths > 0, lengths, 1.0)
    return units


def prototype(features: Sequence[Grid], weights: Sequence[Grid]) -> Grid:
    """Return [d] weighted mean of cells, at length 1; each picture counts alike, however large its object is.

    Args:
        features: One [h, w, d] for each picture. Cells with a feature that is no number do not count.
        weights: One [h, w] for each picture, not negative. A picture whose weights are all 0 does not count.

    Returns:
        Zeros where nothing counts, e.g. what is outside a box that is the whole picture.
    """
    total = np.zeros(features[0].shape[-1])
    for cells, weight in zip(features, weights, strict=True):
        is_finite = np.asarray(np.isfinite(cells).all(axis=-1))
        weight = np.where(is_finite, weight, 0.0)
        if weight.sum() > 0:
            total += np.tensordot(weight / weight.sum(), np.where(is_finite[..., None], cells, 0.0), axes=2)
    return unit_features(total)


def box_from_map(similarity: Grid, image_wh: tuple[int, int]) -> Box:
    """Return the box around the part of a picture that holds the most similar place.

    The map is interpolated between the centres of cells, so that edges lie where it crosses the threshold and not only
    between cells. The threshold is halfway between the map's lower quartile, the level of the background in any picture
    of which the object fills less than three quarters, and its maximum. What is connected with the maximum by edges is
    the object. (Otsu's threshold splits the background where the object is small; the mean and the median are too high
    where it is large.)

    Args:
        similarity: [h, w], cells over the whole picture. What is no number counts as least similar.
        image_wh: (width, height) of the picture.

    Returns:
        `xyxy` in pixels. The whole picture where no place stands out.
    """
    is_finite = np.isfinite(similarity)
    if not is_finite.any() or np.ptp(similarity[is_finite]) < FLAT:
        return Box(0.0, 0.0, float(image_wh[0]), float(image_wh[1]))
    filled = np.where(is_finite, similarity, similarity[is_finite].min())
    fine = ndimage.zoom(filled, SUBCELLS, order=1, mode="nearest", grid_mode=True)
    peak = np.unravel_index(np.argmax(fine), fine.shape)
    parts, _ = ndimage.label(fine >= (np.quantile(fine, 0.25) + fine[peak]) / 2)
    rows, columns = np.nonzero(np.equal(parts, parts[peak]))
    x_unit, y_unit = image_wh[0] / fine.shape[1], image_wh[1] / fine.shape[0]
    return Box(
        float(columns.min() * x_unit),
        float(rows.min() * y_unit),
        float((columns.max() + 1) * x_unit),
        float((rows.max() + 1) * y_unit),
    )
