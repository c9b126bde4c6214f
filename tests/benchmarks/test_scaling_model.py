"""The cost model of docs/scaling.md: its tables are the printed ones, and its counts are those of the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from benchmarks import scaling_model as scaling
from benchmarks.step.setup import large_config
from focus_agents.models.adapters import add_adapters
from focus_agents.models.loading import TINY, load_processor
from tests.places import ROOT

DOCUMENT = ROOT / "docs/scaling.md"
ASSUMED = scaling.Assumptions()


def test_the_document_holds_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main()
    printed = capsys.readouterr().out.strip().split("\n\n")
    assert [part.splitlines()[0].split(" | ")[0] for part in printed[:-1]] == [
        "| assumption",
        "| of one group",
        "| GPUs",
    ]
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [part for part in printed if part not in text] == []


def test_counts_are_those_of_the_model() -> None:
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(large_config(load_processor(TINY).tokenizer))
        layers = sum(p.numel() for name, p in model.named_parameters() if "_proj.weight" in name and "language" in name)
        vision = sum(p.numel() for p in model.model.visual.parameters())
        adapters = add_adapters(model, rank=ASSUMED.lora_rank)
    assert scaling.layer_parameters(ASSUMED) == layers
    assert scaling.lora_parameters(ASSUMED) == sum(p.numel() for p in adapters.parameters() if p.requires_grad)
    assert vision == pytest.approx(ASSUMED.vision_parameters, rel=0.02)


def test_a_step_is_the_sum_of_its_parts_or_overlaps_them() -> None:
    cost = scaling.Cost(
        num_gpus=8, num_groups=1, sampling=1.0, learning=4.0, reducing=0.5, sync_bytes=0.0, sync=0.25,
        prompt_bytes=0.0, driver_bytes=0.0, driver_in=0.125, driver_out=2.0,
    )  # fmt: skip
    assert cost.on_policy == 1 + 4 + 0.25 + 0.125 + 2
    assert cost.ahead == 0.125 + (2 + 4 + 0.25)
    assert dataclasses.replace(cost, sampling=10.0).ahead == 0.125 + 10


def test_more_gpus_help_until_the_driver_is_what_a_step_waits_for() -> None:
    def speed(num_gpus: int, num_groups: int = 256) -> float:
        return num_groups / scaling.estimate(ASSUMED, num_gpus=num_gpus, num_groups=num_groups).ahead

    assert speed(8) < speed(16) < speed(64)
    limit = scaling.driver_limit(ASSUMED)
    assert 0.7 * limit < speed(2_000, num_groups=20_000) < limit


def test_the_driver_does_not_see_pictures() -> None:
    small = dataclasses.replace(ASSUMED, picture_tokens=1)
    costs = [scaling.estimate(a, num_gpus=64, num_groups=256) for a in (small, ASSUMED)]
    assert costs[0].prompt_bytes < costs[1].prompt_bytes / 100
    assert costs[0].driver_bytes == costs[1].driver_bytes
    assert costs[0].driver_in + costs[0].driver_out == costs[1].driver_in + costs[1].driver_out
