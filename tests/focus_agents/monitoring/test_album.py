"""Validations through time: which episodes are drawn, where pictures go, and what is read from another process."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from focus_agents.monitoring.album import ValidationAlbum, choose_places, draw_validation
from focus_agents.monitoring.recorder import Recorder
from focus_agents.runs.folder import AFTER_COLOUR, BEFORE_COLOUR, RunDirectory
from focus_agents.runs.validations import keep_validation, list_validations, validation_picture
from focus_env.types import Box
from tests.answers import UNREADABLE, scored
from tests.fakes import FakeDataset

EPISODES = FakeDataset(10)
BEFORE = [scored(0.5, index=index) for index in range(10)]


class Shown:
    """A sink that keeps what is shown."""

    name = "shown"

    def __init__(self) -> None:
        self.pictures: list[tuple[str, int, Any]] = []

    def log(self, metrics: Any, position: int) -> None:
        pass

    def show(self, name: str, picture: Any, position: int) -> None:
        self.pictures.append((name, position, picture))

    def close(self) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"name": "run"})


def make_album(run: RunDirectory, counter: str = "iteration") -> tuple[ValidationAlbum, Shown, Console]:
    sink, console = Shown(), Console(file=io.StringIO(), width=200)
    return ValidationAlbum(run, Recorder(run, console, [sink]), EPISODES, range(10), counter=counter), sink, console


def test_fixed_ones_and_those_that_have_lost_most() -> None:
    now = [scored(score, index=n) for n, score in enumerate([0, 0, 0.5, 0.5, 0.5, 0.1, 0.9, 0.0, 0.5, 0.4])]
    chosen = choose_places(BEFORE, now, num_fixed=2, num_worst=3)
    assert chosen == [("fixed", 0), ("fixed", 1), ("worst", 7), ("worst", 5), ("worst", 9)]


@pytest.mark.parametrize(("number", "kinds"), [(0, []), (1, ["fixed"]), (6, ["fixed"] * 4 + ["worst"] * 2)])
def test_fewer_answers_than_places(number: int, kinds: list[str]) -> None:
    assert [kind for kind, _ in choose_places(BEFORE, BEFORE[:number], num_worst=4)] == kinds
    assert draw_validation(EPISODES, range(10), BEFORE, BEFORE[:number]).shape[2] == 3


def test_an_answer_of_the_whole_picture_shows() -> None:
    whole = [scored(0.2, index=n, box=Box(0, 0, 80, 60)) for n in range(4)]
    sheet = draw_validation(EPISODES, range(10), [UNREADABLE] * 4, whole)
    assert (sheet == AFTER_COLOUR).all(axis=-1).sum() > 4 * 2 * (160 + 210)  # two pixels along each side of a tile


def test_each_validation_is_kept_drawn_and_shown(run: RunDirectory) -> None:
    album, sink, _ = make_album(run)
    run.write_answers("before", BEFORE)
    album.add(0, BEFORE)
    album.add(100, [scored(0.1, index=n, box=Box(30, 20, 70, 50)) for n in range(10)])
    assert [(name, position) for name, position, _ in sink.pictures] == [("validation", 0), ("validation", 100)]
    assert list(list_validations(run.path)) == [100]
    later = np.array(Image.open(validation_picture(run.path, 100)))
    assert (later == sink.pictures[1][2]).all()
    for colour in (BEFORE_COLOUR, AFTER_COLOUR):
        assert (later == colour).all(axis=-1).sum() > 50


def test_what_another_process_has_kept_is_drawn_once(run: RunDirectory) -> None:
    album, sink, _ = make_album(run, "step")
    album.draw_new()
    run.write_answers("before", BEFORE)
    keep_validation(run.path, "step", 5, BEFORE)
    album.draw_new()
    album.draw_new()
    assert [position for _, position, _ in sink.pictures] == [0, 5]
    keep_validation(run.path, "step", 10, BEFORE)
    album.draw_new()
    assert [position for _, position, _ in sink.pictures] == [0, 5, 10]


def test_a_full_disk_is_named_and_ends_nothing(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    album, sink, console = make_album(run)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("focus_agents.monitoring.album.keep_validation", full)
    monkeypatch.setattr("focus_agents.monitoring.album.write_picture", full)
    run.write_answers("before", BEFORE)
    for position in (100, 200):
        album.add(position, BEFORE)
    assert [position for _, position, _ in sink.pictures] == [100, 200]
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.partition(" cannot")[0] for line in lines] == ["warning: validation answers", "warning: pictures"]
