"""Hidden states, seen as a model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focus_agents.engine.forward import image_inputs
from focus_agents.engine.hidden_states import seen_states
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.processing import VLMProcessor
from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode


@pytest.fixture(scope="module")
def batch(processor: VLMProcessor) -> PromptBatch:
    prompts = [processor.encode(get_template("compact").render(observe(make_episode(n, shots=1)))) for n in range(2)]
    return processor.collate(prompts)


def run(model: Any, batch: PromptBatch, **options: Any) -> Any:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    return model.model(**inputs, **image_inputs(model, batch), **options)


def test_they_are_transformers_own(model: Any, batch: PromptBatch) -> None:
    """The embedding with the pictures in it, the input of each layer, and the last state before the norm."""
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad(), seen_states(model, seen.__setitem__):
        output = run(model, batch, output_hidden_states=True)
    expected = output.hidden_states
    assert list(seen) == list(range(len(expected)))
    assert all(torch.equal(seen[number], state) for number, state in enumerate(expected[:-1]))
    assert torch.equal(model.model.language_model.norm(seen[len(expected) - 1]), output.last_hidden_state)


def test_nothing_is_seen_afterwards_even_of_an_error(model: Any, batch: PromptBatch) -> None:
    seen: list[int] = []

    def fail(number: int, _: torch.Tensor) -> None:
        seen.append(number)
        if number == 1:
            raise RuntimeError("enough")

    with torch.no_grad(), pytest.raises(RuntimeError, match="enough"), seen_states(model, fail):
        run(model, batch)
    with torch.no_grad():
        run(model, batch)
    assert seen == [0, 1]
