"""The store: what is written comes back, whatever happens in between."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from focus_env.datasets import store_writer
from focus_env.datasets.store import StoredPicture, StoreEpisodes, verify_store
from focus_env.datasets.store_writer import write_store
from focus_env.datasets.transforms import ShrunkPictures
from focus_env.errors import DatasetError
from focus_env.types import Box, Episode, Exemplar, Frame
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.fakes import FakeDataset
from tests.kills import in_a_child, kill_at_each_call

SOURCE = {"dataset": "fake", "root": "/data"}


class PhotoDataset:
    """Episodes of 2 supports that share pictures: episode i has photos i and i + 1, and asks for photo i + 2."""

    def __init__(self, folder: Path, num_episodes: int = 5) -> None:
        folder.mkdir()
        rows, columns = np.mgrid[:30, :40]
        self.frames = []
        for number in range(num_episodes + 2):
            path = folder / f"{number}.jpg"
            pixels = np.stack([rows * 8, columns * 6, rows + columns + 20 * number], axis=-1).astype(np.uint8)
            Image.fromarray(pixels).save(path)
            self.frames.append(Frame(f"photos/{path.name}", (40, 30), path))
        self.skipped = {"tracks_too_short": 3}

    def __len__(self) -> int:
        return len(self.frames) - 2

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index}")
        first, second, query = self.frames[index : index + 3]
        return Episode(
            episode_id=f"e{index}",
            support=(
                Exemplar(first, Box(1.0, 2.0, 10.5, 20.0)),
                Exemplar(second, Box(0.0, 0.0, 40.0, 30.0), "flagged_absent"),
            ),
            query_frame=query,
            target_box=None if index == 1 else Box(0.1, 0.2, 0.3, 30.0),
            identity=f"dog-{index}",
            category=None if index == 2 else "dog",
            target_note="no_size" if index == 1 else "",
        )


@pytest.fixture
def photos(tmp_path: Path) -> PhotoDataset:
    return PhotoDataset(tmp_path / "photos")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two episodes a shard, and groups that end within a shard."""
    monkeypatch.setattr(store_writer, "MAX_SHARD_EPISODES", 2)


def _notes(episode: Episode) -> list[str]:
    return [*(exemplar.note for exemplar in episode.support), episode.target_note]


@pytest.mark.parametrize("embeds", [True, False])
def test_what_is_written_comes_back(photos: PhotoDataset, folder: Path, small_shards: None, embeds: bool) -> None:
    assert write_store(photos, folder, source=SOURCE, embeds=embeds) == (3, 0)
    episodes = StoreEpisodes(folder)
    assert len(episodes) == 5
    assert episodes.skipped == {"tracks_too_short": 3}
    for index in (4, 0, 3, 1, 2):
        assert_same_episode(episodes[index], photos[index])
        assert _notes(episodes[index]) == _notes(photos[index])
    assert_dataset_contract(episodes, shots=2)
    shutil.rmtree(photos.frames[0].source.parent)  # type: ignore[union-attr]
    if embeds:
        assert episodes[0].query_frame.image().shape == (30, 40, 3)
    else:
        store_only = dataclasses.replace(episodes[4].query_frame, name="new")
        with pytest.raises(DatasetError, match=r"part-00002\.parquet, row 2: expected a picture at .*6\.jpg"):
            store_only.source.read()  # type: ignore[union-attr]


def test_pictures_are_kept_once_and_as_they_were(photos: PhotoDataset, folder: Path) -> None:
    write_store(photos, folder, source=SOURCE)
    rows = pq.read_table(folder / "frames" / "part-00000.parquet").to_pylist()
    assert [row["name"] for row in rows] == [frame.name for frame in photos.frames]
    assert [row["image"] for row in rows] == [frame.source.read_bytes() for frame in photos.frames]  # type: ignore[union-attr]


def test_many_row_groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writer, "EPISODES_PER_GROUP", 3)
    monkeypatch.setattr(store_writer, "FRAMES_PER_GROUP", 2)
    monkeypatch.setattr(store_writer, "MAX_SHARD_EPISODES", 7)
    dataset = FakeDataset(17, with_absent=True)
    write_store(dataset, folder, source=SOURCE)
    assert pq.ParquetFile(folder / "episodes" / "part-00001.parquet").num_row_groups == 3
    episodes = StoreEpisodes(folder)
    for index in range(17):
        assert_same_episode(episodes[index], dataset[index])


def test_drawn_pictures_are_kept_exactly_and_smaller_ones_as_jpeg(photos: PhotoDataset, folder: Path) -> None:
    write_store(ShrunkPictures(photos, 300), folder, source=SOURCE)
    frame = StoreEpisodes(folder)[0].query_frame
    assert frame.image_wh == (20, 15)
    gap = np.abs(frame.image().astype(int) - photos[0].query_frame.shrunk(300).image())
    assert 0 < gap.mean() < 2
    assert pq.read_table(folder / "frames" / "part-00000.parquet")["image"][0].as_py()[:2] == b"\xff\xd8"


class Killed(Exception):
    pass


def test_a_killed_writer_goes_on(photos: PhotoDataset, folder: Path, small_shards: None, tmp_path: Path) -> None:
    def die(num_done: int) -> None:
        if num_done == 4:
            raise Killed

    with pytest.raises(Killed):
        write_store(photos, folder, source=SOURCE, on_episode=die)
    with pytest.raises(DatasetError, match="expected a finished store, got one with 1 shards so far; repeat"):
        StoreEpisodes(folder)
    first = folder / "episodes" / "part-00000.parquet"
    before = first.stat().st_mtime_ns
    seen: list[int] = []
    assert write_store(photos, folder, source=SOURCE, on_episode=seen.append) == (3, 1)
    assert seen == [2, 3, 4, 5]
    assert first.stat().st_mtime_ns == before
    write_store(photos, tmp_path / "whole", source=SOURCE)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()
    )
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@in_a_child
def test_a_writer_killed_at_any_of_its_calls_goes_on(folder: Path, small_shards: None, tmp_path: Path) -> None:
    photos = PhotoDataset(tmp_path / "few", num_episodes=3)

    def contents(store: Path) -> dict[str, bytes]:
        return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}

    write_store(photos, tmp_path / "whole", source=SOURCE)
    whole = contents(tmp_path / "whole")
    for where in kill_at_each_call(lambda: write_store(photos, folder, source=SOURCE)):
        write_store(photos, folder, source=SOURCE)
        assert contents(folder) == whole, where
        shutil.rmtree(folder)
    assert contents(folder) == whole


def test_a_killed_writer_has_not_forgotten_what_it_left_out(
    photos: PhotoDataset, folder: Path, small_shards: None, tmp_path: Path
) -> None:
    path = photos.frames[0].source
    assert isinstance(path, Path)
    path.write_bytes(b"no picture")

    def die(num_done: int) -> None:
        if num_done == 3:
            raise Killed

    with pytest.raises(Killed):
        write_store(photos, folder, source=SOURCE, on_bad="skip", on_episode=die)
    write_store(photos, folder, source=SOURCE, on_bad="skip")
    write_store(photos, tmp_path / "whole", source=SOURCE, on_bad="skip")
    assert StoreEpisodes(folder).skipped == {"tracks_too_short": 3, "episodes_bad": 1}
    assert _contents(folder) == _contents(tmp_path / "whole")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_to_write_it_again_does_nothing(photos: PhotoDataset, folder: Path) -> None:
    write_store(photos, folder, source=SOURCE)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert write_store(photos, folder, source=SOURCE) == (1, 1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before


def test_a_store_of_something_else_is_left_alone(photos: PhotoDataset, folder: Path, tmp_path: Path) -> None:
    write_store(photos, folder, source=SOURCE)
    with pytest.raises(DatasetError, match=r"expected to find a store of the same source, got one with another root"):
        write_store(photos, folder, source=SOURCE | {"root": "/elsewhere"})
    with pytest.raises(DatasetError, match="another embeds"):
        write_store(photos, folder, source=SOURCE, embeds=False)
    with pytest.raises(DatasetError, match=r"expected an empty folder or a store, found 0\.jpg"):
        write_store(photos, tmp_path / "photos", source=SOURCE)


def test_damaged_pictures(photos: PhotoDataset, folder: Path, tmp_path: Path) -> None:
    path = photos.frames[3].source
    assert isinstance(path, Path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"photos/3\.jpg.*expected a whole picture"):
        write_store(photos, folder, source=SOURCE)
    write_store(photos, tmp_path / "other", source=SOURCE, on_bad="skip")
    episodes = StoreEpisodes(tmp_path / "other")
    assert [episodes[index].episode_id for index in range(len(episodes))] == ["e0", "e4"]
    assert episodes.skipped == {"tracks_too_short": 3, "episodes_bad": 3}


def test_pictures_without_a_file_cannot_be_named_by_path(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"frame '0/support-0': expected a picture file.*got ndarray; embed"):
        write_store(FakeDataset(), folder, source=SOURCE, embeds=False)


def _edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_shard(folder: Path, **changes: object) -> None:
    (shard,) = json.loads((folder / "manifest.json").read_text())["shards"]
    _edit_manifest(folder, shards=[shard | changes])


@pytest.mark.parametrize(
    ("case", "spoil", "match"),
    [
        ("no store", lambda f: (f / "manifest.json").unlink(), r"manifest\.json: expected this file, found none; pass"),
        ("no JSON", lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json: expected JSON"),
        ("a list", lambda f: (f / "manifest.json").write_text("[]"), r"expected a store of version 1, got None"),
        ("a later version", lambda f: _edit_manifest(f, schema_version=2), r"version 1, got 2; write it again"),
        ("no shards", lambda f: _edit_manifest(f, shards=None), r"expected a manifest as it was written"),
        ("odd shards", lambda f: _edit_shard(f, num_episodes="5"), r"expected a manifest as it was written"),
        ("a shard elsewhere", lambda f: _edit_shard(f, file="../../x"), r"below .*, got 'episodes/\.\./"),
        ("cut short", lambda f: _cut(f / "frames/part-00000.parquet"), r"expected \d+ bytes, got 9 bytes; copy"),
        ("a part missing", lambda f: (f / "episodes/part-00000.parquet").unlink(), r"expected \d+ bytes, got no file"),
    ],
)  # fmt: skip
def test_damage_is_named(photos: PhotoDataset, folder: Path, case: str, spoil: Any, match: str) -> None:
    write_store(photos, folder, source=SOURCE)
    StoreEpisodes(folder)
    spoil(folder)
    with pytest.raises(DatasetError, match=match):
        StoreEpisodes(folder)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9])


def test_checksums(photos: PhotoDataset, folder: Path, small_shards: None) -> None:
    write_store(photos, folder, source=SOURCE)
    assert len(list(verify_store(folder))) == 6
    path = folder / "frames" / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    StoreEpisodes(folder)  # the size is right
    with pytest.raises(DatasetError, match=r"part-00001\.parquet: expected the bytes that were written, got others"):
        list(verify_store(folder))


def test_rows_that_cannot_be_read(photos: PhotoDataset, folder: Path) -> None:
    write_store(photos, folder, source=SOURCE)
    path = folder / "episodes" / "part-00000.parquet"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(DatasetError, match=r"part-00000\.parquet, row 0: expected to read it, got .*copy the store"):
        StoreEpisodes(folder)[0]


def test_a_store_that_is_written_anew_is_read_anew(photos: PhotoDataset, folder: Path) -> None:
    for count in (5, 3):
        photos.frames = photos.frames[::-1][: count + 2]
        write_store(photos, folder, source=SOURCE)
        assert_same_episode(StoreEpisodes(folder)[1], photos[1])
        shutil.rmtree(folder)


def test_rows_of_another_kind(photos: PhotoDataset, folder: Path) -> None:
    write_store(photos, folder, source=SOURCE)
    parts = [folder / kind / "part-00000.parquet" for kind in ("episodes", "frames")]
    table = pq.read_table(parts[0])
    changed = table.set_column(table.column_names.index("query_frame"), "query_frame", [[99] * 5])
    for path, rows in ((parts[0], changed), (parts[1], table)):
        pq.write_table(rows, path)
    _edit_shard(folder, episodes_bytes=parts[0].stat().st_size, frames_bytes=parts[1].stat().st_size)
    episode = StoreEpisodes(folder)[0]
    with pytest.raises(DatasetError, match=r"part-00000\.parquet, row 99: expected to read it, got .*copy the store"):
        episode.query_frame.image()
    with pytest.raises(DatasetError, match=r"part-00000\.parquet: expected the column 'image', found none"):
        episode.support[0].frame.image()


def test_it_travels_light(photos: PhotoDataset, folder: Path) -> None:
    write_store(photos, folder, source=SOURCE)
    episodes = StoreEpisodes(folder)
    assert len(pickle.dumps(episodes)) < 1000
    frame = pickle.loads(pickle.dumps(episodes[0])).query_frame
    assert isinstance(frame.source, StoredPicture)
    np.testing.assert_array_equal(frame.image(), photos[0].query_frame.image())
