"""How large stage 1 sees pictures, what it records of that, how it validates, and what that takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from focus_agents.models import budget
from focus_agents.models.budget import PromptSize
from focus_agents.models.loading import load_processor
from focus_agents.models.pictures import PictureBudget
from focus_agents.sft import validation, worker
from focus_agents.sft.budget import TRAINING, VALIDATION, rows_per_pass, worker_memory
from focus_agents.sft.settings import SFTConfig, SFTSchedule
from tests.focus_agents.models.hub_models import hub_prompt, qwen2_vl_7b
from tests.focus_agents.sft.runs import make_plan, train

PAPER = SFTConfig(lora_rank=8, precision="bf16", labels="full", batch_size=64, micro_batch_size=1)
SCHEDULE = SFTSchedule(max_completion_tokens=50)


def test_a_policy_carries_both_budgets_and_the_models_own_limits(tmp_path: Path) -> None:
    """A run that starts from it sees pictures as the one before, unless it is told otherwise."""
    budgets = {"max_image_tokens": 9, "validation_max_image_tokens": 16}
    train(make_plan(tmp_path / "first", num_steps=1, cooldown=0.0, **budgets))
    folder = tmp_path / "first/checkpoints/final"
    assert json.loads((folder / "focus.json").read_text())["pictures"] == budgets
    size = json.loads((folder / "preprocessor_config.json").read_text())["size"]
    assert size == load_processor("tiny").image_processor.size
    assert make_plan(tmp_path / "second", model=str(folder)).pictures == PictureBudget(9, 16)
    assert make_plan(tmp_path / "third", model=str(folder), max_image_tokens=4).pictures == PictureBudget(4, 16)


def test_a_validation_shows_pictures_as_large_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def evaluate(env: Any, policy: Any, indices: Any, **options: Any) -> list[Any]:
        shown.append((policy.processor.image_processor.size["longest_edge"] // 256, policy.precision, options))
        return real(env, policy, indices, **options)

    real = validation.evaluate
    monkeypatch.setattr(validation, "evaluate", evaluate)
    options = {"max_image_tokens": 9, "validation_max_image_tokens": 16, "validation_batch_size": 2}
    train(make_plan(tmp_path / "run", num_steps=1, cooldown=0.0, precision="bf16", **options))
    assert [part[:2] for part in shown] == [(16, "bf16")] * 2
    assert {part[2]["batch_size"] for part in shown} == {2}


def test_gradients_are_gone_while_it_validates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def validate(plan: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        held.append(sum(parameter.grad is not None for parameter in model.parameters()))
        return real(plan, model, *arguments, **options)

    real = worker.validate
    monkeypatch.setattr(worker, "validate", validate)
    train(make_plan(tmp_path / "run", num_steps=2, validation_interval=1))
    assert held == [0, 0, 0]


class TestCount:
    """What a worker holds, of the paper's settings."""

    def test_rows(self) -> None:
        assert rows_per_pass(SFTConfig(batch_size=64), 8) == 8
        assert rows_per_pass(SFTConfig(batch_size=64), 0) == 64
        assert rows_per_pass(PAPER, 8) == 1
        assert rows_per_pass(SFTConfig(batch_size=4, micro_batch_size=16), 8) == 1

    @pytest.mark.parametrize(("limit", "training"), [(352, 31.5), (2938, 61.5)])
    def test_an_example_in_a_pass(self, limit: int, training: float) -> None:
        prompts = hub_prompt((1280, 720), 4, limit), hub_prompt((1280, 720), 4, 2938)
        memory = worker_memory(qwen2_vl_7b(), PAPER, SCHEDULE, prompts=prompts, num_workers=8)
        assert budget.total(memory[TRAINING]) / budget.GB == pytest.approx(training, rel=0.06)
        assert budget.total(memory[VALIDATION]) / budget.GB < 40

    def test_full_hd_pictures_are_validated_in_40_gigabytes_too(self) -> None:
        prompt = hub_prompt((1920, 1080), 4, 2938)
        memory = worker_memory(qwen2_vl_7b(), PAPER, SCHEDULE, prompts=(prompt, prompt), num_workers=8)
        assert budget.total(memory[VALIDATION]) / budget.GB < 40
        assert budget.total(memory[TRAINING]) / budget.GB > 100

    def test_what_lowers_it(self) -> None:
        prompt = PromptSize(tokens=2000, visual_tokens=1750, num_pictures=5, patches=7000, pixel_bytes=32_900_000)
        shape = qwen2_vl_7b()

        def training(**changes: Any) -> float:
            config = SFTConfig(**({"lora_rank": 8, "precision": "bf16", "micro_batch_size": 4} | changes))
            return budget.total(worker_memory(shape, config, SCHEDULE, prompts=(prompt, prompt))[TRAINING])

        plain = training()
        for changes in ({"micro_batch_size": 1}, {"gradient_checkpointing": True}):
            assert training(**changes) < 0.6 * plain
        for changes in ({"precision": "fp32"}, {"lora_rank": None}, {"lora_rank": None, "freeze_vision": False}):
            assert training(**changes) > 1.3 * plain
