"""Folders of results notice that what was asked has changed: code, weights, labels, pictures."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.evaluation.notes import report_notes
from focus_agents.evaluation.report import summarize_folder
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.evaluation.run import pending_chunks
from focus_agents.models.loading import model_folder
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.provenance import provenance
from focus_env.types import Box, Episode
from tests.fakes import FakeDataset
from tests.focus_agents.evaluation.scripted import NUM_EPISODES, make_plan, open_results, run


class Changed(FakeDataset):
    """Episodes of the same names, of which one has something else."""

    def __init__(self, where: int, change: str) -> None:
        super().__init__(NUM_EPISODES)
        self.where, self.change = where, change

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        if index != self.where:
            return episode
        first = episode.support[0]
        match self.change:
            case "target":
                return dataclasses.replace(episode, target_box=Box(1, 1, 2, 2))
            case "absent":
                return dataclasses.replace(episode, target_box=None)
            case "support":
                support = (dataclasses.replace(first, box=Box(0, 0, 9, 9)), *episode.support[1:])
                return dataclasses.replace(episode, support=support)
            case "category":
                return dataclasses.replace(episode, category="another")
            case "picture":
                pixels = np.zeros_like(episode.query_frame.image())
                return dataclasses.replace(episode, query_frame=dataclasses.replace(episode.query_frame, source=pixels))
            case _:
                support = (
                    dataclasses.replace(first, frame=dataclasses.replace(first.frame, name="x")),
                    *episode.support[1:],
                )
                return dataclasses.replace(episode, support=support)


@pytest.mark.parametrize("change", ["target", "absent", "support", "category", "picture", "name"])
@pytest.mark.parametrize("where", [0, NUM_EPISODES - 1])
def test_changed_episodes_are_refused(tmp_path: Path, change: str, where: int) -> None:
    run(tmp_path, make_plan())
    plan = make_plan(episodes={2: Changed(where, change)})
    what = "pictures" if change == "picture" else "labels"
    with pytest.raises(ValueError, match=f"'fake', 2 shots: the {what} of episode 'fake/{where}' have changed since"):
        pending_chunks(plan, open_results(tmp_path, plan))
    assert pending_chunks(make_plan(), open_results(tmp_path, make_plan())) == []


def test_a_change_of_an_episode_that_nobody_answered_is_none(tmp_path: Path) -> None:
    run(tmp_path, make_plan(num_episodes=4))
    plan = make_plan(episodes={2: Changed(5, "support")})
    assert len(pending_chunks(plan, open_results(tmp_path, plan))) == 2


def test_answers_of_another_policy_count_too(tmp_path: Path) -> None:
    """They would stand in one table with those to other labels."""
    run(tmp_path, make_plan())
    plan = make_plan(policies={"center": PolicySpec(text="center")}, episodes={2: Changed(3, "support")})
    with pytest.raises(ValueError, match="the labels of episode 'fake/3' have changed"):
        pending_chunks(plan, open_results(tmp_path, plan))


MINE = "from mine_to_change_too import width\ndef locate(question, rng): return (0, 0, width(), 9)\n"


@pytest.mark.parametrize("file", ["mine_to_change.py", "mine_to_change_too.py"])
def test_an_edited_policy_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Its own file, or a module that it uses."""
    monkeypatch.syspath_prepend(tmp_path)
    names = ("mine_to_change", "mine_to_change_too")
    (tmp_path / "mine_to_change.py").write_text(MINE)
    (tmp_path / "mine_to_change_too.py").write_text("def width(): return 9\n")
    plan = make_plan(policies={"mine": PolicySpec(text="mine_to_change:locate")})
    try:
        open_results(tmp_path / "table", plan)
        open_results(tmp_path / "table", plan)
        with (tmp_path / file).open("a") as source:
            source.write("# better now\n")
        importlib.invalidate_caches()
        with pytest.raises(ValueError, match="policies 'mine' was answered with other settings: code is"):
            open_results(tmp_path / "table", plan)
    finally:
        for name in names:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("file", ["tokenizer.json", "generation_config.json"])
def test_other_files_of_a_model_are_noticed(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("focus-small-base"), folder)
    plan = make_plan(policies={"vlm": PolicySpec(text=f"vlm:{folder}")})
    open_results(tmp_path / "table", plan)
    (folder / "README.md").write_text("for people")
    open_results(tmp_path / "table", plan)
    (folder / file).write_text((folder / file).read_text() + " ")
    with pytest.raises(ValueError, match="model_files is"):
        open_results(tmp_path / "table", plan)


def test_another_endpoint_is_another_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    plan = make_plan(policies={"api": PolicySpec(text="openai_api:m")})
    monkeypatch.setenv("OPENAI_BASE_URL", "http://a:1/v1")
    open_results(tmp_path, plan)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://b:1/v1")
    with pytest.raises(ValueError, match="endpoint is 'http://b:1/v1' here and 'http://a:1/v1' there"):
        open_results(tmp_path, plan)


def test_a_release_is_part_of_a_policy_and_other_code_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan()
    settings: dict[str, Any] = {"data": {}, "policies": plan.policy_settings(), "cells": plan.cells()}
    now = provenance()
    ResultsFolder.open(tmp_path, code=now, **settings)
    assert summarize_folder(ResultsFolder(tmp_path))["code_changes"] == []
    newer = {**now, "versions": {**now["versions"], "numpy": "99"}}
    for code in (newer, now, newer):
        results = ResultsFolder.open(tmp_path, code=code, **settings)
    (change,) = summarize_folder(results)["code_changes"]
    assert change.startswith("numpy was ")
    assert any(change in note for note in report_notes(summarize_folder(results)))
    monkeypatch.setattr("focus_env.__version__", "9.9")
    with pytest.raises(ValueError, match=r"version is '9\.9' here"):
        open_results(tmp_path, plan)


def test_names_that_would_share_files_are_refused(tmp_path: Path) -> None:
    for first, second in (("a:b", "a-b"), ("A", "a"), ("x__y", "X__y")):
        open_results(tmp_path / first, make_plan(dataset=first))
        with pytest.raises(ValueError, match=r"would have the same files, .*; choose another `label`"):
            open_results(tmp_path / first, make_plan(dataset=second))


def test_policies_that_would_share_files_are_sent_to_different_folders(tmp_path: Path) -> None:
    """A label names data, and would be the same for both."""
    cells = make_plan().cells()
    others = [dataclasses.replace(cell, policy=cell.policy.upper()) for cell in cells]
    assert others != cells
    with pytest.raises(ValueError, match=r"the same files, .*; score them in different folders, by `output_dir`"):
        ResultsFolder.open(tmp_path, data={}, policies={}, cells=[*cells, *others])


def test_a_damaged_file_of_digests_is_named(tmp_path: Path) -> None:
    run(tmp_path, make_plan())
    (file,) = (tmp_path / "episodes").iterdir()
    assert json.loads(file.read_text())["not_published"] == "the paper has no figures on the data set 'None'"
    file.write_text("[1]")
    with pytest.raises(Exception, match=r"fake__2-shot\.json: expected digests of episodes in JSON"):
        run(tmp_path, make_plan())
