"""Each reward term: gold scores the most, garbage the least, and the branches between by hand."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus_env.overlap import ciou, diou, giou
from focus_env.parsing import write_answer
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.terms import (
    PARAMETRIC_TERMS,
    REWARD_TERMS,
    IoUAt,
    LengthReward,
    Piecewise,
    RewardTerm,
    RewardTermEntry,
    copy_penalty,
    format_reward,
    format_soft_reward,
    iou_reward,
    iou_squared_reward,
    l1_reward,
    piecewise_reward,
    present_reward,
    terms_help,
    whole_image_penalty,
)
from focus_env.rewards.terms import TERMS as REGISTRY
from focus_env.types import Box, Episode, ParseResult, ParseStatus
from tests.fakes import make_episode
from tests.focus_env.rewards.batches import HALF, TARGET, TEMPLATE, WH, batch, boxed
from tests.places import ROOT

PAGE = (ROOT / "docs/rewards.md").read_text(encoding="utf-8")

SUPPORT_PLACE = Box(8.0, 11.25, 40.0, 41.25)
"""Where the fake episode's first support box lies in its picture, in pixels of the query."""
WHOLE = Box(0.0, 0.0, 80.0, 60.0)

GARBAGE = "I do not know what you mean. " * 10
"""Nothing to read, and longer than any answer."""

ARGUMENTS = {"iou_at": (0.5,), "piecewise": (0.5, 0.75), "length": (40,), "random": (7,)}
"""One set of numbers for each term that takes some."""
TERMS: dict[str, RewardTerm] = {
    **REWARD_TERMS,
    **{f"{name}{numbers}": PARAMETRIC_TERMS[name](*numbers) for name, numbers in ARGUMENTS.items()},
}
RANGES = {"giou": (-1, 1), "diou": (-1, 1), "ciou": (-1.5, 1), "whole_image": (-1, 0), "copy": (-1, 0)}
"""Of the others: (0, 1)."""
PENALTIES = {"whole_image", "copy"}
CONTROLS = {"area", "random(7,)"}
"""Terms that do not pay for right answers."""


def say(box: Box | None) -> str:
    """The right text for a box, or for none."""
    return write_answer(box, frame=TEMPLATE.frame, image_wh=WH)


def limits(name: str) -> tuple[float, float]:
    return RANGES.get(name.split("(")[0], (0, 1))


def test_every_term_is_tested() -> None:
    assert ARGUMENTS.keys() == PARAMETRIC_TERMS.keys()
    assert {name for name in TERMS if limits(name)[1] <= 0} == PENALTIES
    assert {name for name, entry in REGISTRY.built_in.items() if entry.is_penalty} == PENALTIES
    assert {name for name in TERMS if REGISTRY.built_in[name.split("(")[0]].is_control} == CONTROLS


@pytest.mark.parametrize("entry", REGISTRY.built_in.values(), ids=REGISTRY.built_in)
def test_each_entry_says_what_its_term_is(entry: RewardTermEntry) -> None:
    assert (entry.least, entry.most) == limits(entry.name)
    assert entry.function is REWARD_TERMS.get(entry.name)
    assert entry.factory is PARAMETRIC_TERMS.get(entry.name)
    assert entry.help
    least, most = limits(entry.name)
    assert f"- {entry.usage}: {entry.help}; {least:g} to {most:g}" in terms_help().splitlines()


def test_an_entry_without_a_term_is_refused() -> None:
    with pytest.raises(ValueError, match="reward term 'mine': expected a function, a factory or both, got neither"):
        RewardTermEntry(name="mine", help="nothing")


@pytest.mark.parametrize("target", [TARGET, None], ids=["present", "absent"])
@pytest.mark.parametrize("name", sorted(TERMS.keys() - CONTROLS))
def test_gold_scores_the_maximum_and_garbage_the_minimum(name: str, target: Box | None) -> None:
    least, most = limits(name)
    gold = boxed(TARGET) if target else batch(say(None), target=None)
    assert TERMS[name](gold).tolist() == [most]
    assert TERMS[name](batch(say(target), target=target)).tolist() == [pytest.approx(most, abs=0.02)]
    worst = {"whole_image": boxed(WHOLE, target=target), "copy": boxed(SUPPORT_PLACE, target=target)}
    assert TERMS[name](worst.get(name, batch(GARBAGE, target=target))).tolist() == [least]


@pytest.mark.parametrize("name", sorted(set(TERMS) - {"format", "format_soft", "length(40,)"} - PENALTIES - CONTROLS))
def test_what_is_wrong_about_presence_scores_the_minimum(name: str) -> None:
    assert TERMS[name](batch(say(None))).tolist() == [limits(name)[0]]
    assert TERMS[name](boxed(TARGET, target=None)).tolist() == [limits(name)[0]]


@st.composite
def answers(draw: st.DrawFn) -> AnswerBatch:
    """One to four answers of every kind, to episodes with and without the object, with queries of several sizes."""
    shares = st.floats(0, 1, width=32)

    def box(image_wh: tuple[int, int]) -> Box:
        (x1, x2), (y1, y2) = (sorted((draw(shares), draw(shares))) for _ in range(2))
        return Box(x1 * image_wh[0], y1 * image_wh[1], x2 * image_wh[0], y2 * image_wh[1])

    texts, parses, episodes = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        kind, image_wh = draw(st.sampled_from(["box", "text", "action", "absent"])), draw(st.sampled_from(SIZES))
        text = draw(st.text(max_size=50)) if kind == "text" else say(None)
        if kind in ("box", "action"):
            x1, y1, x2, y2 = box(image_wh)
            has_area = x1 < x2 and y1 < y2
            parses.append(ParseResult(ParseStatus.OK, Box(x1, y1, x2, y2), True) if has_area else NO_BOX)
            text = "[1, 2, 3, 4]"
        else:
            parses.append(TEMPLATE.parse(text, image_wh))
        texts.append(None if kind == "action" else text)
        episodes.append(draw_episode(draw, box(image_wh), image_wh))
    return AnswerBatch.from_parses(episodes, parses, texts, progress=draw(shares))


NO_BOX = ParseResult(ParseStatus.DEGENERATE, None, True)


SIZES = (WH, (60, 80), (200, 50))


def draw_episode(draw: st.DrawFn, target: Box, image_wh: tuple[int, int]) -> Episode:
    is_present = draw(st.booleans()) and target.x1 < target.x2 and target.y1 < target.y2
    shots = draw(st.integers(1, 3))
    return make_episode(shots=shots, query_wh=image_wh, target_box=target if is_present else None)


@pytest.mark.parametrize("name", TERMS)
@given(answers=answers())
def test_values_are_in_range_and_no_answer_counts_for_another(name: str, answers: AnswerBatch) -> None:
    values = TERMS[name](answers)
    assert values.dtype == np.float64
    assert values.shape == (len(answers),)
    least, most = limits(name)
    assert ((least <= values) & (values <= most)).all(), values  # false for nan
    alone = [TERMS[name](answers.row(position))[0] for position in range(len(answers))]
    np.testing.assert_allclose(values, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_no_answers_no_values(name: str) -> None:
    assert TERMS[name](AnswerBatch.from_parses([], [])).shape == (0,)


# ---- by hand


def test_overlap_terms_by_hand() -> None:
    """The target, half of it, a box beside it, and one that does not touch it."""
    given = boxed(TARGET, HALF, Box(60, 10, 80, 40), Box(70, 50, 80, 60))
    assert iou_reward(given).tolist() == [1, 0.5, 0, 0]
    assert iou_squared_reward(given).tolist() == [1, 0.25, 0, 0]
    for name, function in (("giou", giou), ("diou", diou), ("ciou", ciou)):
        values = REWARD_TERMS[name](given)
        np.testing.assert_array_equal(values, function(given.boxes, given.target_boxes))
        assert (np.diff(values) < 0).all(), "boxes without overlap are told apart"


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, 1.0), (0.5000001, 0.0), (1.0, 0.0)])
def test_iou_at(threshold: float, expected: float) -> None:
    assert IoUAt(threshold)(boxed(HALF, TARGET)).tolist() == [expected, 1.0]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.5, 0.75, 0.5), (0.51, 0.75, 0.0), (0.25, 0.5, 1.0), (0.5, 0.5, 1.0), (0.75, 0.9, 0.0)],
)
def test_piecewise(low: float, high: float, expected: float) -> None:
    assert Piecewise(low, high)(boxed(HALF, TARGET)).tolist() == [expected, 1.0]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, [0.5, 1.0, 1.0]), (0.499, [0.5, 1.0, 1.0]), (0.5, [0.0, 0.8, 1.0]), (1.0, [0.0, 0.8, 1.0])],
)
def test_the_curriculum_switches_in_the_middle(progress: float, expected: list[float]) -> None:
    given = boxed(HALF, Box(20, 10, 60, 34), Box(20, 10, 60, 37), progress=progress)  # IoU 0.5, 0.8, 0.9
    assert piecewise_reward(given).tolist() == pytest.approx(expected)


def test_l1() -> None:
    given = boxed(TARGET, Box(28, 10, 60, 40), Box(20, 16, 52, 40), Box(0, 0, 20, 15))
    expected = [1, 1 - 0.1 / 4, 1 - (0.1 + 0.1) / 4, 1 - (20 / 80 + 10 / 60 + 40 / 80 + 25 / 60) / 4]
    assert l1_reward(given).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "strict", "soft"),
    [
        pytest.param("", 0, 0, id="nothing"),
        pytest.param("It is near the top.", 0, 0, id="words"),
        pytest.param("<answer><answer>", 0, 0.25, id="opened twice"),
        pytest.param("none", 0, 0.25, id="a readable word"),
        pytest.param("At [250, 167, 750, 667].", 0, 0.25, id="a readable box"),
        pytest.param("<answer>here</answer>", 0, 0.5, id="tags around nothing"),
        pytest.param("<answer>[250, 167, 750, 667]", 0, 0.5, id="not closed"),
        pytest.param("<answer>[750, 167, 250, 667]</answer> ?", 0, 0.5, id="reversed, with words"),
        pytest.param("It is <answer>[250, 167, 750, 667]</answer>.", 0, 0.75, id="all parts, with words"),
        pytest.param("<answer>[750, 167, 250, 667]</answer>", 1, 1, id="the format, of a reversed box"),
        pytest.param("<answer>none</answer>", 1, 1, id="the format, of no box"),
        pytest.param("<answer>[250, 167, 750, 667]</answer>", 1, 1, id="the format"),
    ],
)
def test_format_strict_and_soft(text: str, strict: float, soft: float) -> None:
    for target in (TARGET, None):
        assert format_reward(batch(text, target=target)).tolist() == [strict]
        assert format_soft_reward(batch(text, target=target)).tolist() == [soft]


def test_the_form_of_box_actions() -> None:
    parses = [ParseResult(ParseStatus.OK, TARGET, True), ParseResult(ParseStatus.REVERSED, None, False)]
    given = AnswerBatch.from_parses([make_episode()] * 2, parses)
    assert format_reward(given).tolist() == [1, 0]
    assert format_soft_reward(given).tolist() == [1, 0]
    assert LengthReward(1)(given).tolist() == [1, 1]


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (10, 1), (11, 0.9), (15, 0.5), (20, 0), (10_000, 0)])
def test_length(count: int, expected: float) -> None:
    assert LengthReward(10)(batch("é" * count)).tolist() == [pytest.approx(expected)]


def test_present() -> None:
    texts = [GARBAGE, say(None), say(SUPPORT_PLACE), say(TARGET)]
    assert present_reward(batch(*texts)).tolist() == [0, 0, 1, 1]
    assert present_reward(batch(*texts, target=None)).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("box", "target", "whole_image", "copy"),
    [
        pytest.param(TARGET, TARGET, 0, 0, id="gold"),
        pytest.param(WHOLE, TARGET, -1, 0, id="the whole image"),
        pytest.param(WHOLE, None, -1, 0, id="the whole image, and there is nothing"),
        pytest.param(WHOLE, WHOLE, 0, 0, id="the target is the whole image"),
        pytest.param(WHOLE, Box(0, 0, 80, 57), 0, 0, id="the target nearly is the whole image"),
        pytest.param(Box(0, 0, 80, 56), TARGET, 0, 0, id="most of the image"),
        pytest.param(SUPPORT_PLACE, TARGET, 0, -1, id="the support's place"),
        pytest.param(Box(4, 6, 20, 22), TARGET, 0, 0, id="the support's pixels, in a picture of another size"),
        pytest.param(SUPPORT_PLACE, None, 0, -1, id="the support's place, and there is nothing"),
        pytest.param(SUPPORT_PLACE, SUPPORT_PLACE, 0, 0, id="the target has not moved"),
        pytest.param(Box(20 / 3, 11.25, 100 / 3, 43.125), SUPPORT_PLACE, 0, -1, id="the other support's place"),
    ],
)
def test_shortcuts_are_taken_off(box: Box, target: Box | None, whole_image: float, copy: float) -> None:
    assert whole_image_penalty(boxed(box, target=target)).tolist() == [whole_image]
    assert copy_penalty(boxed(box, target=target)).tolist() == [copy]


@pytest.mark.parametrize(
    ("term", "numbers", "message"),
    [
        (IoUAt, (0,), "iou_at: expected a threshold above 0 and up to 1, got 0"),
        (IoUAt, (1.5,), "got 1.5"),
        (IoUAt, (math.nan,), "got nan"),
        (Piecewise, (0.0, 0.5), "piecewise: expected 0 < low <= high <= 1, got 0.0 and 0.5"),
        (Piecewise, (0.8, 0.5), "got 0.8 and 0.5"),
        (Piecewise, (0.8, 1.5), "got 0.8 and 1.5"),
        (LengthReward, (0,), "length: expected a number of characters above 0, got 0"),
        (LengthReward, (math.inf,), "got inf"),
    ],
)
def test_numbers_out_of_range(term: type, numbers: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        term(*numbers)


# ---- the page


@pytest.mark.parametrize("name", [*REWARD_TERMS, *PARAMETRIC_TERMS])
def test_each_term_has_its_line_on_the_page(name: str) -> None:
    """Its name, formula, range and source, and how it is gamed."""
    section = PAGE.split("\n## Terms\n")[1].split("\n## ")[0]
    rows = re.findall(rf"^\| `{name}[`(].*$", section, re.MULTILINE)
    assert rows, f"docs/rewards.md: expected a line for {name}"
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 5
        assert all(cells)
        least, most = limits(name)
        assert f"{least:g} to {most:g}" in cells[2]
