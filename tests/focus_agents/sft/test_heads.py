"""The attention loss on chosen heads, on the last token of a box's text, and against the rest of the supports."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.errors import EpisodeError
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.loading import load_config, load_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.sft.data import SFTExamples
from focus_agents.sft.heads import chosen_heads, measured_heads, num_chosen_heads, top_heads
from focus_agents.sft.progress import Progress
from focus_agents.sft.settings import SFTConfig
from focus_env.prompts import get_template
from tests.fakes import FakeDataset, make_episode
from tests.focus_agents.models.eager_maps import step
from tests.focus_agents.models.families import ALL_LAYERS, assert_same_gradients, make_model
from tests.focus_agents.sft.runs import make_plan

TEMPLATE = get_template("compact")
LAYERS = frozenset({0, 1, 2})


class TestTheChoice:
    def test_of_heads_by_mass(self) -> None:
        masses = {2: torch.tensor([0.5, 0.1, 0.5]), 0: torch.tensor([0.2, 0.9, 0.5])}
        assert top_heads(masses, 1) == [[0, 1]]
        assert top_heads(masses, 3) == [[0, 1], [0, 2], [2, 0]]  # of equal ones the first
        assert measured_heads(top_heads(masses, 3), LAYERS) == (frozenset({0, 2}), {0: (1, 2), 2: (0,)})
        assert measured_heads([[2, 0]], LAYERS) == (frozenset({2}), {2: (0,)})
        assert measured_heads(None, LAYERS) == (LAYERS, None)

    @pytest.mark.parametrize("spec", ["", "top", "top:", "top:0", "top:-1", "top:1.5", "first:3", "top:٣", "8"])
    def test_that_is_none(self, spec: str) -> None:
        with pytest.raises(ValueError, match="attention_heads: expected 'all' or a number as in 'top:8', got"):
            num_chosen_heads(spec, load_config("tiny"), LAYERS)

    def test_of_more_than_there_are(self) -> None:
        config = load_config("tiny")
        most = 3 * config.get_text_config().num_attention_heads
        assert num_chosen_heads("all", config, LAYERS) is None
        assert num_chosen_heads(f"top:{most}", config, LAYERS) == most
        with pytest.raises(ValueError, match=f"attention_heads: expected at most {most}, the heads of the 3"):
            num_chosen_heads(f"top:{most + 1}", config, LAYERS)

    def test_is_made_before_training_and_the_same_for_all_workers(
        self, tmp_path: Path, processor: VLMProcessor
    ) -> None:
        plan = make_plan(tmp_path / "run", attention_heads="top:3")
        found = []
        for _ in range(2):
            model = load_model("tiny")
            set_focus_attention(model)
            model.train()
            found.append(chosen_heads(plan, model, processor, LAYERS))
            assert model.training
        assert found[0] == found[1]
        assert len(found[0]) == 3
        for options in ({"attention_heads": "all"}, {"attention_heads": "top:3", "beta": 0.0}):
            other = dataclasses.replace(plan, config=dataclasses.replace(plan.config, **options))
            assert chosen_heads(other, model, processor, LAYERS) is None

    def test_needs_episodes(self, tmp_path: Path, processor: VLMProcessor) -> None:
        class Broken(FakeDataset):
            def __getitem__(self, index: int) -> Any:
                raise OSError("gone")

        plan = dataclasses.replace(
            make_plan(tmp_path / "run", attention_heads="top:3"), validation_episodes=Broken(3, shots=1)
        )
        model = load_model("tiny")
        with pytest.raises(EpisodeError, match="expected an episode that can be used"):
            chosen_heads(plan, model, processor, LAYERS)

    def test_goes_through_a_checkpoint(self) -> None:
        progress = Progress(step=3, heads=[[0, 1], [2, 0]])
        again = Progress(**json.loads(json.dumps(dataclasses.asdict(progress))))
        assert measured_heads(again.heads, LAYERS) == measured_heads([[0, 1], [2, 0]], LAYERS)
        assert Progress(**{"step": 3}).heads is None  # of an earlier release


def test_micro_batches_change_nothing(processor: VLMProcessor) -> None:
    episodes = [make_episode(index, shots=1 + index % 2, query_wh=(48, 96 - 16 * index)) for index in range(3)]
    examples = SFTExamples(episodes, TEMPLATE, processor, contrast="supports", target="last")
    model, items = make_model("qwen2_vl", processor), [examples[index] for index in range(3)]
    set_focus_attention(model)
    layers, heads = measured_heads([[0, 1], [2, 0], [2, 3]], ALL_LAYERS)
    config = SFTConfig(margin=1.0)
    found = []
    for parts in ([[0, 1, 2]], [[2], [0, 1]]):
        batches = [examples.collate([items[index] for index in part]) for part in parts]
        found.append(step(model, batches, config, layers, heads))
    (metrics, gradients), (other_metrics, other_gradients) = found
    assert metrics == pytest.approx(other_metrics, rel=1e-4)
    assert {name for name in metrics if "/" in name} == {
        f"{name}/{layer}" for name in ("support_mass", "support_delta", "past_margin") for layer in (0, 2)
    }
    assert_same_gradients(gradients, other_gradients, 1e-3)
    assert np.isfinite(list(metrics.values())).all()
