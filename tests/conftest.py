"""What all tests share. Nothing here imports torch before a test asks for it: the environment's tests run without."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode

if TYPE_CHECKING:
    from focus_agents.models.inputs import EncodedPrompt
    from focus_agents.models.processing import VLMProcessor

# Read when transformers and torch are first imported: nothing is asked of the hub, and one thread is enough.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray Train looks every two seconds whether its workers are done, at the least twice a training.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
# Ray that a test starts by the way is its own, and not that of a test beside it.
os.environ["RAY_ADDRESS"] = "local"

# Other work on the machine must not fail a property by its clock.
settings.register_profile("focus", deadline=None)
settings.load_profile("focus")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked slow, unless the command line asks for it by name."""
    if "slow" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session")
def processor() -> VLMProcessor:
    """The small model's processor. It is shared: do not change it."""
    from focus_agents.models.loading import load_processor

    return load_processor("tiny")


@pytest.fixture(scope="session")
def model() -> Any:
    """The small model in eval mode. It is shared: do not change it.

    Its random weights are wider than usual, since with the usual ones it repeats a token whatever the pictures.
    """
    import torch

    from focus_agents.models.loading import load_model

    model = load_model("tiny").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=generator)
            elif parameter.ndim > 1 and "embed_tokens" not in name:
                parameter.mul_(5)
    return model


@pytest.fixture(scope="session")
def prompts(processor: VLMProcessor) -> list[EncodedPrompt]:
    """Three questions of different lengths, with two, four and three pictures."""
    template = get_template("compact")
    episodes = [
        make_episode(0, shots=1),
        make_episode(1, shots=3, query_wh=(48, 96)),
        make_episode(2, shots=2, query_wh=(33, 70)),
    ]
    return [processor.encode(template.render(observe(episode))) for episode in episodes]
