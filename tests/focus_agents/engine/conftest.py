"""Questions, models and groups of answers that the tests of scoring share."""

from __future__ import annotations

import pytest

from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode
from tests.focus_agents.engine.groups import CASES, Group, Pair, make_group, make_pair
from tests.focus_agents.models.families import FAMILIES


@pytest.fixture(scope="module")
def questions(processor: VLMProcessor) -> list[EncodedPrompt]:
    """With two, four, three and two pictures."""
    episodes = [
        make_episode(0, shots=1),
        make_episode(1, shots=3, query_wh=(48, 96)),
        make_episode(2, shots=2, query_wh=(33, 70)),
        make_episode(3, shots=1),
    ]
    return [processor.encode(get_template("compact").render(observe(episode))) for episode in episodes]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, processor: VLMProcessor) -> Pair:
    """They are shared: do not change them."""
    return make_pair(request.param, processor)


@pytest.fixture(scope="module")
def qwen2(processor: VLMProcessor) -> Pair:
    """For what does not depend on the family. They are shared: do not change them."""
    return make_pair("qwen2_vl", processor)


@pytest.fixture(params=list(CASES))
def group(request: pytest.FixtureRequest, processor: VLMProcessor, questions: list[EncodedPrompt]) -> Group:
    return make_group(request.param, processor, questions)


@pytest.fixture
def five(processor: VLMProcessor, questions: list[EncodedPrompt]) -> Group:
    """Three padded prompts with five answers each."""
    return make_group("five answers, padded", processor, questions)
