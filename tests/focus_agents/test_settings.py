"""Settings records: what they refuse, in which words, and that a name, a default and a range stand in one place."""

from __future__ import annotations

import ast
import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from focus_agents.settings import Settings, as_dict, deferred_checks, join, names_of
from tests.places import ROOT


@dataclass(frozen=True, kw_only=True)
class Counts(Settings):
    """Numbers of many kinds."""

    least: Annotated[int, Ge(2)] = 2
    optional: Annotated[int, Ge(1)] | None = None
    switch: Annotated[int, Ge(0), Le(1)] = 0
    free: int = -3


@dataclass(frozen=True, kw_only=True)
class Rates(Settings):
    """More of them."""

    rate: Annotated[float, Gt(0)] = 1.0
    share: Annotated[float, Ge(0), Le(1)] = 0.5
    ratio: Annotated[float, Gt(0), Le(1)] = 1.0
    mode: Literal["a", "b"] = "a"
    is_on: bool = False
    name: str = "x"

    def check(self) -> None:
        super().check()
        if self.is_on and self.mode == "b":
            raise ValueError("is_on: expected False with mode b")


@dataclass(frozen=True, kw_only=True)
class Both(Counts, Rates):
    """All of them."""


@dataclass(frozen=True, kw_only=True)
class Nested(Settings):
    """A record with a group."""

    counts: Counts = Counts()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"least": 1}, "least: expected 2 or more, got 1"),
        ({"least": 2.5}, r"least: expected 2 or more, got 2\.5"),
        ({"least": True}, "least: expected 2 or more, got True"),
        ({"least": "3"}, "least: expected 2 or more, got '3'"),
        ({"least": None}, "least: expected 2 or more, got None"),
        ({"optional": 0}, "optional: expected 1 or more, got 0"),
        ({"switch": 2}, "switch: expected 0 or 1, got 2"),
        ({"free": 0.5}, r"free: expected a whole number, got 0\.5"),
        ({"rate": 0}, "rate: expected more than 0, got 0"),
        ({"rate": math.nan}, "rate: expected more than 0, got nan"),
        ({"rate": math.inf}, "rate: expected more than 0, and finite, got inf"),
        ({"rate": [[0, 1e-3]]}, r"rate: expected more than 0, got \[\[0, 0\.001\]\]"),
        ({"share": 1.5}, r"share: expected a number from 0 to 1, got 1\.5"),
        ({"ratio": 0.0}, r"ratio: expected more than 0 and at most 1, got 0\.0"),
        ({"mode": "c"}, "mode: expected one of a, b, got 'c'"),
        ({"mode": True}, "mode: expected one of a, b, got True"),
        ({"is_on": 1}, "is_on: expected True or False, got 1"),
        ({"is_on": True, "mode": "b"}, "is_on: expected False with mode b"),
    ],
)
def test_what_is_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Both(**changes)


@pytest.mark.parametrize(
    "changes", [{}, {"optional": 7}, {"switch": 1}, {"rate": 1}, {"share": 0}, {"share": 1.0}, {"free": 10**9}]
)
def test_what_is_in_range_is_kept(changes: dict[str, Any]) -> None:
    assert as_dict(Both(**changes)) == as_dict(Both()) | changes


@dataclass(frozen=True)
class Unknown(Settings):
    """A bound of another kind."""

    value: Annotated[int, Lt(3)] = 1


def test_a_bound_that_is_not_understood_is_a_mistake_of_the_record() -> None:
    with pytest.raises(TypeError, match="bound: expected Ge, Gt or Le"):
        Unknown()


def test_parts_join_into_one_record() -> None:
    both = join(Both, Counts(least=5), Rates(mode="b"))
    assert both == Both(least=5, mode="b")
    assert names_of(Both) == names_of(Counts) | names_of(Rates)


def test_a_check_can_wait_until_all_parts_are_made() -> None:
    with deferred_checks():
        nested = Nested(counts=Counts(least=0))
    with pytest.raises(ValueError, match="least: expected 2 or more, got 0"):
        nested.check()
    with pytest.raises(ValueError, match="least: expected 2"):
        Counts(least=0)


def stages() -> list[type[Settings]]:
    from focus_agents.grpo.settings import GRPOSchedule, GRPOSettings
    from focus_agents.models.settings import ModelSettings
    from focus_agents.pretraining.settings import PretrainingConfig
    from focus_agents.sft.settings import SFTConfig, SFTSchedule

    return [GRPOSettings, GRPOSchedule, SFTConfig, SFTSchedule, PretrainingConfig, ModelSettings]


def test_every_setting_says_what_it_is() -> None:
    """A docstring below each field, which is what `--help` shows."""
    for record in stages():
        for cls in (c for c in record.__mro__ if dataclasses.is_dataclass(c)):
            source = (ROOT / (cls.__module__.replace(".", "/") + ".py")).read_text()
            (node,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
            for position, field in enumerate(node.body):
                if isinstance(field, ast.AnnAssign):
                    following = node.body[position + 1] if position + 1 < len(node.body) else None
                    assert isinstance(following, ast.Expr), (cls.__name__, ast.unparse(field.target))


def test_python_and_the_command_line_have_the_same_defaults() -> None:
    from focus_agents.cli import grpo, pretrain, sft
    from focus_agents.cli.command_line import parse
    from focus_agents.grpo.algorithm import GRPOConfig
    from focus_agents.grpo.settings import GRPOSchedule, GRPOSettings
    from focus_agents.models.settings import ModelSettings
    from focus_agents.pretraining.settings import PretrainingConfig
    from focus_agents.sft.settings import SFTConfig, SFTSchedule

    plan = parse(grpo.Args, None, words=[]).plan(reward="iou", seed=0)
    assert plan.settings == GRPOSettings() == GRPOConfig().settings == plan.config().settings
    assert (plan.schedule, plan.model) == (GRPOSchedule(), ModelSettings())
    assert GRPOConfig().model_settings == ModelSettings()
    arguments = sft.parse_arguments([])
    assert (arguments.config, arguments.validation) == (SFTConfig(), SFTSchedule())
    assert parse(pretrain.Args, None, words=[]).learning == PretrainingConfig()
