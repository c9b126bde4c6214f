"""Losses, gradients and weights that are no numbers: such a step changes nothing and is counted; many end the run."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.errors import TrainingError
from focus_agents.grpo.learner import GRAD_NORM
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.grpo.steps import TrainingGroup
from focus_agents.sft.settings import SFTConfig
from tests.focus_agents.grpo.learners import build_learner, module_of, sample_groups, update


@pytest.fixture(scope="module")
def groups() -> list[TrainingGroup]:
    return sample_groups(build_learner())


def spoilt(groups: list[TrainingGroup], value: float) -> list[TrainingGroup]:
    """One advantage is no number, and so are loss and gradient."""
    advantages = groups[0].advantages.copy()
    advantages[0] = value
    return [dataclasses.replace(groups[0], advantages=advantages), *groups[1:]]


def parameters(learner: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module_of(learner).policy.named_parameters()}


def optimizer_steps(learner: Any) -> set[int]:
    return {int(state["step"]) for state in learner.get_optimizer().state.values()}


def test_both_stages_stop_after_the_same_number() -> None:
    assert GRPOSettings().max_bad_steps == SFTConfig().max_bad_steps


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("grad_clip", [1.0, None])
def test_a_bad_step_changes_nothing_and_is_counted(
    groups: list[TrainingGroup], value: float, grad_clip: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    learner = build_learner(grad_clip=grad_clip)
    before = parameters(learner)
    with caplog.at_level(logging.WARNING):
        for count in (1, 2):
            found = update(learner, spoilt(groups, value))
            assert found["skipped_steps"] == count
            assert not np.isfinite(found[GRAD_NORM])
    assert all(torch.equal(p, before[name]) for name, p in parameters(learner).items())
    assert optimizer_steps(learner) == set()
    assert sum("skipped a step" in record.message for record in caplog.records) == 1
    good = update(learner, groups)
    assert good["skipped_steps"] == 2
    assert np.isfinite(good[GRAD_NORM])
    assert optimizer_steps(learner) == {1}
    assert not all(torch.equal(p, before[name]) for name, p in parameters(learner).items())


def test_many_in_a_row_end_the_run_and_a_resumed_one_goes_on_counting(groups: list[TrainingGroup]) -> None:
    options = {"max_bad_steps": 3}
    first = build_learner(**options)
    bad = spoilt(groups, float("nan"))
    update(first, bad)
    update(first, groups)
    update(first, bad)
    update(first, bad)
    learner = build_learner(**options)
    learner.set_state(first.get_state())
    with pytest.raises(TrainingError, match=r"finite loss and gradient, got none in 3 steps in a row; lower `lr`"):
        update(learner, bad)
    assert all(torch.isfinite(p).all() for p in parameters(learner).values())


def test_a_step_that_spoils_the_weights_ends_the_run(groups: list[TrainingGroup]) -> None:
    learner = build_learner(lr=1e-3)
    learner._set_lr = lambda: [group.update(lr=1e30) for group in learner.get_optimizer().param_groups] and 1e30
    with pytest.raises(TrainingError, match=r"expected finite weights, got others after a step; lower `lr`"):
        update(learner, groups)


def test_skipped_steps_count_in_the_schedule(groups: list[TrainingGroup]) -> None:
    schedule = {"num_iterations": 8, "warmup": 0.0, "cooldown": 1.0, "lr_end": 0.0}
    learner = build_learner(**schedule)
    rates = [update(learner, part)["lr"] for part in (groups, spoilt(groups, float("nan")), groups)]
    assert rates == pytest.approx([learner.config.settings.lr_at(step) for step in range(3)])
