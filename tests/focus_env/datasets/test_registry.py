"""Data sets by name: the built-in ones, and those that installed packages add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest

from focus_env import ENV_ID
from focus_env.datasets import DATASETS, DatasetEntry, dataset_names, datasets_help, load_dataset
from tests.fakes import FakeDataset
from tests.packages import install_package

LABELLED = ("coco", "yolo", "voc", "labelme", "labelstudio", "cvat", "csv", "jsonl", "folder")
BUILT_IN = ("synthetic", "got10k", "lasot", "tao", "perseg", "iploc_json", *LABELLED, "store")

PACKAGE = """
    from focus_env.datasets import DatasetEntry, track_dataset
    from focus_env.types import Box, Frame, Track
    from tests.fakes import FakeDataset, make_frame

    def load(root, request, *, num_episodes=4, **others):
        assert not others
        episodes = FakeDataset(num_episodes, shots=request.shots)
        episodes.root, episodes.request = root, request
        return episodes

    def read_tracks(root, *, split):
        box = Box(1.0, 2.0, 11.0, 12.0)
        frames = tuple(make_frame(f"{root}/{split}/{number}", (40, 32), box) for number in range(6))
        return [Track("mug", frames, (box,) * 6)]

    DRAWN = DatasetEntry(
        name="drawn", help="made up", load=load, options=("num_episodes",), needs_root=False, source="made up, not read"
    )
    FILES = DatasetEntry(name="files", help="two files", load=load, source="the folder of both files")
    TRACKS = track_dataset("tracks", read_tracks, help="one mug")
    SYNTHETIC = DatasetEntry(name="synthetic", help="not ours", load=load)
"""
ENTRIES = {"drawn": "data_of_test:DRAWN", "files": "data_of_test:FILES", "tracks": "data_of_test:TRACKS"}


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, **others: str) -> None:
    entries = {**ENTRIES, **others}
    install_package(monkeypatch, folder, "my-data", "focus_env.datasets", entries, modules={"data_of_test": PACKAGE})


@pytest.mark.parametrize("entry", DATASETS.built_in.values(), ids=DATASETS.built_in)
def test_help_has_a_line_for_each(entry: DatasetEntry) -> None:
    assert entry.help
    assert f"- {entry.name}: {entry.help}; " in datasets_help()


def test_the_built_in_names() -> None:
    assert dataset_names() == BUILT_IN
    assert [name for name, entry in DATASETS.built_in.items() if not entry.needs_root] == ["synthetic"]


class TestOfInstalledPackages:
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, tmp_path)

    def test_they_load_by_their_names(self, tmp_path: Path) -> None:
        drawn: Any = load_dataset("drawn", shots=3, seed=5, split="val", num_episodes=2)
        assert (len(drawn), len(drawn[0].support)) == (2, 3)
        assert drawn.root is None
        assert (drawn.request.split, drawn.request.seed, drawn.request.protocol) == ("val", 5, "focus")
        files: Any = load_dataset("files", root=tmp_path)
        assert files.root == tmp_path
        tracks = load_dataset("tracks", root="here", split="val", shots=2, protocol="random", episodes_per_track=7)
        assert len(tracks) == 7
        assert tracks[0].identity == "mug"
        assert tracks[0].query_frame.name.startswith("here/val/")

    def test_the_environment_knows_them(self) -> None:
        env = gymnasium.make(ENV_ID, dataset="drawn", dataset_options={"shots": 1, "num_episodes": 3})
        _, info = env.reset(options={"episode_index": 2})
        assert info["episode_id"] == "fake/2"

    def test_several_are_one(self, tmp_path: Path) -> None:
        joint = load_dataset("drawn:0.5,files:0.25,synthetic:0.25", root=tmp_path, shots=2, num_episodes=8, level=1)
        parts: Any = joint._datasets  # type: ignore[attr-defined]
        assert parts["drawn"].root is None
        assert dict(parts["drawn"].request.beside) == {"files": tmp_path / "files", "synthetic": None}
        assert parts["files"].root == tmp_path / "files"
        assert len(parts["synthetic"]) == 8

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("drawn", {"level": 2}, "data set 'drawn' has no option level; its own are num_episodes"),
            ("drawn", {"root": "x"}, "data set 'drawn' is made up, not read: leave out root, got 'x'"),
            ("files", {}, "data set 'files' is read from files: pass `root`, the folder of both files"),
            ("filse", {}, "unknown data set 'filse'; there are synthetic, .*store, drawn, files, tracks$"),
        ],
    )
    def test_wrong_arguments(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_dataset(name, **options)

    def test_they_are_listed(self) -> None:
        assert dataset_names() == (*BUILT_IN, "drawn", "files", "tracks")
        lines = datasets_help().splitlines()
        assert "- drawn: made up; made up, not read" in lines
        assert "- files: two files; read from the folder of both files" in lines


def test_a_broken_one_is_named_and_a_built_in_one_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, torn="no_such_module:X", synthetic="data_of_test:SYNTHETIC")
    fault = "data set 'torn' of my-data 1.0 cannot be used: importing 'no_such_module:X' raised ModuleNotFoundError"
    with pytest.warns(UserWarning, match="my-data 1.0 adds a data set 'synthetic', which is built in"):
        assert dataset_names() == (*BUILT_IN, "drawn", "files", "tracks")
    with pytest.warns(UserWarning, match="its own is ignored"), pytest.raises(ValueError, match=fault):
        load_dataset("torn")
    with pytest.warns(UserWarning, match="its own is ignored"):
        assert fault in datasets_help()
    assert not isinstance(load_dataset("synthetic", split="val", level=1), FakeDataset)
