"""Reward terms and their sum: gold scores the most, garbage the least."""

from __future__ import annotations

import math
import pickle

import pytest

from focus_env.rewards import REWARD_TERMS, WeightedReward, format_reward, iou_reward
from focus_env.types import Box, ParseResult, ParseStatus

TARGET = Box(10, 10, 30, 30)
WH = (80, 60)


def ok(box: Box, *, is_strict: bool = True) -> ParseResult:
    return ParseResult(ParseStatus.OK, box, is_strict)


ABSENT = ParseResult(ParseStatus.ABSENT, None, True)
GARBAGE = ParseResult(ParseStatus.NO_BOX, None, False)


@pytest.mark.parametrize(
    ("parse", "target", "expected"),
    [
        pytest.param(GARBAGE, TARGET, 0.0, id="no box"),
        pytest.param(GARBAGE, None, 0.0, id="no box where the object is absent"),
        pytest.param(ABSENT, TARGET, 0.0, id="calls a present object absent"),
        pytest.param(ok(TARGET), None, 0.0, id="a box for an absent object"),
        pytest.param(ok(Box(30, 10, 50, 30)), TARGET, 0.0, id="beside it"),
        pytest.param(ok(Box(10, 10, 30, 20)), TARGET, 0.5, id="half of it"),
        pytest.param(ok(TARGET), TARGET, 1.0, id="gold"),
        pytest.param(ABSENT, None, 1.0, id="gold where the object is absent"),
    ],
)
def test_iou_reward(parse: ParseResult, target: Box | None, expected: float) -> None:
    assert iou_reward(parse, target, WH) == expected


def test_format_reward_looks_at_syntax_alone() -> None:
    assert format_reward(ParseResult(ParseStatus.REVERSED, None, True), TARGET, WH) == 1.0
    assert format_reward(ok(TARGET, is_strict=False), TARGET, WH) == 0.0


@pytest.mark.parametrize(
    ("parse", "target", "total"),
    [
        pytest.param(GARBAGE, TARGET, 0.0, id="garbage scores the minimum"),
        pytest.param(ok(Box(10, 10, 30, 20), is_strict=False), TARGET, 0.5, id="a good box in bad format"),
        pytest.param(ok(Box(10, 10, 30, 20)), TARGET, 1.0, id="a good box in good format"),
        pytest.param(ok(TARGET), TARGET, 1.5, id="gold scores the maximum"),
        pytest.param(ABSENT, None, 1.5, id="gold for an absent object"),
    ],
)
def test_the_default_is_iou_and_half_the_format(parse: ParseResult, target: Box | None, total: float) -> None:
    assert WeightedReward.default()(parse, target, WH)[0] == total


def test_the_breakdown_is_before_weighting() -> None:
    total, values = WeightedReward.from_spec("iou:2, format:-0.25")(ok(Box(10, 10, 30, 20)), TARGET, WH)
    assert total == 0.75
    assert values == {"iou": 0.5, "format": 1.0}


def test_the_spec_of_the_default() -> None:
    assert WeightedReward.from_spec("iou:1,format:0.5") == WeightedReward.default()
    assert WeightedReward.from_spec("iou:1") != WeightedReward.default()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "expected name:weight pairs such as .* got ''"),
        ("iou", "expected name:weight pairs such as .* got 'iou'"),
        ("iou:", "expected name:weight pairs such as .* got 'iou:'"),
        ("iou:one", "expected name:weight pairs such as .* got 'iou:one'"),
        ("iou:1,", "expected name:weight pairs such as .* got ''"),
        ("iuo:1", "unknown term 'iuo'; known are iou, format"),
        ("iou:1,iou:2", "the term 'iou' stands twice"),
        ("iou:nan", "weight of reward term 'iou' must be a finite number, got nan"),
        ("iou:1,format:inf", "weight of reward term 'format' must be a finite number, got inf"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedReward.from_spec(spec)


def test_no_terms() -> None:
    with pytest.raises(ValueError, match="needs at least one term"):
        WeightedReward({})


def nan_reward(parse: ParseResult, target_box: Box | None, image_wh: tuple[int, int]) -> float:
    return math.nan


def test_a_term_that_gives_nan_is_named() -> None:
    with pytest.raises(ValueError, match="reward term 'mine' must give a finite number, got nan"):
        WeightedReward({"mine": (nan_reward, 1.0)})(GARBAGE, TARGET, WH)


def test_it_keeps_its_own_terms_and_travels() -> None:
    terms = {"iou": (iou_reward, 1.0)}
    reward = WeightedReward(terms)
    terms.clear()
    copy = pickle.loads(pickle.dumps(reward))
    assert copy == reward
    assert copy(ok(TARGET), TARGET, WH) == (1.0, {"iou": 1.0})


def test_registry() -> None:
    assert dict(REWARD_TERMS) == {"iou": iou_reward, "format": format_reward}
