"""What the tests of pretraining share."""

from __future__ import annotations

import pytest

from focus_agents.models.loading import SMALL, load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.pretraining import data, train
from focus_agents.pretraining.data import Stage


@pytest.fixture(scope="module")
def processor() -> VLMProcessor:
    return load_processor(SMALL)


@pytest.fixture
def tiny_curriculum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a fraction of a second. The process that draws batches is forked, so it sees this, too."""
    first = Stage(until=2, num_objects=(1, 1), num_questions=1, num_pictures=1, num_documents=8)
    last = Stage(until=10**9, num_objects=(2, 3), num_questions=2, num_pictures=2, num_documents=4)
    monkeypatch.setattr(data, "CURRICULUM", (first, last))
    monkeypatch.setattr(data, "FURTHER_CURRICULUM", (last,))
    monkeypatch.setattr(train, "NUM_SCORING_BATCHES", 2)
