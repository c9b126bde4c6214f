"""A tiny model of each family, and prompts of three episodes for it."""

from __future__ import annotations

from typing import Any, NamedTuple

from focus_agents.models.adapters import family_of
from focus_agents.models.family import ModelFamily
from focus_agents.models.inputs import EncodedPrompt, PromptBatch
from focus_agents.models.processing import VLMProcessor
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.types import Episode, ImageArray
from tests.fakes import make_episode
from tests.focus_agents.models import llava_family
from tests.focus_agents.models.families import FAMILIES, make_model
from tests.focus_agents.models.published_families import PUBLISHED

MODEL_TYPES = [*FAMILIES, "qwen3_vl_moe", *PUBLISHED, "llava"]
"""The last one is a family as another package would add it."""
TEMPLATE = get_template("compact")
EPISODES = [make_episode(0, shots=1), make_episode(1, shots=3, query_wh=(48, 96)), make_episode(2, shots=2)]


class Case(NamedTuple):
    """A tiny model of a family, and what encodes its prompts."""

    family: ModelFamily
    model: Any
    processor: VLMProcessor
    prompts: list[EncodedPrompt]
    batch: PromptBatch


def make_case(model_type: str, processor: VLMProcessor) -> Case:
    """Build a model; its tokenizer is the tiny models' with the family's own tokens and chat template.

    Args:
        model_type: One of `MODEL_TYPES`. The family of "llava" has to be registered.
        processor: The tiny model's.
    """
    tokenizer = processor.tokenizer
    if model_type in PUBLISHED:
        model, image_processor, tokenizer = PUBLISHED[model_type](tokenizer)
    elif model_type == "llava":
        model, image_processor = llava_family.build_model(tokenizer), llava_family.build_image_processor()
    else:
        model, image_processor = make_model(model_type, processor), processor.image_processor
    own = VLMProcessor(tokenizer, image_processor, family_of(model))
    prompts = [own.encode(TEMPLATE.render(observe(episode))) for episode in EPISODES]
    return Case(own.family, model, own, prompts, own.collate(prompts))


def pictures_of(episode: Episode) -> list[ImageArray]:
    """The pictures in the order of a prompt."""
    return [frame.image() for frame in (*(exemplar.frame for exemplar in episode.support), episode.query_frame)]
