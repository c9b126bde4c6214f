"""Hidden states of a model at the places that stand for a support box, of many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from focus_agents.engine.forward import image_inputs, prompt_positions
from focus_agents.engine.hidden_states import seen_states
from focus_agents.models.adapters import model_parts
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import PromptSpans, VLMProcessor
from focus_agents.models.views import box_tokens
from focus_env.env import observe
from focus_env.prompts import IPLocTemplate, PromptTemplate
from focus_env.types import Episode, Exemplar

PLACES = ("numbers", "last_number", "text_end", "region")
"""Places of hidden states, all of the first support. The numbers are read at the ends of the box's four numbers, side
by side, and the last number at its own end. The end of the text is the last token of the box's text. The region is the
mean over the image tokens inside the box."""


@dataclass(frozen=True)
class BoxPlaces:
    """The tokens of a prompt that stand for a support box, as positions.

    Attributes:
        numbers: [4] int64, the token that ends each number.
        text_end: The last token of the box's text.
        region: [M] int64, image tokens inside the box.
    """

    numbers: npt.NDArray[np.int64]
    text_end: int
    region: npt.NDArray[np.int64]


def box_places(spans: PromptSpans, support: Sequence[Exemplar], number: int = 0) -> BoxPlaces:
    """Return the tokens that stand for the box of a support.

    Args:
        spans: Where the prompt holds pictures and boxes.
        support: The supports of the prompt.
        number: Which of them.

    Raises:
        ValueError: If the prompt does not mark a box of four numbers for each support.
    """
    written = [len(numbers) for numbers in spans.box_numbers]
    if written != [4] * len(support):
        raise ValueError(
            f"prompt: expected a marked box of 4 numbers for each of the {len(support)} supports, got boxes of "
            f"{written or 'no'} numbers; a template marks boxes by TextPart.box_span"
        )
    exemplar = support[number]
    inside = box_tokens(exemplar.box, exemplar.frame.image_wh, spans.views[number])
    return BoxPlaces(spans.box_numbers[number], int(spans.box_texts[number][-1]), spans.images[number][inside])


def states_at(state: torch.Tensor, places: Sequence[BoxPlaces]) -> dict[str, torch.Tensor]:
    """Return a layer's states at the places of each prompt.

    Args:
        state: [N, P, H].
        places: Of the N prompts, in columns of `state`.

    Returns:
        By name of `PLACES`: [N, 4 * H] float32 for the numbers, [N, H] for the others.
    """
    rows = [(row.float(), place) for row, place in zip(state, places, strict=True)]
    return {
        "numbers": torch.stack([row[place.numbers].flatten() for row, place in rows]),
        "last_number": torch.stack([row[place.numbers[-1]] for row, place in rows]),
        "text_end": torch.stack([row[place.text_end] for row, place in rows]),
        "region": torch.stack([row[place.region].mean(0) for row, place in rows]),
    }


def encode_question(
    processor: VLMProcessor, template: PromptTemplate, episode: Episode
) -> tuple[EncodedPrompt, BoxPlaces]:
    """Return the prompt of an episode, and the tokens that stand for its first support's box."""
    if isinstance(template, IPLocTemplate):
        template = template.for_episode(episode)
    messages = template.render(observe(episode))
    prompt = processor.encode(messages)
    return prompt, box_places(processor.locate(messages, prompt), episode.support)


@torch.no_grad()
def collect_states(
    model: Any, processor: VLMProcessor, template: PromptTemplate, episodes: Sequence[Episode]
) -> dict[str, npt.NDArray[np.float32]]:
    """Run the prompts of episodes through a model, in one batch, and keep the states at the places alone.

    Args:
        model: A model of a known family, in evaluation mode, on any device.
        processor: Its processor.
        template: Words the prompts.
        episodes: N of them.

    Returns:
        By name of `PLACES`: [layers + 1, N, features] float32, the embedding first.
    """
    questions = [encode_question(processor, processor.fit_template(template), episode) for episode in episodes]
    prompts = processor.collate([prompt for prompt, _ in questions])
    padding = [prompts.input_ids.shape[1] - len(prompt.input_ids) for prompt, _ in questions]
    places = [
        BoxPlaces(place.numbers + left, place.text_end + left, place.region + left)
        for (_, place), left in zip(questions, padding, strict=True)
    ]
    prompts = prompts.to(next(model.parameters()).device)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in PLACES}

    def keep(_: int, state: torch.Tensor) -> None:
        for name, states in states_at(state, places).items():
            found[name].append(states.cpu())

    positions, _ = prompt_positions(model, prompts)
    with seen_states(model, keep):
        model_parts(model).backbone(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            position_ids=positions,
            use_cache=False,
            **image_inputs(model, prompts),
        )
    return {name: torch.stack(states).numpy() for name, states in found.items()}
