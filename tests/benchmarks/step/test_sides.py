"""What our steps compute, and what they leave out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.measuring import count_flops
from benchmarks.step.checks import random_answers
from benchmarks.step.setup import Setup, Size
from benchmarks.step.sides import learn, sample, take_step
from focus_agents.engine.forward import prefill

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_a_step_leaves_out_costs_nothing() -> None:
    """FLOPs of fused steps and of steps without silent groups, from those of their parts."""
    # Answers that are long enough for rewards to differ, unless they are made the same.
    setup = Setup.build(Size(128, 4, 16), num_prompts=2)
    encoded = setup.encode()
    prompts, first = setup.collate(encoded), setup.collate(encoded[:1])
    token_ids, advantages = random_answers(setup)

    def count(step: Callable[[], object]) -> float:
        flops = count_flops(step)
        setup.optimizer.zero_grad()
        return flops

    with torch.no_grad():
        encoding = count(lambda: prefill(setup.model, prompts))
    sampling = count(lambda: sample(setup, prompts))
    learning = count(lambda: learn(setup, first, token_ids[:1], advantages[:1]))
    whole = count(lambda: take_step(setup))
    assert count(lambda: take_step(setup, num_silent=1)) == whole == sampling + 2 * learning
    assert count(lambda: take_step(setup, num_silent=1, skips_silent=True)) == sampling + learning
    assert count(lambda: take_step(setup, is_fused=True)) == whole - encoding
