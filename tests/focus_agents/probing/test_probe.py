"""The probe of a model: where a planted colour is found, and what is reported."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.probing.probe import probe_model, score_states
from focus_agents.probing.settings import ProbeSettings
from focus_agents.probing.states import PLACES

SETTINGS = ProbeSettings(num_probe_episodes=15)


def test_a_colour_is_found_where_it_is_and_nowhere_else() -> None:
    """At the last number from layer 2 on, in noise everywhere else."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=900)
    codes = rng.normal(size=(10, 24))
    states = {name: rng.normal(size=(4, 900, 24)).astype(np.float32) for name in PLACES}
    states["last_number"][2:] += 2 * codes[labels].astype(np.float32)
    found = score_states(states, labels, 10)
    assert (found.num_fit, found.num_test) == (660, 240)
    assert found.commonest == np.bincount(labels[660:]).max() / 240
    assert min(found.accuracy["last_number"][2:]) > 0.9
    others = [*found.accuracy["last_number"][:2], *(a for n in PLACES if n != "last_number" for a in found.accuracy[n])]
    assert len(others) == 14
    assert max(others) < 0.1 + 4 * (0.09 / 240) ** 0.5


def test_the_tested_episodes_are_not_fitted() -> None:
    """Labels that mean something else in the test part: nothing right, however well the fit is."""
    labels = np.array([0, 1] * 75)
    states = {"region": np.eye(2, dtype=np.float32)[labels][None]}
    other = np.where(np.arange(150) < 110, labels, 1 - labels)
    assert score_states(states, labels, 2).accuracy == {"region": [1.0]}
    assert score_states(states, other, 2).accuracy == {"region": [0.0]}


def test_a_model_is_probed_at_every_layer() -> None:
    told: list[int] = []
    model = load_model("small").train()
    found = probe_model(model, load_processor("small"), load_template("small"), SETTINGS, tell=told.append)
    assert not model.training
    assert told == [15]
    report = json.loads(json.dumps(found.as_dict()))
    assert {name: len(shares) for name, shares in report["accuracy"].items()} == dict.fromkeys(PLACES, 6)
    assert (report["target"], report["num_fit"], report["num_test"]) == ("ground colour", 11, 4)
    assert all(0 <= share <= 1 for shares in report["accuracy"].values() for share in shares)


def test_weights_that_have_fallen_apart_are_told() -> None:
    model = load_model("small")
    with torch.no_grad():
        model.model.language_model.layers[2].mlp.down_proj.weight.fill_(torch.inf)
    with pytest.raises(CheckpointError, match="expected finite hidden states, got NaN or infinity at numbers"):
        probe_model(model, load_processor("small"), load_template("small"), SETTINGS)
