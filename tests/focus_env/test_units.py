"""Answers that fit another unit are noticed; good, bad and few ones are not taken for them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from focus_env.boxes import CoordinateFrame
from focus_env.metrics import ScoredAnswer
from focus_env.parsing import write_box
from focus_env.prompts import get_template
from focus_env.rewards.scores import score_answers
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box
from focus_env.units import MIN_ANSWERS, UnitHint, find_unit
from tests.fakes import make_episode

# 1024ths are too near to thousandths to be told from these.
UNTOLD = (CoordinateFrame.RESIZED_PIXEL, CoordinateFrame.NORM_1024)
FRAMES = [frame for frame in CoordinateFrame if frame not in UNTOLD]
SIZE = (400, 300)


def boxes(count: int, seed: int = 0) -> list[Box]:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 0.5, size=(count, 2)) * SIZE
    return [Box(x, y, x + 120, y + 90) for x, y in corners.tolist()]


def scored(targets: list[Box | None], answers: list[str], asked: CoordinateFrame) -> list[ScoredAnswer]:
    template = dataclasses.replace(get_template("default"), frame=asked)
    return [
        score_answers(
            make_episode(query_wh=SIZE, target_box=target), [text], template=template, reward=WeightedReward.default()
        ).answers[0]
        for target, text in zip(targets, answers, strict=True)
    ]


@pytest.mark.parametrize("answered", FRAMES)
@pytest.mark.parametrize("asked", FRAMES)
def test_the_unit_of_perfect_answers_is_found(asked: CoordinateFrame, answered: CoordinateFrame) -> None:
    targets = boxes(8)
    texts = [write_box(box, frame=answered, image_wh=SIZE) for box in targets]
    hint = find_unit(scored([*targets], texts, asked))
    if answered is asked:
        assert hint is None
    else:
        assert hint is not None
        assert (hint.frame, hint.num_answers) == (answered, 8)
        assert hint.miou > 0.9 > 0.3 > hint.miou_as_read


def test_a_hint_says_what_to_do() -> None:
    hint = UnitHint(CoordinateFrame.PIXEL, miou=0.957, miou_as_read=0.01, num_answers=64)
    assert str(hint) == (
        "64 answers fit another unit of coordinates: mIoU 0.957 if they are read as pixel, 0.010 as they were. Ask in "
        "that unit: `frame` pixel"
    )


def test_wrong_boxes_are_no_other_unit() -> None:
    texts = [write_box(box, frame=CoordinateFrame.NORM_1000, image_wh=SIZE) for box in boxes(64, seed=1)]
    assert find_unit(scored([*boxes(64)], texts, CoordinateFrame.NORM_1000)) is None


def test_texts_without_a_box_and_absent_objects_do_not_count() -> None:
    targets = [*boxes(MIN_ANSWERS), None, None]
    texts = [write_box(box, frame=CoordinateFrame.PIXEL, image_wh=SIZE) for box in targets if box] + ["none", "[1, 2]"]
    hint = find_unit(scored(targets, texts, CoordinateFrame.NORM_1000))
    assert hint is not None
    assert hint.num_answers == MIN_ANSWERS
    assert find_unit(scored(targets[1:], texts[1:], CoordinateFrame.NORM_1000)) is None
    assert find_unit([]) is None


def test_a_picture_whose_pixels_are_thousandths_tells_nothing() -> None:
    template = get_template("default")
    box = Box(100, 200, 400, 500)
    episode = make_episode(query_wh=(1000, 1000), target_box=box)
    texts = [write_box(box, frame=CoordinateFrame.PIXEL, image_wh=(1000, 1000))] * 8
    answers = score_answers(episode, texts, template=template, reward=WeightedReward.default()).answers
    assert find_unit(answers) is None
