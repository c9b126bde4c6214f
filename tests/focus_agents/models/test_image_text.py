"""What stands for a picture in a prompt's text, against transformers' own processors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from focus_agents.models.family import ModelFamily
from focus_agents.models.processing import VLMProcessor
from focus_env.types import ImageArray
from tests.focus_agents.models.cases import make_case

SIZES = [(64, 64), (5, 5), (200, 40), (40, 200), (97, 211), (128, 96)]


def expand(family: ModelFamily, processor: VLMProcessor, image: ImageArray) -> str:
    """Our text with each run of image tokens written out."""
    grids, _ = family.preprocess(processor.image_processor, [image])
    (views,) = processor.views([image], grids)
    text, runs = family.image_text(views)
    first, *pieces = text.split(family.image_token)
    return first + "".join(family.image_token * run + piece for run, piece in zip(runs, pieces, strict=True))


def theirs(model_type: str, image_processor: object, image: ImageArray) -> str:
    """The text by the method of transformers' processor, which itself wants a video processor and its libraries."""
    if model_type == "smolvlm":
        vision = image_processor(images=[[image]], return_row_col_info=True)  # type: ignore[operator]
        (rows,), (columns,) = vision["rows"], vision["cols"]
        fake, whole = "<fake_token_around_image>", "<global-img>"
        return str(get_image_prompt_string(rows[0], columns[0], 4, fake, "<image>", whole))
    if model_type == "internvl":
        vision = image_processor(images=[image], crop_to_patches=True)  # type: ignore[operator]
        around = {"start_image_token": "<img>", "end_image_token": "</img>", "image_token": "<IMG_CONTEXT>"}
        self = SimpleNamespace(**around, image_seq_length=16)
        return str(InternVLProcessor.replace_image_token(self, vision, 0))
    self = SimpleNamespace(image_token="<image>", num_image_tokens=16, vision_feature_select_strategy="full")
    return str(LlavaOnevisionProcessor.replace_image_token(self, {"batch_num_images": [2]}, 0))


@pytest.mark.parametrize("model_type", ["internvl", "llava_onevision", "smolvlm"])
def test_it_is_that_of_the_models_own_processor(processor: VLMProcessor, model_type: str) -> None:
    case = make_case(model_type, processor)
    for width, height in SIZES:
        image = np.zeros((height, width, 3), dtype=np.uint8)
        expected = theirs(model_type, case.processor.image_processor, image)
        assert expand(case.family, case.processor, image) == expected
        assert case.family.image_token in expected
