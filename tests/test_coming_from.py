"""docs/coming_from.md: the names in its tables are those of the libraries, with their defaults, and ours."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re

import pytest

from focus_agents.cli.grpo import Args
from focus_agents.grpo.settings import GRPOSettings
from tests.pages import run_tyro
from tests.places import ROOT

PAGE = (ROOT / "docs/coming_from.md").read_text(encoding="utf-8")
OURS = {field.name: field.default for field in dataclasses.fields(GRPOSettings)}


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    part = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")][2:]


def defaults(cell: str) -> dict[str, object]:
    """The `name=value` of a cell, whose values are Python's."""
    return {name: ast.literal_eval(value) for name, value in re.findall(r"`(\w+)=([^`]+)`", cell)}


def names(cell: str) -> set[str]:
    """The names alone in a cell's backticks."""
    return set(re.findall(r"`([a-z_]+)`", cell))


def test_cells_are_read() -> None:
    assert defaults('`a=0.5`, `b="c"`, `d`') == {"a": 0.5, "b": "c"}
    assert names('`a=0.5`, `b="c"`, `d`') == {"d"}


def test_names_and_defaults_of_trl_are_its_own() -> None:
    trl = pytest.importorskip("trl")
    known = {field.name: field.default for field in dataclasses.fields(trl.GRPOConfig)}
    shown = {name: value for row in rows("TRL") for name, value in defaults(row[0]).items()}
    changed = {"importance_sampling_level", "reward_weights"}  # shown with what is asked for
    assert len(shown) > 10
    assert {name: known[name] for name in shown if name not in changed} == {
        name: value for name, value in shown.items() if name not in changed
    }
    assert changed | {name for row in rows("TRL") for name in names(row[0])} <= known.keys()


def test_our_names_and_defaults_are_ours() -> None:
    shown = {name: value for row in rows("TRL") for name, value in defaults(row[1]).items()}
    asked_for = {"reward", "loss"}  # gspo stands in a row of its own
    assert len(shown) > 10
    assert {name: OURS[name] for name in shown if name not in asked_for} == {
        name: value for name, value in shown.items() if name not in asked_for
    }
    told = {name for title in ("RLlib", "Stable-Baselines3") for row in rows(title) for name in names(row[1])}
    assert {name for name in told if "_" in name or name == "lr"} <= OURS.keys()


def test_names_of_rllib_are_its_own() -> None:
    from ray.rllib.algorithms.ppo import PPOConfig

    shown = {name for row in rows("RLlib") for name in names(row[0])}
    assert len(shown) > 5
    assert [name for name in shown if not hasattr(PPOConfig(), name)] == []


def test_names_of_stable_baselines_are_its_own() -> None:
    ppo = pytest.importorskip("stable_baselines3").PPO
    shown = {name for row in rows("Stable-Baselines3") for name in names(row[0])}
    assert len(shown) > 5
    assert shown <= inspect.signature(ppo.__init__).parameters.keys()


def test_flags_are_those_of_the_command() -> None:
    _, help_text = run_tyro(Args, ["--help"])
    known = set(re.findall(r"--[a-z][a-z0-9-]*", help_text))
    shown = {flag for title in ("VLM-R1", "TRL", "Stable-Baselines3") for row in rows(title)
             for cell in row[1:] for flag in re.findall(r"--[a-z][a-z0-9-]*", cell)}  # fmt: skip
    assert len(shown) > 12
    assert shown <= known
