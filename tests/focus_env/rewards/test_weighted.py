"""Weighted sums of terms: from text and from Python, and what is said about terms that break their contract."""

from __future__ import annotations

import math
import pickle
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_env.errors import FocusError, RewardError
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.terms import (
    PARAMETRIC_TERMS,
    REWARD_TERMS,
    IoUAt,
    LengthReward,
    Piecewise,
    Values,
    format_reward,
    iou_reward,
)
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box, ParseResult
from tests.focus_env.rewards.batches import HALF, TARGET
from tests.focus_env.rewards.parses import ABSENT, GARBAGE, batch, ok


@pytest.mark.parametrize(
    ("parse", "target", "total"),
    [
        pytest.param(GARBAGE, TARGET, 0.0, id="garbage scores the minimum"),
        pytest.param(GARBAGE, None, 0.0, id="garbage where the object is absent"),
        pytest.param(ABSENT, TARGET, 0.5, id="calls a present object absent"),
        pytest.param(ok(TARGET), None, 0.5, id="a box for an absent object"),
        pytest.param(ok(HALF, is_strict=False), TARGET, 0.5, id="a good box in bad format"),
        pytest.param(ok(HALF), TARGET, 1.0, id="a good box in good format"),
        pytest.param(ok(TARGET), TARGET, 1.5, id="gold scores the maximum"),
        pytest.param(ABSENT, None, 1.5, id="gold for an absent object"),
    ],
)
def test_the_default_is_iou_and_half_the_format(parse: ParseResult, target: Box | None, total: float) -> None:
    assert WeightedReward.default()(batch(parse, target=target))[0].tolist() == [total]


def test_the_breakdown_is_before_weighting() -> None:
    totals, values = WeightedReward.from_spec("iou:2, format:-0.25")(batch(ok(HALF), GARBAGE))
    assert totals.tolist() == [0.75, 0.0]
    assert {name: value.tolist() for name, value in values.items()} == {"iou": [0.5, 0.0], "format": [1.0, 0.0]}


def test_a_penalty_takes_its_weight_away() -> None:
    whole = ok(Box(0, 0, 80, 60))
    assert WeightedReward.from_spec("iou,whole_image:0.5")(batch(whole, ok(TARGET)))[0].tolist() == [-0.25, 1.0]


# ---- from text


@pytest.mark.parametrize(
    ("spec", "terms"),
    [
        ("iou:1,format:0.5", {"iou": (iou_reward, 1), "format": (format_reward, 0.5)}),
        ("iou", {"iou": (iou_reward, 1)}),
        ("  iou : 2 ,format ", {"iou": (iou_reward, 2), "format": (format_reward, 1)}),
        ("iou:-1e-3", {"iou": (iou_reward, -0.001)}),
        ("iou_at(0.5)", {"iou_at(0.5)": (IoUAt(0.5), 1)}),
        ("iou_at( .50 ) : 0.5", {"iou_at(0.5)": (IoUAt(0.5), 0.5)}),
        ("iou_at(0.5),iou_at(0.75):2", {"iou_at(0.5)": (IoUAt(0.5), 1), "iou_at(0.75)": (IoUAt(0.75), 2)}),
        ("piecewise(0.5,0.75):1,iou", {"piecewise(0.5, 0.75)": (Piecewise(0.5, 0.75), 1), "iou": (iou_reward, 1)}),
        ("length(40):0.1", {"length(40)": (LengthReward(40), 0.1)}),
        ("piecewise:0.3", {"piecewise": (REWARD_TERMS["piecewise"], 0.3)}),
        (
            "focus_env.rewards.terms:iou_reward:0.5,iou",
            {"focus_env.rewards.terms:iou_reward": (iou_reward, 0.5), "iou": (iou_reward, 1)},
        ),
        (
            "focus_env.rewards.terms:EARLY_STAGE",
            {"focus_env.rewards.terms:EARLY_STAGE": (Piecewise(0.5, 0.75), 1)},
        ),
    ],
)
def test_specs(spec: str, terms: dict[str, Any]) -> None:
    reward = WeightedReward.from_spec(spec)
    assert reward == WeightedReward(terms)
    assert list(reward.terms) == list(terms)
    assert WeightedReward.from_spec(reward.spec) == reward


def test_the_spec_of_the_default() -> None:
    assert WeightedReward.from_spec("iou:1,format:0.5") == WeightedReward.default()
    assert WeightedReward.default().spec == "iou:1,format:0.5"
    assert WeightedReward.from_spec("iou:1") != WeightedReward.default()


def test_mappings() -> None:
    weights = {"iou": 1, "iou_at(0.5)": 0.5, "format": "1e-1"}
    assert WeightedReward.from_mapping(weights) == WeightedReward.from_spec("iou,iou_at(0.5):0.5,format:0.1")
    for wrong in (True, None, "much", [1]):
        message = re.escape(f"the weight of 'iou' must be a number, as in 'iou:0.5', got {wrong!r}")
        with pytest.raises(ValueError, match=message):
            WeightedReward.from_mapping({"iou": wrong})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"the term 'iou_at\(0.5\)' appears twice"):
        WeightedReward.from_mapping({"iou_at(0.5)": 1, "iou_at(.5)": 1})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "reward '': expected terms such as 'iou', .* got ''"),
        ("iou:1,", "expected terms such as .* got ''"),
        (":1", "expected terms such as .* got ''"),
        ("iou:1:2", "expected terms such as .* got 'iou:1'"),
        ("iou_at(0.5:1,iou", r"expected terms such as .* got 'iou_at\(0.5'"),
        ("iou_at 0.5", "expected terms such as .* got 'iou_at 0.5'"),
        ("iou:", "the weight of 'iou' must be a number, as in 'iou:0.5', got ''"),
        ("iou:one", "the weight of 'iou' must be a number, as in 'iou:0.5', got 'one'"),
        ("iou_at(0.5):much", r"the weight of 'iou_at\(0.5\)' must be a number, .* got 'much'"),
        ("iou:nan", "weight of reward term 'iou' must be a finite number, got nan"),
        ("iou:1,format:inf", "weight of reward term 'format' must be a finite number, got inf"),
        ("iuo:1", "unknown term 'iuo', did you mean 'iou'"),
        ("IoU", "unknown term 'IoU', did you mean 'iou'"),
        ("iou-squared", "unknown term 'iou-squared', did you mean 'iou_squared'"),
        ("whole_picture:1", "unknown term 'whole_picture', did you mean 'whole_image'"),
        ("xyz", "unknown term 'xyz'; known are iou, .*"),
        ("my.rewards.centre", "unknown term 'my.rewards.centre'.* and your own as module:function"),
        ("iou:1,iou:2", "the term 'iou' appears twice; give it one weight"),
        ("iou_at(0.5),iou_at(.5):2", r"the term 'iou_at\(0.5\)' appears twice"),
        ("iou_at", r"'iou_at' needs numbers: iou_at\(threshold\)"),
        ("length:1", r"'length' needs numbers: length\(max_chars\)"),
        ("iou(0.5)", r"'iou' takes no numbers, got 'iou\(0.5\)'"),
        ("iou_at()", r"expected numbers as in iou_at\(threshold\), got 'iou_at\(\)'"),
        ("iou_at(0.5, 0.6)", r"expected numbers as in iou_at\(threshold\), got"),
        ("piecewise(0.5)", r"expected numbers as in piecewise\(low, high\), got"),
        ("iou_at(half)", r"expected numbers as in iou_at\(threshold\), got 'iou_at\(half\)'"),
        ("length(len('abc'))", "expected numbers as in length"),
        ("iou_at(2)", "iou_at: expected a threshold above 0 and up to 1, got 2.0"),
        ("whole_image:-0.5", "'whole_image' is a penalty with negative values, so a weight of -0.5 would reward"),
        (
            "no_such_module:term:1",
            "importing 'no_such_module' raised ModuleNotFoundError: .*on PYTHONPATH",
        ),
        ("focus_env.rewards.terms:iou_rewards", "has no 'iou_rewards'; did you mean 'iou_reward'"),
        (
            "focus_env.rewards.terms:IoUAt",
            "expected a function .*, or an instance of a class, got a class",
        ),
        ("focus_env.rewards.terms:CURRICULUM_SWITCH", "expected a function .*, got of type float"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedReward.from_spec(spec)


def test_an_unknown_term_is_told_all_that_are_known() -> None:
    with pytest.raises(ValueError, match="unknown term 'beauty'") as caught:
        WeightedReward.from_spec("iou:1,beauty:2")
    known = re.split(r"[\s,();]+", str(caught.value).split("known are ")[1])
    assert {*REWARD_TERMS, *PARAMETRIC_TERMS} <= set(known)


def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_rewards.py").write_text("import math\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"import path 'broken_rewards:mine': importing .* raised ZeroDivisionError"):
        WeightedReward.from_spec("broken_rewards:mine")


def test_a_term_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        import numpy as np

        def wide(answers):
            return np.nan_to_num(answers.boxes[:, 2] - answers.boxes[:, 0]) / 80
    """
    (tmp_path / "own_rewards.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    totals, values = WeightedReward.from_spec("iou,own_rewards:wide:2")(batch(ok(HALF), GARBAGE))
    assert totals.tolist() == [1.5, 0.0]
    assert values["own_rewards:wide"].tolist() == [0.5, 0.0]
    del sys.modules["own_rewards"]


def test_no_terms() -> None:
    with pytest.raises(ValueError, match="needs at least one term"):
        WeightedReward({})
    with pytest.raises(ValueError, match="needs at least one term"):
        WeightedReward.from_mapping({})


def test_it_keeps_its_own_terms_and_travels() -> None:
    terms = {"iou": (iou_reward, 1.0), "iou_at(0.5)": (IoUAt(0.5), 1.0)}
    reward = WeightedReward(terms)
    terms.clear()
    copy = pickle.loads(pickle.dumps(reward))
    assert copy == reward
    assert copy(batch(ok(TARGET)))[0].tolist() == [2.0]


# ---- terms that break their contract


def half_nan(answers: AnswerBatch) -> Values:
    return np.where(answers.has_box, 1.0, math.nan)


def too_few(answers: AnswerBatch) -> Values:
    return np.ones(len(answers) - 1)


def one_number(answers: AnswerBatch) -> Any:
    return 1.0


def nothing(answers: AnswerBatch) -> Any:
    return None


def fails_on_words(answers: AnswerBatch) -> Values:
    return np.array([float(text or 0) for text in answers.texts])


def fails_on_many(answers: AnswerBatch) -> Values:
    if len(answers) > 1:
        raise KeyError("one at a time")
    return np.ones(1)


def old_signature(parse: Any, target_box: Any, image_wh: Any) -> float:
    return 1.0


def writes(answers: AnswerBatch) -> Values:
    answers.boxes[:] = 0
    return np.ones(len(answers))


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (half_nan, "reward term 'mine' must give finite numbers, got nan, for episode 'fake/1', completion 'two'"),
        (too_few, "expected 3 numbers, shape [3], one for each answer, got shape [2], for episode 'fake/0', compl"),
        (one_number, "expected 3 numbers, shape [3], one for each answer, got shape []"),
        (nothing, "expected 3 numbers, shape [3], one for each answer, got shape []"),
        (fails_on_words, "raised ValueError: could not convert string to float: 'two' ("),
        (fails_on_words, "test_weighted.py, line "),
        (fails_on_words, "for episode 'fake/1', completion 'two'"),
        (fails_on_many, "raised KeyError: 'one at a time' ("),
        (fails_on_many, "for episode 'fake/0', completion '1'"),
        (old_signature, "raised TypeError: old_signature() missing 2 required positional arguments"),
        (writes, "read-only"),
    ],
)
def test_a_term_that_breaks_its_contract_is_named(term: Any, message: str) -> None:
    answers = batch(ok(TARGET), GARBAGE, ok(HALF), texts=["1", "two", "3"])
    with pytest.raises(RewardError) as caught:
        WeightedReward({"iou": (iou_reward, 1.0), "mine": (term, 1.0)})(answers)
    assert str(caught.value).startswith("reward term 'mine'")
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FocusError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_original_error_is_kept() -> None:
    with pytest.raises(RewardError) as caught:
        WeightedReward({"mine": (fails_on_many, 1.0)})(batch(GARBAGE, GARBAGE))
    assert isinstance(caught.value.__cause__, KeyError)


def test_long_completions_are_shortened_and_box_actions_shown() -> None:
    reward = WeightedReward({"mine": (half_nan, 1.0)})
    with pytest.raises(RewardError, match=r"completion 'aaa.*\.\.\..*aaa'$") as caught:
        reward(batch(GARBAGE, texts=["a" * 10_000]))
    assert len(str(caught.value)) < 400
    with pytest.raises(RewardError, match=r"box action \[nan, nan, nan, nan\]$"):
        reward(batch(GARBAGE))
