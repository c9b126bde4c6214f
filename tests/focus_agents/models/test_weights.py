"""The models that come with the package: they load, they are small, they have a card, and they do what it says."""

from __future__ import annotations

import re

import gymnasium
import numpy as np
import pytest

from focus_agents.evaluation import evaluate
from focus_agents.models.loading import SHIPPED_MODELS, WEIGHTS, load_template
from focus_agents.policies.focus import FocusPolicy
from focus_agents.studies.ablation.answers import split_episodes
from focus_env.env import ENV_ID


def score(name: str, split: str, num_episodes: int) -> float:
    policy = FocusPolicy.from_pretrained(name)
    env = gymnasium.make(ENV_ID, dataset=split_episodes(split, 4, num_episodes), template=policy.template)
    answers = evaluate(env, policy, range(num_episodes), max_completion_tokens=16, batch_size=64)
    return float(np.mean([answer.credit for answer in answers]))


def test_all_of_them_together_are_small() -> None:
    assert {folder.name for folder in WEIGHTS.iterdir() if folder.is_dir()} == set(SHIPPED_MODELS)
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 40 * 2**20
    assert not [file for file in WEIGHTS.rglob("*") if file.suffix in {".bin", ".pt", ".pkl"}]


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_each_has_a_card_and_its_own_prompt(name: str) -> None:
    card = (WEIGHTS / name / "README.md").read_text()
    for title in ("## Scores", "## Limits", "## Training"):
        assert title in card
    assert '"seed": ' in card
    assert re.search(r"Run at commit [0-9a-f]{7}", card)
    assert load_template(name).name == "questions"


def test_supports_decide_what_the_trained_ones_answer() -> None:
    """Loose bounds on a few episodes; the cards have the figures."""
    assert score("focus-small", "unseen", 96) > 0.6
    assert score("focus-small", "shuffled", 96) < 0.3
    assert score("focus-small-base", "unseen", 96) < 0.25
