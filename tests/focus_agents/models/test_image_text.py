"""What stands for a picture in a prompt's text, against transformers' own processors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
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
    if model_type == "gemma3":
        square = "\n\n<start_of_image>" + "<image_soft_token>" * 16 + "<end_of_image>\n\n"
        crops = image_processor(images=[image])["num_crops"]  # type: ignore[operator]
        return str(
            Gemma3Processor.replace_image_token(SimpleNamespace(full_image_sequence=square), {"num_crops": crops}, 0)
        )
    if model_type == "paligemma":
        self = SimpleNamespace(image_token="<image>", image_seq_length=16)
        return str(PaliGemmaProcessor.replace_image_token(self, {}, 0))
    self = SimpleNamespace(image_token="<image>", num_image_tokens=16, vision_feature_select_strategy="full")
    return str(LlavaOnevisionProcessor.replace_image_token(self, {"batch_num_images": [2]}, 0))


@pytest.mark.parametrize("model_type", ["internvl", "llava_onevision", "smolvlm", "gemma3", "paligemma"])
def test_it_is_that_of_the_models_own_processor(processor: VLMProcessor, model_type: str) -> None:
    case = make_case(model_type, processor)
    for width, height in SIZES:
        image = np.zeros((height, width, 3), dtype=np.uint8)
        expected = theirs(model_type, case.processor.image_processor, image)
        assert expand(case.family, case.processor, image) == expected
        assert case.family.image_token in expected


def test_gemmas_pan_and_scan(processor: VLMProcessor) -> None:
    """The whole picture, and its crops where it is long."""
    case = make_case("gemma3", processor)
    crops = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16, "pan_and_scan_max_num_crops": 4}
    image_processor = Gemma3ImageProcessorPil(
        size={"height": 32, "width": 32}, **crops, pan_and_scan_min_ratio_to_activate=1.2
    )
    own = VLMProcessor(case.processor.tokenizer, image_processor, case.family)
    counts = []
    for width, height in [*SIZES, (101, 40), (40, 101)]:
        image = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
        assert expand(case.family, own, image) == theirs("gemma3", image_processor, image)
        grids, arrays = case.family.preprocess(image_processor, [image])
        (views,) = own.views([image], grids)
        counts.append(len(views))
        squares = arrays["pixel_values"]
        assert len(squares) == len(views)
        for square, view in zip(squares, views, strict=True):
            x1, y1, x2, y2 = (round(s * side) for s, side in zip(view.area, (width, height) * 2, strict=True))
            alone = case.family.preprocess(case.processor.image_processor, [image[y1:y2, x1:x2]]).arrays
            np.testing.assert_array_equal(square, alone["pixel_values"][0])
    assert counts == [1, 1, 5, 5, 3, 3, 4, 4]


@pytest.mark.parametrize(("limit", "most"), [(16, None), (47, None), (48, 2), (64, 3), (1000, 4)])
def test_a_limit_on_gemmas_crops(processor: VLMProcessor, limit: int, most: int | None) -> None:
    family = make_case("gemma3", processor).family
    image_processor = Gemma3ImageProcessorPil(do_pan_and_scan=True)  # four crops by transformers' processor
    family.limit_image_tokens(image_processor, limit)
    assert image_processor.do_pan_and_scan == (most is not None)
    assert most in (None, image_processor.pan_and_scan_max_num_crops)
    (grid,) = family.preprocess(image_processor, [np.zeros((300, 1300, 3), dtype=np.uint8)]).grids.tolist()
    assert grid == ([0, 0] if most is None else [1, most])
