"""A side that computes something else is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.step import checks, sides, trl_side
from benchmarks.step.checks import check_same_answers, check_same_as_trl, check_same_learning, check_same_without_silent
from benchmarks.step.setup import Setup, Size
from benchmarks.step.sides import learn, sample
from focus_agents.engine import decoding, generation, scoring
from tests.benchmarks.faults import see_neighbours
from tests.benchmarks.small import SIZE

pytestmark = pytest.mark.usefixtures("one_thread")


def draw_second(right: Callable[..., Any], log_probabilities: torch.Tensor, *args: Any, greedy: bool) -> Any:
    return log_probabilities.topk(2).indices[..., 1] if greedy else right(log_probabilities, *args, greedy=greedy)


def draw_with_other_chances(
    right: Callable[..., Any], log_probabilities: torch.Tensor, *args: Any, greedy: bool
) -> Any:
    return right(log_probabilities if greedy else log_probabilities / 2, *args, greedy=greedy)


def scale_gradient(right: Callable[..., Any], *args: Any) -> Any:
    states = right(*args)
    return 1.01 * states - 0.01 * states.detach()


@pytest.mark.parametrize(
    ("check", "module", "name", "wrong", "message"),
    [
        ("answers", generation, "_draw", draw_second, "greedy answers"),
        ("answers", generation, "_draw", draw_with_other_chances, "sampled answers"),
        ("answers", decoding, "decoding_mask", see_neighbours, "answers"),
        ("learning", scoring, "answer_mask", see_neighbours, "log-probabilities: shared"),
        ("learning", scoring, "_one_row", scale_gradient, "gradients: shared"),
        ("learning", scoring, "_answers_over_cache", scale_gradient, "gradients: fused"),
    ],
)
def test_the_sides_must_agree(
    monkeypatch: pytest.MonkeyPatch, check: str, module: Any, name: str, wrong: Callable[..., Any], message: str
) -> None:
    setup = Setup.build(Size(128, 4, 8))
    run_check = {"answers": check_same_answers, "learning": check_same_learning}[check]
    run_check(setup)
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))
    with pytest.raises(AssertionError, match=message):
        run_check(setup)


def test_sampling_must_leave_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    right = sample

    def spoil(setup: Any, prompts: Any, *, prefix: Any) -> Any:
        with torch.no_grad():
            prefix.cache.layers[0].keys.data *= 1.01
        return right(setup, prompts, prefix=prefix)

    monkeypatch.setattr(checks, "sample", spoil)
    with pytest.raises(AssertionError, match="fused"):
        check_same_learning(Setup.build(SIZE))


def test_groups_without_signal_must_count(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup.build(SIZE, num_prompts=2)
    check_same_without_silent(setup)
    right = learn
    monkeypatch.setattr(checks, "learn", lambda *args, num_groups=None, **kwargs: right(*args, **kwargs))
    with pytest.raises(AssertionError, match="with and without groups"):
        check_same_without_silent(setup)


def other_loss(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    loss, sums = right(*args, **kwargs)
    return 1.001 * loss, sums


def other_advantages(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return right(*args, **kwargs, eps=1e-3)


def other_pictures(right: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    row = right(*args, **kwargs)
    return row | {"images": row["images"][::-1]}


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("policy_loss", other_loss, "gradients: ours and TRL's"),
        ("group_advantages", other_advantages, "advantages: ours and TRL's"),
        ("trl_row", other_pictures, "pixel_values: TRL has others"),
    ],
)
def test_trl_must_agree(monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Any], message: str) -> None:
    pytest.importorskip("trl")
    module = {"policy_loss": sides, "group_advantages": checks, "trl_row": trl_side}[name]
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))
    with pytest.raises(AssertionError, match=message):
        check_same_as_trl(Setup.build(SIZE))
