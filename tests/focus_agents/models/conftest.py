"""What the tests of models share."""

from __future__ import annotations

import pytest
import torch

from focus_agents.models import attention
from focus_agents.models.support_mass import SupportProbe, support_mass
from tests.focus_agents.models.plain_mass import Measurement


@pytest.fixture
def layer_calls(monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """The measurements of all layers, in the order in which they are made."""
    calls: list[Measurement] = []

    def recorded(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, *, scaling: float) -> torch.Tensor:
        mass = support_mass(query, key, probe, scaling=scaling)
        calls.append(Measurement(query, key, probe, scaling, mass))
        return mass

    monkeypatch.setattr(attention, "support_mass", recorded)
    return calls
