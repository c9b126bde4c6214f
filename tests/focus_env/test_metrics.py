"""Metrics: small cases by hand, what counts in which mean, and intervals against theory."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from focus_env import intervals
from focus_env.intervals import (
    bootstrap_interval,
    grouped_bootstrap_interval,
    paired_bootstrap_interval,
    ratio_bootstrap_interval,
    seeds_bootstrap_interval,
)
from focus_env.metrics import ScoredAnswer, summarize, summarize_with_intervals
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.scores import score_answer
from focus_env.rewards.terms import iou_reward
from focus_env.types import Box, ParseResult, ParseStatus
from tests.fakes import make_episode

TARGET = Box(
    20, 10, 60, 40
)  # of the fake episode, in a query of 80 x 60; its support box 1 is (4, 6, 20, 22) in 40 x 32
GARBAGE = ParseResult(ParseStatus.NO_BOX, None, False)
ABSENT = ParseResult(ParseStatus.ABSENT, None, True)


def ok(box: Box, *, is_strict: bool = True) -> ParseResult:
    return ParseResult(ParseStatus.OK, box, is_strict)


@pytest.mark.parametrize(
    ("box", "is_whole", "is_copy"),
    [
        pytest.param(None, False, False, id="no box"),
        pytest.param(Box(4, 6, 20, 22), False, False, id="the support's pixels, in an image of another size"),
        pytest.param(Box(8, 11.25, 40, 41.25), False, True, id="the support's place, relative to the image"),
        pytest.param(Box(8, 11.25, 39, 41.25), False, True, id="nearly the support's place: IoU 0.969"),
        pytest.param(Box(8, 11.25, 38, 41.25), False, False, id="somewhat like the support: IoU 0.9375"),
        pytest.param(Box(6.667, 11.25, 33.333, 43.125), False, True, id="the second support's place"),
        pytest.param(Box(0, 0, 80, 60), True, False, id="whole image"),
        pytest.param(Box(0, 0, 80, 57), True, False, id="95 % of the image"),
        pytest.param(Box(0, 0, 80, 56), False, False, id="93 % of the image"),
        pytest.param(TARGET, False, False, id="gold"),
    ],
)
def test_shortcuts(box: Box | None, is_whole: bool, is_copy: bool) -> None:
    scored = score_answer(make_episode(), GARBAGE if box is None else ok(box))
    assert (scored.is_whole_image, scored.is_support_copy) == (is_whole, is_copy)


def test_score_answer_keeps_the_facts() -> None:
    scored = score_answer(make_episode(7), ok(Box(20, 10, 60, 25), is_strict=False))
    assert scored == ScoredAnswer(
        episode_id="fake/7",
        status=ParseStatus.OK,
        is_strict=False,
        box=Box(20, 10, 60, 25),
        target_box=TARGET,
        iou=0.5,
        is_whole_image=False,
        is_support_copy=False,
    )


@pytest.mark.parametrize("parse", [GARBAGE, ABSENT, ok(TARGET), ok(Box(0, 0, 40, 25))])
@pytest.mark.parametrize("target", [None, TARGET])
def test_credit_is_the_iou_reward(parse: ParseResult, target: Box | None) -> None:
    episode = make_episode(target_box=target)
    scored = score_answer(episode, parse)
    assert [scored.credit] == iou_reward(AnswerBatch.from_parses([episode], [parse])).tolist()
    assert scored.is_absent_target == (target is None)


def score(*answers: tuple[ParseResult, Box | None]) -> dict[str, float]:
    return summarize([score_answer(make_episode(target_box=target), parse) for parse, target in answers])


def test_summary_by_hand() -> None:
    summary = score(
        (GARBAGE, TARGET),  # 0, unreadable
        (ParseResult(ParseStatus.REVERSED, None, True), TARGET),  # 0, unreadable, strict
        (ABSENT, TARGET),  # 0, wrongly called absent
        (ok(TARGET), TARGET),  # 1
        (ok(Box(20, 10, 60, 25)), TARGET),  # 0.5
        (ok(Box(20, 10, 60, 32.5), is_strict=False), TARGET),  # 0.75
        (ok(Box(0, 0, 80, 60)), TARGET),  # 0.25, whole image
        (ABSENT, None),  # credit 1
        (ok(Box(8, 11.25, 40, 41.25)), None),  # credit 0, copy
        (GARBAGE, None),  # credit 0
    )
    expected = {
        "num_answers": 10,
        "miou_all": 3.5 / 10,
        "miou_parsed": 3.5 / 7,
        "miou_present": 2.5 / 7,
        "acc_50": 4 / 10,
        "acc_75": 3 / 10,
        "parse_rate": 7 / 10,
        "format_rate": 7 / 10,
        "whole_image_rate": 1 / 10,
        "copy_rate": 1 / 10,
        "absent_rate": 3 / 10,
        "absent_recall": 1 / 3,
        "absent_precision": 1 / 2,
        # TP: 3 boxes of 0.5 or more. FP: the whole image, and a box for an absent target. FN: 4 present targets.
        "f1_50": 6 / (6 + 2 + 4),
    }
    assert summary == pytest.approx(expected)
    assert all(type(value) is float for value in summary.values())


def test_intervals_are_over_what_each_mean_is_of() -> None:
    answers = [
        score_answer(make_episode(target_box=target), parse)
        for parse, target in [(ok(Box(20, 10, 60, 25)), TARGET)] * 9 + [(GARBAGE, TARGET)]
    ]
    found = summarize_with_intervals(answers)
    means = {name: value["mean"] for name, value in found.items()}
    assert means == {name: value for name, value in summarize(answers).items() if name != "num_answers"}
    # Of one miss in ten, a resample has none in 35% of cases, and up to three in 98.7%, up to two in 93.0%.
    assert found["parse_rate"]["interval"] == pytest.approx((0.7, 1.0))
    assert found["miou_all"]["interval"] == pytest.approx((0.35, 0.5))
    assert found["miou_parsed"]["interval"] == (0.5, 0.5)
    assert {"absent_precision", "absent_recall"}.isdisjoint(found)


def test_undefined_numbers_are_left_out() -> None:
    assert {"absent_rate", "absent_recall", "absent_precision"}.isdisjoint(score((ABSENT, TARGET)))
    assert "miou_parsed" not in score((GARBAGE, TARGET))
    only_absent = score((GARBAGE, None))
    assert "miou_present" not in only_absent
    assert {"absent_precision", "f1_50"}.isdisjoint(only_absent)
    assert only_absent["absent_recall"] == 0.0
    assert not any(math.isnan(value) for value in only_absent.values())


@pytest.mark.parametrize(
    ("parse", "target", "counts"),
    [
        pytest.param(ok(Box(20, 10, 60, 25)), TARGET, (1, 0, 0), id="an IoU of 0.5"),
        pytest.param(ok(Box(20, 10, 60, 24.9)), TARGET, (0, 1, 1), id="a box that misses counts twice"),
        pytest.param(ABSENT, TARGET, (0, 0, 1), id="a present target called absent"),
        pytest.param(GARBAGE, TARGET, (0, 0, 1), id="unreadable"),
        pytest.param(ok(TARGET), None, (0, 1, 0), id="a box for an absent target"),
        pytest.param(ABSENT, None, (0, 0, 0), id="an absent target called absent does not enter"),
        pytest.param(GARBAGE, None, (0, 0, 0), id="nor does an unreadable answer to one"),
    ],
)
def test_what_counts_in_the_joint_f1(parse: ParseResult, target: Box | None, counts: tuple[int, int, int]) -> None:
    assert score_answer(make_episode(target_box=target), parse).detection == counts


def test_the_joint_f1_needs_targets_of_both_kinds() -> None:
    assert "f1_50" not in score((ok(TARGET), TARGET), (ABSENT, TARGET))
    assert "f1_50" not in score((ABSENT, None), (ok(TARGET), None))
    assert score((ok(TARGET), TARGET), (ABSENT, None))["f1_50"] == 1.0
    assert score((GARBAGE, TARGET), (ABSENT, None))["f1_50"] == 0.0
    # Always a box, and always the right one, on half absent targets: precision 1/2, recall 1.
    assert score((ok(TARGET), TARGET), (ok(TARGET), None))["f1_50"] == pytest.approx(2 / 3)


def test_the_joint_f1_has_an_interval_over_episodes() -> None:
    kinds = [(ok(TARGET), TARGET), (ABSENT, TARGET), (ABSENT, None), (ok(TARGET), None)]
    answers = [score_answer(make_episode(target_box=target), parse) for parse, target in kinds * 50]
    found = summarize_with_intervals(answers)["f1_50"]
    assert found["mean"] == summarize(answers)["f1_50"] == pytest.approx(0.5)
    low, high = found["interval"]
    # By the delta method: the residuals 2 TP - F1 (2 TP + FP + FN) are 1, -1/2, 0, -1/2; the mean below is 1.
    half_width = 1.96 * math.sqrt((1 + 1 / 4 + 1 / 4) / 4 / len(answers))
    assert low == pytest.approx(0.5 - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(0.5 + half_width, abs=0.1 * half_width)


def test_a_ratio_of_ones_is_a_mean() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    assert ratio_bootstrap_interval(values, np.ones(60), seed=2) == pytest.approx(bootstrap_interval(values, seed=2))


def test_resamples_with_nothing_below_are_left_out() -> None:
    assert ratio_bootstrap_interval([1.0, 0.0], [1.0, 0.0]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("above", "below"), [([], []), ([1.0], [0.0]), ([1.0, 1.0], [2.0, -1.0]), ([math.nan], [1.0]), ([1.0], [math.inf])]
)
def test_ratios_that_are_none(above: list[float], below: list[float]) -> None:
    with pytest.raises(ValueError, match="above and below: expected two equally long lists of finite numbers, none"):
        ratio_bootstrap_interval(above, below)


def test_summary_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one answer, got none"):
        summarize([])


def test_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(0).exponential(size=400)
    low, high = bootstrap_interval(values)
    half_width = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.6745 / 1.96 * half_width, rel=0.1)


def test_interval_is_seeded_and_of_the_values_alone() -> None:
    values = [0.0, 1.0, 0.5, 0.25]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, num_resamples=99, seed=3) != bootstrap_interval(values, num_resamples=99, seed=4)
    assert bootstrap_interval([0.7]) == (0.7, 0.7)
    low, high = bootstrap_interval(values)
    assert 0.0 <= low < np.mean(values) < high <= 1.0


def test_chunks_draw_the_right_number_of_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = np.quantile
    monkeypatch.setattr(intervals, "_CHUNK_VALUES", 70)
    monkeypatch.setattr(np, "quantile", lambda means, q: (seen.append(len(means)), original(means, q))[1])
    values = np.arange(10) / 10
    assert bootstrap_interval(values, num_resamples=1000) == pytest.approx((0.28, 0.63), abs=0.05)
    bootstrap_interval(np.arange(100), num_resamples=3)  # one resample is more than a chunk
    assert seen == [1000, 3]


def test_pairs_cancel_what_the_episodes_share() -> None:
    difficulty = np.random.default_rng(0).uniform(size=100)
    assert paired_bootstrap_interval(difficulty, difficulty + 0.1) == pytest.approx((0.1, 0.1))
    low, high = paired_bootstrap_interval(difficulty + 0.1, difficulty)
    assert (low, high) == pytest.approx((-0.1, -0.1))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "non-empty list of finite numbers, got shape \\[0\\]"),
        ([[1.0]], {}, "got shape \\[1, 1\\]"),
        ([1.0, math.nan, math.inf], {}, "2 not finite"),
        ([1.0], {"confidence": 95}, "inside \\(0, 1\\), such as 0.95, got 95"),
        ([1.0], {"confidence": 0.0}, "inside \\(0, 1\\)"),
        ([1.0], {"num_resamples": 0}, "num_resamples must be at least 1, got 0"),
    ],
)
def test_bad_arguments(values: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)  # type: ignore[arg-type]


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match=r"same episodes, got \[2\] and \[1\] values"):
        paired_bootstrap_interval([1.0, 2.0], [1.0])


def test_trainings_and_episodes_are_both_drawn_anew() -> None:
    assert seeds_bootstrap_interval(np.full((3, 5), 0.25)) == (0.25, 0.25)
    # Runs alone differ: a resample of three is the lowest run three times in 1 of 27, more than 2.5 %.
    runs = np.repeat([[0.0], [0.3], [0.6]], 40, axis=1)
    assert seeds_bootstrap_interval(runs) == pytest.approx((0.0, 0.6))
    assert seeds_bootstrap_interval(runs, confidence=0.5) == pytest.approx((0.2, 0.4))
    # Episodes alone differ: it is the interval over episodes, with one run as with several equal ones.
    episodes = np.random.default_rng(0).exponential(size=200)
    deviation = episodes.std() / math.sqrt(len(episodes))
    for num_runs in (1, 4):
        interval = seeds_bootstrap_interval(np.tile(episodes, (num_runs, 1)), seed=1)
        # The ends of an interval of 10,000 resamples have a standard error of 0.027 deviations of the mean.
        assert interval == pytest.approx(bootstrap_interval(episodes), abs=0.15 * deviation)


def test_interval_over_trainings_agrees_with_the_normal_approximation() -> None:
    """The variance of the mean is that of the runs over R plus that of the episodes over N."""
    rng = np.random.default_rng(0)
    runs, episodes = rng.normal(size=(40, 1)), 3 * rng.normal(size=(1, 300))
    low, high = seeds_bootstrap_interval(runs + episodes)
    half_width = 1.96 * math.sqrt(runs.var() / 40 + episodes.var() / 300)
    assert low == pytest.approx((runs + episodes).mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx((runs + episodes).mean() + half_width, abs=0.1 * half_width)
    narrow = bootstrap_interval((runs + episodes).mean(0))
    assert high - low > 1.2 * (narrow[1] - narrow[0])
    assert seeds_bootstrap_interval(runs + episodes) == (low, high)
    assert seeds_bootstrap_interval(runs + episodes, seed=1) != (low, high)


@pytest.mark.parametrize(
    ("values", "shape"),
    [([1.0, 2.0], [2]), ([[[1.0]]], [1, 1, 1]), ([[]], [1, 0]), ([[1.0, math.nan]], [1, 2]), ([[math.inf]], [1, 1])],
)
def test_trainings_that_are_no_table_of_numbers(values: list[object], shape: list[int]) -> None:
    message = re.escape(f"finite numbers [trainings, episodes], got shape {shape}")
    with pytest.raises(ValueError, match=message):
        seeds_bootstrap_interval(values)  # type: ignore[arg-type]


class TestGroupedBootstrap:
    def test_groups_are_drawn_whole(self) -> None:
        """Two groups: half of the resamples have both, a quarter each of them alone."""
        low, high = grouped_bootstrap_interval([0.0] * 9 + [1.0], ["a"] * 9 + ["b"])
        assert (low, high) == (0.0, 1.0)
        low, high = grouped_bootstrap_interval([0.0] * 9 + [1.0], ["a"] * 9 + ["b"], confidence=0.4)
        assert low < 0.11
        assert high == pytest.approx(0.1)

    def test_groups_of_one_are_episodes(self) -> None:
        values = np.random.default_rng(1).normal(size=60)
        grouped = grouped_bootstrap_interval(values, list(range(60)))
        assert grouped == pytest.approx(bootstrap_interval(values), abs=0.02)

    def test_like_values_in_a_group_widen_it(self) -> None:
        values = np.repeat(np.random.default_rng(2).normal(size=8), 10)
        groups = np.repeat(np.arange(8), 10).tolist()
        wide, narrow = grouped_bootstrap_interval(values, groups), bootstrap_interval(values)
        assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])

    def test_one_group_says_nothing_of_others(self) -> None:
        values = [0.1, 0.4, 0.2]
        assert grouped_bootstrap_interval(values, ["a"] * 3) == bootstrap_interval(values)

    @pytest.mark.parametrize(
        ("values", "groups", "message"),
        [
            ([0.1, 0.2], ["a"], r"groups: expected one for each value, got 1 for \[2\] values"),
            ([], [], "non-empty list of finite numbers"),
            ([0.1, float("nan")], ["a", "b"], "1 not finite"),
        ],
    )
    def test_what_is_refused(self, values: list[float], groups: list[str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            grouped_bootstrap_interval(values, groups)
