"""Image processors that do not make what a model's vision tower takes are refused by `check_model`, by field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoImageProcessor

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import check_model

FILE = "preprocessor_config.json"
TYPES = ["qwen2_5_vl", "glm4v", "gemma3", "paligemma", "internvl", "llava_onevision", "smolvlm"]


def change(folder: Path, name: str, **fields: Any) -> None:
    settings = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(settings | fields))


@pytest.mark.parametrize("model_type", TYPES)
def test_image_processors_of_other_families(
    model_type: str, saved: Callable[[str], Path], copied: Callable[[str], Path]
) -> None:
    folder = copied(model_type)
    check_model(str(folder))
    for other in set(TYPES) - {model_type}:
        shutil.copy(saved(other) / FILE, folder / FILE)
        with pytest.raises(CheckpointError, match=r"expected (the image processor of a|its own image processor)"):
            check_model(str(folder))


SQUARE = {"height": 64, "width": 64}
SIZES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a larger square of gemma3": ("gemma3", {"size": SQUARE}, r"size: expected .* \[3, 32, 32\].* \[1, 3, 64, 64\]"),
    "no square": ("gemma3", {"size": SQUARE | {"height": 32}}, r"size: expected .* \[3, 32, 32\].*\[1, 3, 32, 64\]"),
    "no resizing": ("gemma3", {"do_resize": False}, r"size: expected .* \[3, 32, 32\].*\[1, 3, 50, 70\]"),
    "a larger square of paligemma": ("paligemma", {"size": SQUARE}, r"\[1, 3, 64, 64\]"),
    "a larger square of llava": ("llava_onevision", {"size": SQUARE}, r"64, 64\]"),
    "a larger tile of internvl": ("internvl", {"size": SQUARE}, r"size: expected .*, 64, 64\]"),
    "a larger tile of smolvlm": (
        "smolvlm",
        {"max_image_size": {"longest_edge": 64}},
        r"max_image_size: expected .*64\]",
    ),
    "a long edge": ("smolvlm", {"size": {"longest_edge": 1_000_000}}, r"a picture of 70 x 50 pixels becomes at most"),
    "a huge square": ("gemma3", {"size": {"height": 60_000, "width": 60_000}}, r"got 60,000 x 60,000"),
    "a large least size": (
        "qwen2_5_vl",
        {"min_pixels": 10**9, "max_pixels": 10**9},
        r"a picture of 70 x 50 pixels becomes at most",
    ),
    "many tiles": ("internvl", {"max_patches": 65_536}, r"max_patches: expected a whole number from 1 to 512"),
    "most below the size's least": (
        "qwen2_5_vl",
        {"max_pixels": 1},
        r"min_pixels or size.shortest_edge: expected at most max_pixels or size.longest_edge, 1, got 1,024",
    ),
    "least above the size's most": ("qwen2_5_vl", {"min_pixels": 10**6}, r"longest_edge, 16,384, got 1,000,000"),
    "edges in place of pixels": (
        "qwen2_5_vl",
        {"size": {"shortest_edge": 448, "longest_edge": 448}},
        r"longest_edge: expected at least 1,024, the pixels of 4 tokens, got 448; it counts all pixels of a picture",
    ),
    "pixels of an edge": ("qwen2_5_vl", {"min_pixels": 8, "max_pixels": 8}, r"at least 1,024, .* got 8; it counts"),
    "a crop without a size": ("qwen2_5_vl", {"do_center_crop": True}, r"expected the image processor of a qwen2_5_vl"),
}


@pytest.mark.parametrize("what", SIZES)
def test_sizes_that_are_not_the_tower_s(what: str, copied: Callable[[str], Path]) -> None:
    model_type, fields, message = SIZES[what]
    folder = copied(model_type)
    change(folder, FILE, **fields)
    with pytest.raises(CheckpointError, match=rf"{FILE}.*{message}.*take"):
        check_model(str(folder))


@pytest.mark.parametrize("edge", [1, 8, 31, 33])
def test_edges_smaller_than_a_tile_of_smolvlm_are_blown_up_as_by_transformers(
    edge: int, copied: Callable[[str], Path]
) -> None:
    folder = copied("smolvlm")
    change(folder, FILE, size={"longest_edge": edge})
    processor = check_model(str(folder))
    theirs = AutoImageProcessor.from_pretrained(folder)
    for width, height in [(64, 64), (1, 1), (190, 1), (16, 90), (1000, 400)]:
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        grids, arrays = processor.family.preprocess(processor.image_processor, [picture])
        expected = theirs(images=[[picture]], input_data_format="channels_last", return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(arrays["pixel_values"], expected[0])
        (views,) = processor.views([picture], grids)
        assert len(views) == len(expected[0])
        rule = processor.family.image_to_input_wh(processor.image_processor)
        assert rule((width, height)) == tuple(32 * max(1, int(tiles)) for tiles in grids[0][::-1])
