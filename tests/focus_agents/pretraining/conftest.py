"""What the tests of pretraining share."""

from __future__ import annotations

import pytest

from focus_agents.models.loading import SMALL, load_processor
from focus_agents.models.processing import VLMProcessor


@pytest.fixture(scope="module")
def processor() -> VLMProcessor:
    return load_processor(SMALL)
