"""A store: any data set's episodes as Parquet files, quick to open and to read at random, however many there are.

    <store>/manifest.json                  what it was made of, its shards with their sizes and SHA-256
    <store>/episodes/part-00000.parquet    a row for each episode; `EPISODES` is the schema
    <store>/frames/part-00000.parquet      a row for each picture of that shard's episodes; `FRAMES` is the schema

A shard's pictures are embedded once each, as the bytes of their files, or named by path. Both tables are plain Parquet,
which pandas or `ray.data.read_parquet` read too; columns `support_frame` and `query_frame` are rows of the frames' part
of the same number. `focus_env.datasets.store_writer` writes them.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from focus_env.datasets.readers.files import inside, read_json
from focus_env.errors import DatasetError
from focus_env.types import Box, Episode, Exemplar, Frame

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"

_WH = pa.list_(pa.int32(), 2)
_BOX = pa.list_(pa.float64(), 4)
EPISODES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("identity", pa.string()),
        ("category", pa.string()),
        ("support_frame", pa.list_(pa.int32())),
        ("support_name", pa.list_(pa.string())),
        ("support_wh", pa.list_(_WH)),
        ("support_box", pa.list_(_BOX)),
        ("support_note", pa.list_(pa.string())),
        ("query_frame", pa.int32()),
        ("query_name", pa.string()),
        ("query_wh", _WH),
        ("target_box", _BOX),
        ("target_note", pa.string()),
    ]
)
"""Boxes are `xyxy` in pixels, null where the object is absent; sizes are (width, height)."""
FRAMES = pa.schema([("name", pa.string()), ("image", pa.binary()), ("path", pa.string())])
"""`image` is an encoded picture, or null where `path` names its file."""


class StoreEpisodes:
    """The episodes of a store. To open it reads the manifest alone; to get an episode, one row group of one shard.

    Attributes:
        skipped: What was left out when it was written, by reason.

    Args:
        root: The store's folder.

    Raises:
        DatasetError: If there is no store, it was not finished, or a file of it is missing or has another size.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        manifest = read_manifest(self._root)
        if manifest.get("is_complete") is not True:
            raise DatasetError(
                f"{self._root}: expected a finished store, got one with {len(manifest['shards'])} shards so far; "
                "repeat the command that writes it"
            )
        for shard, kind in itertools.product(manifest["shards"], ("episodes", "frames")):
            path = inside(self._root, f"{kind}/{shard['file']}", where=str(self._root / MANIFEST_FILE))
            if not path.is_file() or path.stat().st_size != shard[f"{kind}_bytes"]:
                found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
                raise DatasetError(
                    f"{path}: expected {shard[f'{kind}_bytes']} bytes, got {found}; copy the store again"
                )
        self._files = [shard["file"] for shard in manifest["shards"]]
        counts = [shard["num_episodes"] for shard in manifest["shards"]]
        self._starts: list[int] = [0, *itertools.accumulate(counts)]
        self._skipped: dict[str, int] = manifest["skipped"]

    @property
    def skipped(self) -> Mapping[str, int]:
        """See the class."""
        return MappingProxyType(self._skipped)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int, /) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(f"episode index must be in 0 .. {len(self) - 1}, got {index}")
        shard = bisect.bisect_right(self._starts, index) - 1
        table = self._root / "episodes" / self._files[shard]
        row = _read_row(table, index - self._starts[shard], tuple(EPISODES.names))
        return _episode(row, self._root / "frames" / self._files[shard])


@dataclasses.dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture in a frames table.

    Attributes:
        path: The table.
        row: Where in it.
        changed: When the table was written, so that a picture of a later one is not taken for this.
    """

    path: Path
    row: int
    changed: int

    def read(self) -> bytes:
        """The bytes of its file.

        Raises:
            DatasetError: If they cannot be read.
        """
        row = _read_row(self.path, self.row, ("image", "path"))
        if row["image"] is not None:
            return bytes(row["image"])
        try:
            return Path(row["path"] or "").read_bytes()
        except OSError as error:
            raise DatasetError(
                f"{self.path}, row {self.row}: expected a picture at {row['path']}: {error}; write the store again, or "
                "with the pictures in it"
            ) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """A store's manifest.

    Raises:
        DatasetError: If there is none, or it is of another version.
    """
    path = folder / MANIFEST_FILE
    manifest: dict[str, Any] = read_json(path, advice="pass as root a folder that `write_store` has written")
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise DatasetError(
            f"{path}: expected a store of version {SCHEMA_VERSION}, got {version!r}; write it again with this release"
        )
    numbers = ("num_episodes", "num_read", "num_frames", "episodes_bytes", "frames_bytes")
    names = ("file", "episodes_sha256", "frames_sha256")
    shards = manifest.get("shards")
    is_sound = isinstance(shards, list) and all(
        isinstance(shard, dict)
        and all(type(shard.get(name)) is int and shard[name] >= 0 for name in numbers)
        and all(isinstance(shard.get(name), str) for name in names)
        for shard in shards
    )
    if not is_sound or not isinstance(manifest.get("skipped"), dict) or "source" not in manifest:
        raise DatasetError(f"{path}: expected a manifest as it was written, got one that was changed; copy it again")
    return manifest


def verify_store(folder: Path) -> Iterator[Path]:
    """Compare each file with its checksum.

    Yields:
        The files that are as they were written.

    Raises:
        DatasetError: At the first that is not.
    """
    for shard, kind in itertools.product(read_manifest(folder)["shards"], ("episodes", "frames")):
        path = folder / kind / shard["file"]
        if not path.is_file() or sha256(path) != shard[f"{kind}_sha256"]:
            raise DatasetError(f"{path}: expected what was written, got other bytes; copy the store again")
        yield path


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_row(path: Path, row: int, columns: tuple[str, ...]) -> dict[str, Any]:
    """A row of a table, whose row groups but for the last are of one size."""
    try:
        changed = path.stat().st_mtime_ns
        group, position = divmod(row, _open(path, changed).metadata.row_group(0).num_rows)
        table = _read_group(path, changed, group, columns)
    except (OSError, IndexError, pa.ArrowException) as error:
        raise DatasetError(f"{path}, row {row}: expected to read it, got {error}; copy the store again") from error
    values: dict[str, Any] = table.slice(position, 1).to_pylist()[0]
    return values


@functools.lru_cache(maxsize=8)
def _read_group(path: Path, changed: int, group: int, columns: tuple[str, ...]) -> pa.Table:
    """A row group of a file as it was at a time; the last few are kept."""
    table = _open(path, changed).read_row_group(group, columns=list(columns))
    if missing := sorted(set(columns) - set(table.column_names)):
        raise DatasetError(f"{path}: expected the column {missing[0]!r}, found none; copy the store again")
    return table


@functools.lru_cache(maxsize=128)
def _open(path: Path, changed: int) -> pq.ParquetFile:
    return pq.ParquetFile(path, memory_map=True)


def _episode(row: Mapping[str, Any], frames: Path) -> Episode:
    """A row as an episode; its pictures stay where they are."""
    changed = frames.stat().st_mtime_ns

    def frame(name: str, image_wh: list[int], number: int) -> Frame:
        return Frame(name, (image_wh[0], image_wh[1]), StoredPicture(frames, number, changed))

    columns = ("support_name", "support_wh", "support_frame", "support_box", "support_note")
    support = tuple(
        Exemplar(frame(name, image_wh, number), Box(*box), note)
        for name, image_wh, number, box, note in zip(*(row[column] for column in columns), strict=True)
    )
    return Episode(
        episode_id=row["episode_id"],
        support=support,
        query_frame=frame(row["query_name"], row["query_wh"], row["query_frame"]),
        target_box=None if row["target_box"] is None else Box(*row["target_box"]),
        identity=row["identity"],
        category=row["category"],
        target_note=row["target_note"],
    )
