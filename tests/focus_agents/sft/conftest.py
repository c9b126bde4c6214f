"""What the tests of stage 1 share."""

from __future__ import annotations

import pytest

from focus_agents.models.processing import VLMProcessor
from focus_agents.sft.data import SFTExamples
from focus_env.prompts import get_template
from tests.fakes import FakeDataset


@pytest.fixture
def examples(processor: VLMProcessor) -> SFTExamples:
    return SFTExamples(FakeDataset(6, shots=1, with_absent=True), get_template("compact"), processor)
