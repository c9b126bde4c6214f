"""What a vision tower gets of a picture, as a picture again."""

from __future__ import annotations

import numpy as np
import pytest

from focus_agents.models.processing import VLMProcessor
from focus_agents.models.seen import seen_difference, seen_pictures
from focus_agents.models.views import View
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.types import Episode
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
