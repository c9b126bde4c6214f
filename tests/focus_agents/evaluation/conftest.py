"""What the tests of evaluations share."""

from __future__ import annotations

import pytest

from tests.focus_agents.evaluation.scripted import ASKED


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    ASKED.clear()
