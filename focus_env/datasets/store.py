"""A store: any data set's episodes as Parquet files, quick to open and to read at random, however many there are.

    <store>/manifest.json                  what it was made of, its shards with their sizes and SHA-256
    <store>/episodes/part-00000.parquet    a row for each episode; see `focus_env.datasets.store_rows`
    <store>/frames/part-00000.parquet      a row for each picture of that shard's episodes

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

from focus_env.datasets.store_rows import ADVICE, EPISODES, episode_of
from focus_env.errors import DatasetError
from focus_env.picture_files import LARGEST_FILE
from focus_env.regular_files import open_regular, require_regular
from focus_env.text_files import inside, read_json
from focus_env.types import Episode, Frame

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"

COPY_ADVICE = "copy the store again, or write it again from its data set"
LARGEST_COUNT = 2**40
"""Of episodes, or of a file's bytes; a manifest that says more is no store's."""


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
                raise DatasetError(f"{path}: expected {shard[f'{kind}_bytes']} bytes, got {found}; {COPY_ADVICE}")
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
        number = index - self._starts[shard]
        row = _read_row(table, number, tuple(EPISODES.names))
        frames = self._root / "frames" / self._files[shard]
        changed = _changed(frames, number)

        def make_frame(name: str, image_wh: tuple[int, int], number: int) -> Frame:
            return Frame(name, image_wh, StoredPicture(frames, number, changed))

        return episode_of(row, where=f"{table}, row {number}", make_frame=make_frame)


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
        """Return the bytes of its file.

        Raises:
            DatasetError: If they cannot be read.
        """
        row = _read_row(self.path, self.row, ("image", "path"))
        if row["image"] is not None:
            return bytes(row["image"])
        where = f"{self.path}, row {self.row}"
        if not row["path"]:
            raise DatasetError(f"{where}: expected a picture, or the path of one, got neither; {ADVICE}")
        try:
            with open_regular(row["path"]) as file:
                content = file.read(LARGEST_FILE + 1)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise DatasetError(
                f"{where}: expected a picture at {row['path']}: {error}; put it there, or write the store again with "
                "the pictures in it"
            ) from error
        if len(content) > LARGEST_FILE:
            raise DatasetError(f"{where}: expected at most {LARGEST_FILE} bytes at {row['path']}, got more; {ADVICE}")
        return content


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a store's manifest.

    Raises:
        DatasetError: If there is none, or it is of another version.
    """
    path = folder / MANIFEST_FILE
    manifest: dict[str, Any] = read_json(path, advice="pass as `root` a folder that `write_store` has written")
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
        and all(type(shard.get(name)) is int and 0 <= shard[name] <= LARGEST_COUNT for name in numbers)
        and all(isinstance(shard.get(name), str) for name in names)
        for shard in shards
    )
    skipped = manifest.get("skipped")
    counts = skipped.values() if isinstance(skipped, dict) else [None]
    is_sound &= all(type(count) is int and count >= 0 for count in counts) and isinstance(manifest.get("source"), dict)
    if not is_sound:
        raise DatasetError(
            f"{path}: expected a manifest as it was written, got one that was changed; take it from where the store "
            "was copied from, or write the store again"
        )
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
            raise DatasetError(f"{path}: expected the bytes that were written, got others; {COPY_ADVICE}")
        yield path


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_row(path: Path, row: int, columns: tuple[str, ...]) -> dict[str, Any]:
    """Return a row of a table, whose row groups but for the last are of one size."""
    changed = _changed(path, row)
    try:
        group, position = divmod(row, _open(path, changed).metadata.row_group(0).num_rows)
        table = _read_group(path, changed, group, columns)
        values: dict[str, Any] = table.slice(position, 1).to_pylist()[0]
    # ValueError: also of bytes that are no text; the others: of tables of no row, or of less than the manifest says.
    except (OSError, IndexError, ArithmeticError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{path}, row {row}: expected to read it, got {error}; {COPY_ADVICE}") from error
    return values


def _changed(path: Path, row: int) -> int:
    """Return the time at which a table was written."""
    try:
        status = path.stat()
        require_regular(status, path)
    except OSError as error:
        raise DatasetError(f"{path}, row {row}: expected to read it, got {error}; {COPY_ADVICE}") from error
    return status.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _read_group(path: Path, changed: int, group: int, columns: tuple[str, ...]) -> pa.Table:
    """Return a row group of a file as it was at a time; the last few are kept."""
    table = _open(path, changed).read_row_group(group, columns=list(columns))
    if missing := sorted(set(columns) - set(table.column_names)):
        raise DatasetError(f"{path}: expected the column {missing[0]!r}, found none; {COPY_ADVICE}")
    return table


@functools.lru_cache(maxsize=128)
def _open(path: Path, changed: int) -> pq.ParquetFile:
    return pq.ParquetFile(path, memory_map=True)
