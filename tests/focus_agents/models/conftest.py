"""What the tests of models share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from focus_agents.models import attention, registry
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.support_mass import SupportProbe, support_mass
from tests.focus_agents.models import llava_family
from tests.focus_agents.models.cases import MODEL_TYPES, Case, make_case
from tests.focus_agents.models.plain_mass import Measurement


@pytest.fixture(scope="module")
def with_llava() -> Iterator[None]:
    """LLaVA's family is known, as after its package has registered it."""
    registry.register(llava_family.LLAVA)
    yield
    del registry._registered["llava"]


@pytest.fixture(scope="module", params=MODEL_TYPES)
def case(request: pytest.FixtureRequest, with_llava: None, processor: VLMProcessor) -> Case:
    """A tiny model of a family, shared by a file's tests: do not change it."""
    return make_case(request.param, processor)


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
