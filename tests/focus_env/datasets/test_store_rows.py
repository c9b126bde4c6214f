"""Stores that somebody has changed, and writers that were killed: each row is checked before anyone trusts it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from focus_env.boxes import validate_box
from focus_env.datasets import store_writer
from focus_env.datasets.store import StoreEpisodes
from focus_env.datasets.store_rows import EPISODES, FRAMES
from focus_env.datasets.store_writer import write_store
from focus_env.errors import DatasetError
from focus_env.types import Box, Episode, Frame
from tests.contracts import assert_same_episode
from tests.fakes import FakeDataset

NAN = float("nan")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of two episodes, of two supports each."""
    write_store(FakeDataset(2), tmp_path / "store", source={})
    return tmp_path / "store"


def _rewrite(
    folder: Path, kind: str, change: Callable[[list[dict[str, Any]]], object], schema: pa.Schema | None
) -> None:
    """Change the rows of a table, and what the manifest says of its size."""
    path = folder / kind / "part-00000.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    manifest = folder / "manifest.json"
    text = json.loads(manifest.read_text())
    text["shards"][0][f"{kind}_bytes"] = path.stat().st_size
    manifest.write_text(json.dumps(text))


def _set(column: str, value: Any, position: int | None = None) -> Callable[[list[dict[str, Any]]], object]:
    def change(rows: list[dict[str, Any]]) -> None:
        if position is None:
            rows[1][column] = value
        else:
            rows[1][column][position] = value

    return change


ROWS: list[tuple[str, Callable[[list[dict[str, Any]]], object], str]] = [
    ("NaN", _set("target_box", [NAN, 1.0, 2.0, 3.0]), r"'target_box': the box must be four finite numbers"),
    ("infinite", _set("target_box", [0.0, 1.0, float("inf"), 3.0]), r"'target_box': the box must be four finite"),
    ("reversed", _set("target_box", [9.0, 1.0, 2.0, 3.0]), r"'target_box': the box must be xyxy with x1 < x2"),
    ("no area", _set("target_box", [2.0, 1.0, 2.0, 3.0]), r"'target_box': the box must be xyxy with x1 < x2"),
    ("outside", _set("target_box", [1e3, 1e3, 2e3, 2e3]), r"'target_box': the box must lie inside .* \(80, 60\)"),
    ("negative", _set("target_box", [-1.0, 1.0, 2.0, 3.0]), r"'target_box': the box must lie inside"),
    ("a null in it", _set("target_box", [None, 1.0, 2.0, 3.0]), r"'target_box': expected four numbers .* got \[None"),
    ("a support", _set("support_box", [NAN] * 4, 1), r"'support_box', support 1: the box must be four finite numbers"),
    ("no support box", _set("support_box", None, 0), r"'support_box', support 0: expected four numbers .* got None"),
    ("outside its own", _set("support_box", [0.0, 0.0, 41.0, 9.0], 0), r"'support_box', support 0: .* of \(40, 32\)"),
    ("no supports", _set("support_box", []), r"'support_box': expected a value for each support, .* got \[\]"),
    ("null supports", _set("support_name", None), r"'support_name': expected a value for each support, .* got None"),
    ("a note too few", _set("support_note", [""]), r"'support_note': expected a value for each support, at least one"),
    ("no supports at all", lambda rows: rows[1].update({c: [] for c in EPISODES.names if c.startswith("support")}),
     r"'support_frame': expected a value for each support, at least one"),
    ("no name", _set("query_name", None), r"'query_name': expected a text, got None"),
    ("no id", _set("episode_id", None), r"'episode_id': expected a text, got None"),
    ("no identity", _set("identity", None), r"'identity': expected a text, got None"),
    ("no support name", _set("support_name", None, 1), r"'support_name', support 1: expected a text, got None"),
    ("an odd note", _set("target_note", "?"), r"'target_note': expected one of \('', 'flagged_absent'.* got '\?'"),
    ("no note", _set("target_note", None), r"'target_note': expected one of .* got None"),
    ("no size", _set("query_wh", None), r"'query_wh': expected a width and height from 1, .* got None"),
    ("a size of nothing", _set("query_wh", [0, 60]), r"'query_wh': expected a width .* got \[0, 60\]"),
    ("a bomb", _set("query_wh", [100_000, 100_000]), r"'query_wh': .* at most 64000000 pixels, got \[100000, 1"),
    ("half a size", _set("support_wh", [40, None], 0), r"'support_wh', support 0: expected a width .* got \[40, None"),
    ("no frame", _set("query_frame", None), r"'query_frame': expected a row of the frames' table, from 0, got None"),
    ("a frame before", _set("query_frame", -1), r"'query_frame': expected a row of the frames' table, .* got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "change", "match"), ROWS, ids=[case for case, *_ in ROWS])
def test_a_row_that_is_no_episode_is_named(
    folder: Path, case: str, change: Callable[[list[dict[str, Any]]], object], match: str
) -> None:
    _rewrite(folder, "episodes", change, EPISODES)
    episodes = StoreEpisodes(folder)
    assert_same_episode(episodes[0], FakeDataset(2)[0])
    with pytest.raises(DatasetError, match=rf"part-00000\.parquet, row 1, column {match}.*; .*") as raised:
        episodes[1]
    assert str(raised.value).endswith("write the store again from its data set, or correct the row")


@pytest.mark.parametrize("value", ["text", {"x1": 1.0}, [["1", "2", "3", "4"]], 7])
@pytest.mark.parametrize("column", EPISODES.names)
def test_columns_of_any_other_type(folder: Path, column: str, value: Any) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row[column] = value

    _rewrite(folder, "episodes", change, None)
    is_text = isinstance(value, str) and column in ("episode_id", "identity", "category", "query_name")
    is_row = value == 7 and column == "query_frame"
    if is_text or is_row:
        StoreEpisodes(folder)[0]
    else:
        with pytest.raises(DatasetError, match=rf"row 0, column '(support_name|{column})'"):
            StoreEpisodes(folder)[0]


def test_bytes_that_are_no_text(folder: Path) -> None:
    path = folder / "episodes" / "part-00000.parquet"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"fake/1", b"\xff\xfe\xfd\xfc\xfb\xfa"))
    if path.read_bytes() == content:
        table = pq.read_table(path)
        spoilt = pa.array([b"\xff\xff", b"\xff\xff"]).view(pa.string())
        pq.write_table(table.set_column(0, "episode_id", spoilt), path)
        _rewrite_size(folder, path)
    with pytest.raises(DatasetError, match=r"part-00000\.parquet, row 1: expected to read it, got "):
        StoreEpisodes(folder)[1]


def _rewrite_size(folder: Path, path: Path) -> None:
    manifest = folder / "manifest.json"
    text = json.loads(manifest.read_text())
    text["shards"][0][f"{path.parent.name}_bytes"] = path.stat().st_size
    manifest.write_text(json.dumps(text))


class TestManifest:
    """Numbers that no store has."""

    @pytest.mark.parametrize("name", ["num_episodes", "num_read", "num_frames", "episodes_bytes", "frames_bytes"])
    @pytest.mark.parametrize(
        "number", ["1" + "0" * 300, "-1", "NaN", "Infinity", "1e400", "true", "null", '"2"', "2.0"]
    )
    def test_absurd_numbers(self, folder: Path, name: str, number: str) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["shards"][0][name] = "HERE"
        path.write_text(json.dumps(manifest).replace('"HERE"', number))
        with pytest.raises(
            DatasetError, match=r"manifest\.json: expected a manifest as it was written, .*write the store"
        ):
            StoreEpisodes(folder)

    @pytest.mark.parametrize(("key", "value"), [("skipped", {"a": "1"}), ("skipped", {"a": NAN}), ("source", [])])
    def test_odd_values(self, folder: Path, key: str, value: Any) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        with pytest.raises(DatasetError, match=r"manifest\.json: expected a manifest as it was written"):
            StoreEpisodes(folder)

    def test_more_episodes_than_there_are_rows(self, folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["shards"][0]["num_episodes"] = 10**9
        path.write_text(json.dumps(manifest))
        with pytest.raises(DatasetError, match=r"part-00000\.parquet, row 999999999: expected to read it, got "):
            StoreEpisodes(folder)[10**9 - 1]

    def test_a_pipe(self, folder: Path) -> None:
        (folder / "manifest.json").unlink()
        os.mkfifo(folder / "manifest.json")
        with pytest.raises(DatasetError, match=r"manifest\.json: expected .* a pipe \(FIFO\), no regular file"):
            StoreEpisodes(folder)


def _bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


class TestPaths:
    """Pictures that a store names by path."""

    @pytest.mark.parametrize(
        ("case", "make", "match"),
        [
            ("a pipe", os.mkfifo, r"a pipe \(FIFO\), no regular file"),
            ("a device", lambda path: path.symlink_to("/dev/zero"), "a device, no regular file"),
            ("a socket", _bind, "a socket, no regular file"),
            ("a folder", Path.mkdir, "a directory, no regular file"),
            ("nothing", lambda path: None, "No such file"),
        ],
    )
    def test_what_is_no_file_is_named(
        self, folder: Path, tmp_path: Path, case: str, make: Callable[[Path], object], match: str
    ) -> None:
        make(tmp_path / "a.jpg")
        self._point_to(folder, str(tmp_path / "a.jpg"))
        with pytest.raises(
            DatasetError, match=rf"part-00000\.parquet, row 2: expected a picture at .*a\.jpg: .*{match}"
        ):
            StoreEpisodes(folder)[0].query_frame.image()

    @pytest.mark.parametrize("path", [None, "", "a\0b"])
    def test_names_that_are_none(self, folder: Path, path: str | None) -> None:
        self._point_to(folder, path)
        with pytest.raises(DatasetError, match=r"row 2: expected a picture"):
            StoreEpisodes(folder)[0].query_frame.image()

    def test_a_file_beyond_all_pictures(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.jpg").write_bytes(bytes(101))
        self._point_to(folder, str(tmp_path / "a.jpg"))
        monkeypatch.setattr("focus_env.datasets.store.LARGEST_FILE", 100)
        with pytest.raises(DatasetError, match=r"row 2: expected at most 100 bytes at .*a\.jpg, got more"):
            StoreEpisodes(folder)[0].query_frame.image()

    @staticmethod
    def _point_to(folder: Path, path: str | None) -> None:
        _rewrite(folder, "frames", lambda rows: rows[2].update(image=None, path=path), FRAMES)


class Turned(FakeDataset):
    """Its queries are of a file that EXIF turns upright."""

    def __init__(self, path: Path) -> None:
        super().__init__(2)
        exif = Image.Exif()
        exif[0x0112] = 6
        self.stored = np.random.default_rng(0).integers(256, size=(64, 48, 3), dtype=np.uint8)
        Image.fromarray(self.stored).save(path, "PNG", exif=exif)
        self.path = path

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        support = tuple(dataclasses.replace(e, frame=Frame("s", (64, 48), self.path)) for e in episode.support[:1])
        frame = Frame("q", (64, 48), self.path)
        return dataclasses.replace(episode, support=support, query_frame=frame, target_box=Box(40.0, 1.0, 64.0, 48.0))


@pytest.mark.parametrize("embeds", [True, False])
def test_pictures_are_upright_in_a_store(tmp_path: Path, embeds: bool) -> None:
    dataset = Turned(tmp_path / "turned.jpg")
    write_store(dataset, tmp_path / "store", source={}, embeds=embeds)
    episode = StoreEpisodes(tmp_path / "store")[0]
    np.testing.assert_array_equal(episode.query_frame.image(), np.rot90(dataset.stored, -1))
    assert_same_episode(episode, dataset[0])


class Odd(FakeDataset):
    """The second of three episodes has a box that is none."""

    def __init__(self, box: Box) -> None:
        super().__init__(3)
        self.box = box

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        return dataclasses.replace(episode, target_box=self.box) if index == 1 else episode


@pytest.mark.parametrize("box", [Box(NAN, 0, 1, 1), Box(9, 0, 1, 1), Box(0, 0, 81, 1)])
def test_a_writer_takes_no_box_that_is_none(tmp_path: Path, box: Box) -> None:
    with pytest.raises(ValueError, match="x must") as expected:
        validate_box(box, (80, 60), "x")
    with pytest.raises(DatasetError, match=r"target_box of episode 'fake/1' must") as raised:
        write_store(Odd(box), tmp_path / "a", source={})
    assert str(raised.value).removeprefix("target_box of episode 'fake/1'") == str(expected.value).removeprefix("x")
    write_store(Odd(box), tmp_path / "b", source={}, on_bad="skip")
    assert StoreEpisodes(tmp_path / "b").skipped == {"episodes_bad": 1}


def test_names_that_are_no_text(tmp_path: Path) -> None:
    class Named(FakeDataset):
        def __getitem__(self, index: int) -> Episode:
            return dataclasses.replace(super().__getitem__(index), identity="caf\udce9", category="\ud800")

    write_store(Named(2), tmp_path / "store", source={})
    episode = StoreEpisodes(tmp_path / "store")[0]
    assert (episode.identity, episode.category) == ("caf\\udce9", "\\ud800")


class Killed(BaseException):
    """What nobody catches."""


def test_a_writer_may_be_killed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, within and after each call that changes the folder."""
    monkeypatch.setattr(store_writer, "MAX_SHARD_EPISODES", 2)
    dataset = FakeDataset(3)
    write_store(dataset, tmp_path / "whole", source={})
    whole = _contents(tmp_path / "whole")
    left = itertools.count()

    def mortal(call: Callable[..., Any], half: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            for point in ("before", "within", "after"):
                if next(left) == 0:
                    if point == "within":
                        half(*arguments, **options)
                    raise Killed(point)
                if point == "within":
                    result = call(*arguments, **options)
            return result

        return run

    def half_text(path: Path, text: str, **options: Any) -> None:
        path.write_bytes(text[: len(text) // 2].encode())

    def half_table(table: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"PAR1")

    write_text, replace, mkdir, write_table = Path.write_text, os.replace, Path.mkdir, pq.write_table
    num_points = 0
    while True:
        left = itertools.count(-num_points)
        folder = tmp_path / f"killed-{num_points}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", mortal(write_text, half_text))
            patch.setattr(os, "replace", mortal(replace, lambda *_: None))
            patch.setattr(Path, "mkdir", mortal(mkdir, lambda *_, **__: None))
            patch.setattr(store_writer.pq, "write_table", mortal(write_table, half_table))
            try:
                write_store(dataset, folder, source={})
                break
            except Killed:
                num_points += 1
        write_store(dataset, folder, source={})
        assert _contents(folder) == whole, f"killed at point {num_points}"
    assert num_points > 40


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stray_files_do_not_keep_a_store_from_being_written(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("?")
    assert write_store(FakeDataset(2), tmp_path, source={}).num_shards == 1
