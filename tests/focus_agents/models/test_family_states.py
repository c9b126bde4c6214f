"""Hidden states at the places of a box, for every family."""

from __future__ import annotations

import numpy as np

from focus_agents.models.adapters import model_parts
from focus_agents.probing.states import collect_states
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
