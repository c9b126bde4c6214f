"""Environments of the fake episodes, and the right answer to the first."""

from __future__ import annotations

from typing import Any

from focus_env.env import InContextLocalizationEnv
from tests.fakes import FakeDataset

ACTION_TYPES = ["text", "box"]
GOLD = "<answer>[250, 167, 750, 667]</answer>"  # of the fake episode 0: (20, 10, 60, 40) in 80 x 60


def make_env(**options: Any) -> InContextLocalizationEnv:
    return InContextLocalizationEnv(**{"dataset": FakeDataset(), **options})
