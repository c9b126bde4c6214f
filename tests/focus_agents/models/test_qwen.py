"""Qwen's families: what nobody else knows of them, and their pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import focus_agents
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.qwen import keeps_size
from tests.focus_agents.models.families import patch_grid

PACKAGE = Path(focus_agents.__file__).parent
MODELS = PACKAGE / "models"

QWEN_FIELDS = (
    "image_grid_thw", "mm_token_type_ids", "get_rope_index", ".visual", "deepstack", "lm_head", "<|image_pad|>",
    "merge_size", "temporal_patch", "pooler_output", "mm_encoder_outputs", "language_model", "pixel_values",
)  # fmt: skip
OF_TRL = ("trl_rows", "trl_trainer")
"""Modules around a method of TRL, whose arguments have these names."""


def test_nobody_else_names_a_field_of_qwen() -> None:
    """The tokens, tensors and modules of a family are known to `models` alone."""
    # ".visual" is a module; ".visualize" and ".visual_tokens" are none.
    pattern = re.compile("|".join(re.escape(name) + r"(?![a-z_])" for name in QWEN_FIELDS))
    files = [path for path in PACKAGE.rglob("*.py") if MODELS not in path.parents and path.stem not in OF_TRL]
    assert len(files) > 50
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []
    assert all(any(name in path.read_text() for path in MODELS.glob("*.py")) for name in QWEN_FIELDS)


@pytest.mark.parametrize(
    ("sizes", "is_short"),
    [
        ([(64, 64)] * 5, True),
        ([(32, 48)], True),
        ([(64, 64), (48, 64)], False),
        ([(60, 60)] * 2, False),
        ([(16, 16)], False),
        ([(144, 128)], False),
        ([(4800, 16)], False),
    ],
)
def test_patches_of_equal_small_pictures_are_what_the_image_processor_makes(
    processor: VLMProcessor, sizes: list[tuple[int, int]], is_short: bool
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    assert keeps_size(processor.image_processor, images) == is_short
    if max(sizes[0]) > 200 * min(sizes[0]):
        return  # the image processor refuses it
    grids, arrays = processor.family.preprocess(processor.image_processor, images)
    theirs = processor.image_processor(images=images, input_data_format="channels_last", return_tensors="np")
    np.testing.assert_array_equal(patch_grid(grids), theirs["image_grid_thw"])
    np.testing.assert_array_equal(arrays["pixel_values"], theirs["pixel_values"])
    assert arrays["pixel_values"].dtype == np.float32
