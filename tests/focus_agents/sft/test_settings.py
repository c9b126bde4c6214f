"""Settings of stage 1: what is refused, and the learning rate."""

from __future__ import annotations

from typing import Any

import pytest

from focus_agents.sft.settings import SFTConfig


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps: expected 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"batch_size": -4}, "batch_size: expected 1 or more, got -4"),
        ({"micro_batch_size": 0}, "micro_batch_size: expected 1 or more, got 0"),
        ({"lora_rank": 0}, "lora_rank: expected 1 or more, got 0"),
        ({"max_bad_steps": 0}, "max_bad_steps: expected 1 or more, got 0"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"lr": 0.0}, r"lr: expected more than 0, got 0\.0"),
        ({"lr": -1e-3}, r"lr: expected more than 0, got -0\.001"),
        ({"lr": float("nan")}, "lr: expected more than 0, got nan"),
        ({"lr": float("inf")}, "lr: expected more than 0, and finite, got inf"),
        ({"grad_clip": 0.0}, r"grad_clip: expected more than 0, got 0\.0"),
        ({"margin": 0.0}, r"margin: expected more than 0, got 0\.0"),
        ({"beta": -0.1}, r"beta: expected 0 or more, got -0\.1"),
        ({"beta": float("nan")}, "beta: expected 0 or more, got nan"),
        ({"lr_end": 1.5}, r"lr_end: expected a share of the peak from 0 to 1, got 1\.5"),
        ({"labels": "none"}, "labels: expected one of answer, full, got 'none'"),
        ({"attention_target": "box"}, "attention_target: expected one of coords, span, last, region, both, got 'box'"),
        ({"margin_unit": "px"}, "margin_unit: expected one of reachable, absolute, got 'px'"),
        ({"precision": "fp8"}, "precision: expected one of fp32, bf16, got 'fp8'"),
        (
            {"warmup": -0.1},
            r"warmup, cooldown: expected shares of the steps that add up to at most 1, got -0\.1 and 0\.4",
        ),
        ({"cooldown": -0.1}, r"warmup, cooldown: expected shares .* got 0\.1 and -0\.1"),
        ({"warmup": 0.5, "cooldown": 0.6}, r"warmup, cooldown: expected shares .* got 0\.5 and 0\.6"),
        ({"warmup": 1.1, "cooldown": 0.0}, r"warmup, cooldown: expected shares .* got 1\.1 and 0\.0"),
        ({"warmup": float("nan")}, "warmup, cooldown: expected shares .* got nan"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SFTConfig(**arguments)


class TestLearningRate:
    """A linear rise over the warm-up, a plateau, a linear fall to a tenth over the cool-down."""

    @pytest.mark.parametrize(
        ("num_steps", "warmup", "cooldown", "step", "factor"),
        [
            (1, 0.0, 0.0, 0, 1.0),
            (1, 1.0, 0.0, 0, 1.0),
            (10, 1.0, 0.0, 0, 0.1),  # nothing but a rise
            (10, 1.0, 0.0, 9, 1.0),
            (10, 0.0, 0.0, 0, 1.0),  # nothing but the plateau
            (10, 0.0, 0.0, 9, 1.0),
            (10, 0.0, 1.0, 5, 0.55),  # nothing but a fall
            (10, 0.0, 1.0, 9, 0.19),
            (100, 0.2, 0.2, 0, 1 / 20),
            (100, 0.2, 0.2, 9, 0.5),
            (100, 0.2, 0.2, 19, 1.0),
            (100, 0.2, 0.2, 20, 1.0),
            (100, 0.2, 0.2, 79, 1.0),
            (100, 0.2, 0.2, 90, 0.55),
            (100, 0.2, 0.2, 99, 0.1 + 0.9 / 20),
        ],
    )
    def test_by_hand(self, num_steps: int, warmup: float, cooldown: float, step: int, factor: float) -> None:
        config = SFTConfig(num_steps=num_steps, lr=1.0, warmup=warmup, cooldown=cooldown, lr_end=0.1)
        assert config.lr_at(step) == pytest.approx(factor)

    def test_the_end_is_a_choice(self) -> None:
        config = SFTConfig(num_steps=10, lr=1.0, warmup=0.0, cooldown=1.0, lr_end=0.0)
        assert [config.lr_at(step) for step in (0, 5, 9)] == pytest.approx([1.0, 0.5, 0.1])

    @pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 100])
    @pytest.mark.parametrize(("warmup", "cooldown"), [(0.0, 0.0), (0.05, 0.2), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
    def test_shape(self, num_steps: int, warmup: float, cooldown: float) -> None:
        config = SFTConfig(num_steps=num_steps, lr=1.0, warmup=warmup, cooldown=cooldown, lr_end=0.1)
        factors = [config.lr_at(step) for step in range(num_steps)]
        peak = factors.index(max(factors))
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)
        assert max(factors) == 1.0
        assert min(factors[peak:]) >= 0.1
