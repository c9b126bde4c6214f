"""What is kept of sampled groups: complete enough to draw, bounded, whole after a kill."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.errors import CheckpointError, EpisodeError
from focus_agents.rollout.records import Completion, Generation, RolloutGroup, ShownSupport
from focus_agents.runs import samples
from focus_agents.runs.samples import append_samples, is_complete, read_samples, rewind_samples, sampled_iterations
from focus_env.types import Box, ParseStatus
from tests.answers import scored

SUPPORTS = (ShownSupport(Box(1, 2, 3, 4), (64, 48)), ShownSupport(Box(0, 0, 9.25, 9), (32, 32)))


def group(rewards: list[float], *, error: Any = None, **fields: Any) -> RolloutGroup:
    completions = tuple(
        Completion(f"</script> {n}", np.zeros(3, np.int64), np.zeros(3, np.float32), is_finished=n != 1)
        for n in range(len(rewards))
    )
    answers = tuple(scored(reward / 2, image_wh=(80, 60), **fields) for reward in rewards)
    terms = tuple({"iou": reward / 2, "format": 1.0} for reward in rewards)
    return RolloutGroup(
        7, Generation(completions), np.array(rewards), terms, () if error else answers, error, supports=SUPPORTS
    )


def test_a_group_can_be_drawn_from_its_record(tmp_path: Path) -> None:
    append_samples(tmp_path, 1, [group([1.0, 0.5])], np.array([[0.7, -0.7]]))
    (record,) = read_samples(tmp_path)
    answers = record.pop("answers")
    assert record == {
        "iteration": 1, "episode_index": 7, "episode": "fake/0", "image_wh": [80, 60], "group_size": 2,
        "target": [20.0, 10.0, 60.0, 40.0], "mean_reward": 0.75, "supports": [
            {"box": [1.0, 2.0, 3.0, 4.0], "image_wh": [64, 48]}, {"box": [0.0, 0.0, 9.25, 9.0], "image_wh": [32, 32]},
        ],
    }  # fmt: skip
    assert answers[1] == {
        "number": 1, "text": "</script> 1", "box": [1.5, 2.0, 30.0, 41.25], "status": "ok", "iou": 0.25, "credit": 0.25,
        "reward": 0.5, "terms": {"iou": 0.25, "format": 1.0}, "num_tokens": 3, "is_cut": True, "is_strict": True,
        "advantage": -0.7,
    }  # fmt: skip
    assert "is_cut" not in answers[0]


@pytest.mark.parametrize(
    ("rewards", "kept"), [([0.5, 2.0, 0.1, 1.0], [1, 2]), ([1.0] * 4, [0, 1]), ([1.0], [0]), ([0.0, 1.0], [0, 1])]
)
def test_of_most_iterations_the_best_and_the_worst_answer(
    tmp_path: Path, rewards: list[float], kept: list[int]
) -> None:
    append_samples(tmp_path, 20, [group(rewards)])
    append_samples(tmp_path, 21, [group(rewards)])
    whole, part = read_samples(tmp_path)
    assert [answer["number"] for answer in whole["answers"]] == list(range(len(rewards)))
    assert [answer["number"] for answer in part["answers"]] == kept
    assert part["group_size"] == len(rewards)
    assert "advantage" not in part["answers"][0]


def test_the_rule_of_what_is_complete() -> None:
    assert [n for n in range(1, 35) if is_complete(n)] == [*range(1, 11), 20, 30]


def test_a_group_that_failed_says_why(tmp_path: Path) -> None:
    append_samples(tmp_path, 3, [group([0.0, 0.0], error=EpisodeError("episode 'a': no file"))])
    (record,) = read_samples(tmp_path)
    assert (record["answers"], record["error"], record["episode"]) == ([], "episode 'a': no file", None)


def test_parts_are_bounded_and_the_first_and_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PART_BYTES", 1)  # each iteration fills one
    monkeypatch.setattr(samples, "MOST_PARTS", 3)
    for iteration in range(1, 8):
        append_samples(tmp_path, iteration, [group([0.0, 1.0])])
    assert sampled_iterations(tmp_path) == [1, 6, 7]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"rollouts-{n:06d}.jsonl.gz" for n in (1, 6, 7)]
    assert [record["iteration"] for record in read_samples(tmp_path, [6, 2])] == [6]


@pytest.mark.parametrize(("num_done", "left"), [(-1, []), (0, []), (2, [1, 2]), (3, [1, 2, 3]), (99, [1, 2, 3, 4, 5])])
def test_what_came_after_a_checkpoint_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_done: int, left: list[int]
) -> None:
    append_samples(tmp_path, 1, [group([0.0, 1.0])])
    size = (tmp_path / "rollouts-000001.jsonl.gz").stat().st_size
    monkeypatch.setattr(samples, "PART_BYTES", size + 50)  # two iterations fill one
    for iteration in range(2, 6):
        append_samples(tmp_path, iteration, [group([0.0, 1.0])])
    assert len(list(tmp_path.iterdir())) == 3
    rewind_samples(tmp_path, num_done)
    assert sampled_iterations(tmp_path) == left
    append_samples(tmp_path, num_done + 1, [group([0.0])])
    assert [record["iteration"] for record in read_samples(tmp_path)] == [*left, num_done + 1]


def test_a_kill_in_the_middle_of_a_write_costs_that_iteration_alone(tmp_path: Path) -> None:
    for iteration in (1, 2):
        append_samples(tmp_path, iteration, [group([0.0, 1.0])])
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    assert [record["iteration"] for record in read_samples(tmp_path)] == [1]
    append_samples(tmp_path, 2, [group([0.0, 1.0])])
    assert [json.loads(line)["iteration"] for line in gzip.decompress(part.read_bytes()).splitlines()] == [1, 2]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    for iteration in (1, 2):
        append_samples(tmp_path, iteration, [group([0.0, 1.0])])
    (part,) = tmp_path.iterdir()
    data = bytearray(part.read_bytes())
    data[100] ^= 0xFF
    part.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"rollouts-000001\.jsonl\.gz: expected sampled groups .*; delete the file"
    ):
        list(read_samples(tmp_path))


def test_an_answer_is_cut_and_odd_numbers_are_json(tmp_path: Path) -> None:
    odd = group([float("nan"), 1.0], status=ParseStatus.BAD_NUMBERS)
    append_samples(tmp_path, 1, [odd])
    (record,) = read_samples(tmp_path)
    assert record["answers"][0]["reward"] is None
    assert record["answers"][0]["box"] is None


def test_nothing_is_kept_nowhere(tmp_path: Path) -> None:
    assert sampled_iterations(tmp_path / "none") == []
    assert list(read_samples(tmp_path / "none")) == []
    rewind_samples(tmp_path / "none", 3)
