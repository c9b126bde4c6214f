"""Hidden states at the places of a box, for every family."""

from __future__ import annotations

import numpy as np
import torch

from focus_agents.engine.forward import image_inputs
from focus_agents.models.adapters import model_parts
from focus_agents.probing.states import collect_states, encode_question
from tests.focus_agents.models.cases import EPISODES, TEMPLATE, Case


def test_states_of_every_family(case: Case) -> None:
    """Alike whether a prompt stands alone or is padded in a batch, and different from place to place."""
    found = collect_states(case.model, case.processor, TEMPLATE, EPISODES)
    alone = collect_states(case.model, case.processor, TEMPLATE, EPISODES[:1])
    num_layers = len(model_parts(case.model).layers)
    for name, states in found.items():
        assert states.shape[:2] == (num_layers + 1, len(EPISODES)), name
        assert np.isfinite(states).all()
        np.testing.assert_allclose(states[:, 0], alone[name][:, 0], atol=2e-3, rtol=1e-2, err_msg=name)
    width = found["last_number"].shape[-1]
    assert found["numbers"].shape[-1] == 4 * width
    np.testing.assert_array_equal(found["numbers"][..., -width:], found["last_number"])
    assert not np.allclose(found["last_number"], found["text_end"])
    assert not np.allclose(found["region"], found["text_end"])


@torch.no_grad()
def test_states_are_those_of_the_tokens_of_the_box(case: Case) -> None:
    """In a batch with padding, those that a plain call of the model has before its first layer."""
    found = collect_states(case.model, case.processor, TEMPLATE, EPISODES)
    for number, episode in enumerate(EPISODES):
        prompt, place = encode_question(case.processor, TEMPLATE, episode)
        alone = case.processor.collate([prompt])
        (states,) = case.model(
            input_ids=alone.input_ids,
            attention_mask=alone.attention_mask,
            output_hidden_states=True,
            **image_inputs(case.model, alone),
        ).hidden_states[0]
        expected = {
            "numbers": states[place.numbers].flatten(),
            "last_number": states[place.numbers[-1]],
            "text_end": states[place.text_end],
            "region": states[place.region].mean(0),
        }
        for name, state in expected.items():
            np.testing.assert_allclose(found[name][0, number], state, atol=2e-3, rtol=1e-2, err_msg=name)
