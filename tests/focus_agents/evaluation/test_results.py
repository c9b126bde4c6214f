"""Folders of results: answers that do not belong together are not mixed."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import CheckpointError, EvaluationError
from focus_agents.evaluation.records import Cell
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.evaluation.run import pending_chunks
from focus_agents.models.loading import model_folder
from focus_agents.policies.registry import PolicySpec
from focus_env.errors import DatasetError
from focus_env.types import Episode
from tests.fakes import FakeDataset
from tests.focus_agents.evaluation.scripted import (
    NUM_EPISODES,
    answers_file,
    make_plan,
    open_results,
    records_of,
    run,
    scripted,
)


class Renamed(FakeDataset):
    """Other episodes under the same numbers."""

    def __getitem__(self, index: int) -> Episode:
        return dataclasses.replace(super().__getitem__(index), episode_id=f"other/{index}")


def test_answers_of_other_weights_in_the_same_place_are_not_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("focus-small-base"), folder)
    plan = make_plan(policies={"vlm": PolicySpec(text=f"vlm:{folder}")})
    open_results(tmp_path / "table", plan)
    open_results(tmp_path / "table", plan)
    shutil.copy(Path(model_folder("focus-small-sft"), "model.safetensors"), folder)
    with pytest.raises(
        ValueError, match=r"policies 'vlm' was answered with other settings: weights is '\w{12}' here and"
    ):
        open_results(tmp_path / "table", plan)


def change_second(lines: list[str], **values: Any) -> list[str]:
    """The lines, of which the second has other values."""
    return [lines[0], json.dumps({**json.loads(lines[1]), **values}) + "\n", *lines[2:]]


def config(**values: Any) -> str:
    return json.dumps({"data": {}, "policies": {}, "cells": [], **values})


CELL = {"policy": "a", "dataset": "b", "shots": 1, "num_episodes": 3}
NUMBER = "expected a finite number"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"iou": float("nan")}, "expected numbers, got NaN"),
    ({"iou": float("inf")}, "expected numbers, got Infinity"),
    ({"iou": 7}, "an iou from 0 to 1"),
    ({"iou": -0.1}, "an iou from 0 to 1"),
    ({"iou": "0.5"}, f"iou: {NUMBER}"),
    ({"iou": None}, f"iou: {NUMBER}"),
    ({"iou": True}, f"iou: {NUMBER}"),
    ({"index": "5"}, "index: expected a whole number"),
    ({"index": 1.5}, "index: expected a whole number"),
    ({"index": -1}, "index and seconds of 0 or more"),
    ({"seconds": -1.0}, "index and seconds of 0 or more"),
    ({"status": "fine"}, "status: expected one of ok"),
    ({"is_strict": 1}, "is_strict: expected true or false"),
    ({"box": [1, 2, 3]}, "box: expected four finite numbers or null"),
    ({"box": [1, 2, 3, None]}, "box: expected four finite numbers or null"),
    ({"target_box": "none"}, "target_box: expected four finite numbers or null"),
    ({"text": None}, "text: expected a text"),
    ({"error": 3}, "error: expected a text or null"),
    ({"policy": "another"}, "expected an answer of 'scripted'"),
    ({"shots": 4}, "got one of 'scripted' to 'fake' with 4"),
]
"""Values that no answer has."""


class TestRefusals:
    """Answers to different questions are not mixed."""

    def test_other_settings_are_named(self, tmp_path: Path) -> None:
        run(tmp_path, make_plan())
        with pytest.raises(
            ValueError, match=r"data 'fake' .*: level is 5 here and 3 there\. Choose another `output_dir`"
        ):
            open_results(tmp_path, make_plan(), level=5)
        with pytest.raises(ValueError, match="split is 'val' here and None there"):
            open_results(tmp_path, make_plan(), split="val")
        policies = {"scripted": dataclasses.replace(scripted()["scripted"], frame="pixel", device="cuda")}
        message = "policies 'scripted' .*: frame is 'pixel' here and 'norm_1000' there; max_completion_tokens is 8 here"
        with pytest.raises(ValueError, match=message):
            open_results(tmp_path, make_plan(policies=policies, max_completion_tokens=8))

    def test_where_it_computes_may_change(self, tmp_path: Path) -> None:
        run(tmp_path, make_plan())
        spec = dataclasses.replace(scripted()["scripted"], device="cuda", api={"token_budget": 9})
        open_results(tmp_path, make_plan(policies={"scripted": spec}, batch_size=1, num_workers=2))

    def test_other_episodes(self, tmp_path: Path) -> None:
        run(tmp_path, make_plan())
        for dataset, found in ((Renamed(NUM_EPISODES), "other/6"), (FakeDataset(2), "none")):
            plan = make_plan(episodes={2: dataset})
            with pytest.raises(ValueError, match=f"episode 6 was 'fake/6' when it was answered, and is '{found}' now"):
                pending_chunks(plan, open_results(tmp_path, plan))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "expected JSON"),
            ('{"name": "sft"}', "holds something else than an evaluation"),
            ("[]", "holds something else than an evaluation"),
            (config(data=[]), "config.json: data: expected the record of an evaluation"),
            (config(data={"a": 1}), "config.json: data: expected the record of an evaluation"),
            (config(policies=None), "config.json: policies: expected the record of an evaluation"),
            (config(cells={}), "config.json: cells: expected the record of an evaluation"),
            (config(cells=[1]), "config.json: cells: expected the record of an evaluation"),
            (config(cells=[{"shots": 1}]), "cells: expected policy, dataset, shots, num_episodes"),
            (config(cells=[{**CELL, "shots": "1"}]), "cells: expected policy, dataset, shots, num_episodes"),
        ],
    )
    def test_another_folder(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            open_results(tmp_path, make_plan())
        assert (tmp_path / "config.json").read_text() == text

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda lines: [lines[0], "{}\n", *lines[2:]], "line 2: expected an answer in JSON .*'policy'"),
            (lambda lines: [lines[0], "nonsense\n", *lines[2:]], "line 2: expected an answer in JSON"),
            (lambda lines: [*lines, lines[3]], "line 8: episode 3 is there twice"),
            *((functools.partial(change_second, **change), f"line 2: .*{message}") for change, message in WRONG),
        ],
    )
    def test_a_damaged_file(self, tmp_path: Path, change: Any, message: str) -> None:
        plan = make_plan()
        file = answers_file(run(tmp_path, plan))
        file.write_text("".join(change(file.read_text().splitlines(keepends=True))))
        before = file.read_text()
        with pytest.raises(CheckpointError, match=message):
            pending_chunks(plan, open_results(tmp_path, plan), retry_failed=True)
        assert file.read_text() == before

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("raises=all", "RuntimeError: the camera is broken"),
            ("silent", "ValueError: expected a Generation of the policy for each of 1 prompts, got 0"),
            ("double", "ValueError: expected 1 completions with texts of the policy for each prompt, got 2"),
            ("exits", r"RuntimeError: expected answers of the policy, got a call of sys.exit\(0\)"),
        ],
    )
    def test_a_policy_that_raises_is_named(self, tmp_path: Path, argument: str, message: str) -> None:
        where = "policy 'scripted' on episodes 0 to 2 of 'fake' with 2 shots: "
        with pytest.raises(EvaluationError, match=where + message) as info:
            run(tmp_path, make_plan(policies=scripted(argument)))
        assert info.value.__cause__ is not None
        assert records_of(ResultsFolder(tmp_path)) == []

    def test_a_picture_that_cannot_be_read_is_no_fault_of_the_policy(self, tmp_path: Path) -> None:
        class Damaged(FakeDataset):
            def __getitem__(self, index: int) -> Episode:
                raise DatasetError("frame 3 is damaged")

        with pytest.raises(DatasetError, match="frame 3 is damaged"):
            run(tmp_path, make_plan(episodes={2: Damaged()}))


def test_names_of_files_are_readable_and_never_the_same() -> None:
    def name(policy: str) -> str:
        return Cell(policy=policy, dataset="got10k", shots=4, num_episodes=1).name

    assert name("vlm:focus-small") == "vlm-focus-small__got10k__4-shot"
    texts = ["vlm:a/b", "vlm:a-b", "vlm:a b", "vlm:a//b", f"vlm:{'x' * 200}/1", f"vlm:{'x' * 200}/2", "own.module:Ä"]
    names = {name(text) for text in texts}
    assert len(names) == len(texts)
    assert all(len(text) < 200 and "/" not in text and text.isascii() for text in names)
