"""A trained policy beside those that need no training: which episodes, and when it is better."""

from __future__ import annotations

import itertools

import pytest

from focus_agents.evaluation.beside import MOST_EPISODES, answer_beside, chosen_episodes, compare
from focus_agents.policies.registry import PolicySpec
from focus_env.datasets import load_dataset
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus


def answers_of(ious: list[float]) -> list[ScoredAnswer]:
    return [
        ScoredAnswer(
            episode_id=str(index),
            status=ParseStatus.OK,
            is_strict=True,
            box=Box(0, 0, 1, 1),
            target_box=Box(0, 0, 1, 1),
            iou=iou,
            is_whole_image=False,
            is_support_copy=False,
        )
        for index, iou in enumerate(ious)
    ]


@pytest.mark.parametrize("num", [1, 2, MOST_EPISODES - 1, MOST_EPISODES])
def test_few_episodes_are_all_compared(num: int) -> None:
    assert chosen_episodes(num) == list(range(num))


@pytest.mark.parametrize("num", [MOST_EPISODES + 2, 3 * MOST_EPISODES, 1999])
def test_of_many_some_are_that_lie_evenly(num: int) -> None:
    chosen = chosen_episodes(num)
    assert len(set(chosen)) == MOST_EPISODES
    steps = {second - first for first, second in itertools.pairwise(chosen)}
    assert (chosen[0], steps) == (0, {num // MOST_EPISODES, -(-num // MOST_EPISODES)})
    assert chosen[-1] < num


def test_the_verdict_is_over_objects() -> None:
    """One object of two is better by far, with many episodes: over episodes alone that would be clear."""
    trained, other = answers_of([0.9] * 50 + [0.2] * 2), answers_of([0.4] * 50 + [0.3] * 2)
    found = compare(trained, other, ["a"] * 50 + ["b"] * 2)
    assert found["lead"] == pytest.approx((50 * 0.5 - 2 * 0.1) / 52)
    assert found["interval"] == pytest.approx([-0.1, 0.5])
    assert (found["verdict"], found["num_episodes"], found["num_objects"]) == ("open", 52, 2)


@pytest.mark.parametrize(
    ("lead", "verdict"),
    [(0.2, "better"), (-0.2, "worse"), (0.0, "open")],
)
def test_a_lead_that_all_objects_share_is_clear(lead: float, verdict: str) -> None:
    other = [0.3, 0.4, 0.5, 0.6]
    found = compare(answers_of([iou + lead for iou in other]), answers_of(other), list("aabb"))
    assert (found["verdict"], found["miou"], found["miou_beside"]) == (
        verdict,
        pytest.approx(0.45 + lead),
        pytest.approx(0.45),
    )


def test_policies_answer_the_chosen_episodes() -> None:
    episodes = load_dataset("synthetic", split="val", shots=2, num_episodes=12)
    spec, done = PolicySpec(text="copy_support"), list[int]()
    answers = answer_beside(episodes, [1, 5, 11], spec, on_batch=done.append)
    assert [answer.episode_id for answer in answers] == [episodes[index].episode_id for index in (1, 5, 11)]
    for answer, index in zip(answers, (1, 5, 11), strict=True):
        assert answer.box == pytest.approx(episodes[index].support[-1].box, abs=0.5)
    assert done[-1] == 3
