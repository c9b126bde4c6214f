"""What a vision tower gets of a picture, as a picture again."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from focus_agents.models.processing import VLMProcessor
from focus_agents.models.seen import seen_difference, seen_pictures
from focus_agents.models.views import View, box_tokens, num_image_tokens, paint
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.rendering import draw_heat
from focus_env.types import Box, Episode, ImagePart, Message, TextPart
from tests.fakes import make_episode
from tests.focus_agents.models.cases import make_case, pictures_of


def seen_of(processor: VLMProcessor, episode: Episode) -> tuple[list[tuple[np.ndarray, ...]], list[tuple[View, ...]]]:
    prompt = processor.encode(get_template("compact").render(observe(episode)))
    views = processor.views(pictures_of(episode), prompt.grids)
    seen = seen_pictures(processor.image_processor, prompt, views)
    assert seen is not None
    return seen, views


def test_patches_become_the_resized_picture(processor: VLMProcessor) -> None:
    """The tiny model's processor keeps pictures of whole tokens as they are."""
    episode = make_episode(0, shots=1, query_wh=(112, 56))
    seen, views = seen_of(processor, episode)
    rule = processor.family.image_to_input_wh(processor.image_processor)
    for picture, (shown,), (view,) in zip(pictures_of(episode), seen, views, strict=True):
        assert (shown.shape[1], shown.shape[0]) == rule((picture.shape[1], picture.shape[0]))
        assert seen_difference(shown, picture, view) < 3
        assert seen_difference(shown[:, ::-1], picture, view) > 24


@pytest.mark.parametrize("model_type", ["internvl", "llava_onevision"])
def test_tiles_and_padding(model_type: str, processor: VLMProcessor) -> None:
    own = make_case(model_type, processor).processor
    episode = make_episode(0, shots=1, query_wh=(200, 60))
    seen, views = seen_of(own, episode)
    for picture, parts, picture_views in zip(pictures_of(episode), seen, views, strict=True):
        assert max(map(seen_difference, parts, [picture] * len(parts), picture_views)) < 6
    if model_type == "internvl":
        first, last = views[-1][0], views[-1][-2]
        assert first.area != last.area
        assert seen_difference(seen[-1][0], pictures_of(episode)[-1], last) > 10


def test_unknown_arrays_are_not_shown(processor: VLMProcessor) -> None:
    from dataclasses import replace

    episode = make_episode(0, shots=1)
    prompt = processor.encode(get_template("compact").render(observe(episode)))
    views = processor.views(pictures_of(episode), prompt.grids)
    for images in ({}, {"pixel_values": np.zeros((3, 7), np.float32)}):
        assert seen_pictures(processor.image_processor, replace(prompt, images=images), views) is None


@pytest.mark.parametrize("wh", [(1, 1), (1, 2000), (2000, 1), (6400, 32), (32, 6400)])
@pytest.mark.parametrize("model_type", ["internvl", "llava_onevision", "smolvlm", "gemma3", "qwen2_5_vl", "glm4v"])
def test_extreme_shapes(model_type: str, wh: tuple[int, int], processor: VLMProcessor) -> None:
    """They are seen and drawn, or the picture is named with its size."""
    own = _processor(model_type, processor)
    picture = np.full((wh[1], wh[0], 3), 90, np.uint8)
    messages = [Message("user", [ImagePart(np.zeros((48, 64, 3), np.uint8)), ImagePart(picture), TextPart("Where?")])]
    if model_type in ("qwen2_5_vl", "glm4v") and max(wh) > 200 * min(wh):
        with pytest.raises(
            ValueError, match=rf"^picture 2 of 2, {wh[0]} x {wh[1]} pixels: the model's image processor"
        ):
            own.encode(messages)
        return
    prompt = own.encode(messages)
    views = own.views([np.zeros((48, 64, 3), np.uint8), picture], prompt.grids)
    counts = [num_image_tokens(v) for v in views]
    assert sum(counts) == (prompt.input_ids == own.image_token_id).sum()
    assert len(box_tokens(Box(0, 0, *wh), wh, views[1])) > 0
    heat = paint(np.full(counts[1], 1 / counts[1], np.float32), views[1])
    assert heat.size > 0
    assert np.isfinite(heat).all()
    assert draw_heat(picture, heat).shape == picture.shape
    seen = seen_pictures(own.image_processor, prompt, views)
    assert seen is not None
    assert all(np.isfinite(seen_difference(part, picture, v)) for part, v in zip(seen[1], views[1], strict=True))


@functools.cache
def _processor(model_type: str, processor: VLMProcessor) -> VLMProcessor:
    own = make_case(model_type, processor).processor
    if model_type == "gemma3":
        own.image_processor.do_pan_and_scan = True
    return own
