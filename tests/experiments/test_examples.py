"""The examples, a few steps each, in this process."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings

import pytest

from tests.places import load_experiment

needs_sb3 = pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None, reason="`pip install stable-baselines3` for its example"
)
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="`pip install trl` for its example")


def run_example(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[float]:
    """The mean rewards that an example prints, one for each line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        load_experiment(f"examples/{name}").main()
    lines = capsys.readouterr().out.splitlines()
    return [float(re.fullmatch(r" *[\d,]+(?: episodes)?  mean reward (\d\.\d{3})", line)[1]) for line in lines]


@needs_sb3
def test_stable_baselines3_trains(capsys: pytest.CaptureFixture[str]) -> None:
    rewards = run_example("ppo_sb3", ["--num-steps", "129", "--steps-per-update", "64", "--shots", "2"], capsys)
    assert len(rewards) == 3
    assert all(0 < reward < 1.5 for reward in rewards)


@needs_sb3
def test_stable_baselines3_has_nothing_to_say_about_the_environment() -> None:
    from stable_baselines3.common.env_checker import check_env

    ppo_sb3 = load_experiment("examples/ppo_sb3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(ppo_sb3.make_env(ppo_sb3.Args(shots=3)))


@pytest.mark.ray
def test_rllib_trains(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--num-iterations", "2", "--episodes-per-iteration", "64", "--shots", "2"]
    rewards = run_example("ppo_rllib", arguments, capsys)
    assert len(rewards) == 2
    assert all(0 < reward < 1.5 for reward in rewards)


@needs_trl
def test_trl_trains(capsys: pytest.CaptureFixture[str]) -> None:
    """The policy that it starts from answers in the format, mostly."""
    arguments = ["--num-steps", "1", "--groups-per-step", "2", "--group-size", "4", "--shots", "1", "--level", "1"]
    rewards = run_example("grpo_trl", arguments, capsys)
    assert len(rewards) == 1
    assert 0.5 < rewards[0] < 1.5
