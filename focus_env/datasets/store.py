"""A store: any data set's episodes as Parquet files, quick to open and to read at random, however many there are.

    <store>/manifest.json                  what it was made of, its shards with their sizes and SHA-256
    <store>/episodes/part-00000.parquet    a row for each episode; `EPISODES` is the schema
    <store>/frames/part-00000.parquet      a row for each picture of that shard's episodes; `FRAMES` is the schema

A shard's pictures are embedded once each, as the bytes of their files, or named by path. Both tables are plain Parquet,
which pandas or `ray.data.read_parquet` read too; column `support_frame` and `query_frame` are rows of the frames' part
of the same number.

`write_store` writes shard by shard and the manifest after each, all by renaming, so that it goes on where it was
killed, and does nothing if nothing is left to do.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from focus_env.datasets.files import read_json
from focus_env.errors import DatasetError
from focus_env.types import Box, Episode, EpisodeDataset, Exemplar, Frame

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"

EPISODES_PER_GROUP = 256
"""Episodes that are read at once to get at one of them."""
FRAMES_PER_GROUP = 4
MAX_SHARD_EPISODES = 10_000
MAX_SHARD_BYTES = 256 * 2**20

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
        if not manifest["is_complete"]:
            raise DatasetError(
                f"{self._root}: expected a finished store, got one with {len(manifest['shards'])} shards so far; "
                "repeat the command that writes it"
            )
        for shard, kind in itertools.product(manifest["shards"], ("episodes", "frames")):
            path = self._root / kind / shard["file"]
            if not path.is_file() or path.stat().st_size != shard[f"{kind}_bytes"]:
                found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
                raise DatasetError(
                    f"{path}: expected {shard[f'{kind}_bytes']} bytes, got {found}; copy the store again"
                )
        self._files = [shard["file"] for shard in manifest["shards"]]
        counts = [shard["num_episodes"] for shard in manifest["shards"]]
        self._starts: list[int] = [0, *itertools.accumulate(counts)]
        self.skipped: Mapping[str, int] = MappingProxyType(dict(manifest["skipped"]))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"skipped": dict(self.skipped)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"skipped": MappingProxyType(state["skipped"])})

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int, /) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(f"episode index must be in 0 .. {len(self) - 1}, got {index}")
        shard = bisect.bisect_right(self._starts, index) - 1
        group, position = divmod(index - self._starts[shard], EPISODES_PER_GROUP)
        row = _read_row(self._root / "episodes" / self._files[shard], group, position, tuple(EPISODES.names))
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
        group, position = divmod(self.row, FRAMES_PER_GROUP)
        row = _read_row(self.path, group, position, ("image", "path"))
        if row["image"] is not None:
            return bytes(row["image"])
        try:
            return Path(row["path"]).read_bytes()
        except OSError as error:
            raise DatasetError(
                f"{self.path}, row {self.row}: expected a picture at {row['path']}: {error}; write the store again, or "
                "with the pictures in it"
            ) from error


class Outcome(NamedTuple):
    """What `write_store` did: shards in all, and how many of them it found written."""

    num_shards: int
    num_found: int


def write_store(
    episodes: EpisodeDataset,
    folder: Path,
    *,
    source: Mapping[str, Any],
    embeds: bool = True,
    on_bad: str = "raise",
    on_episode: Callable[[int], None] = lambda num_done: None,
) -> Outcome:
    """Write a data set's episodes to a store, or go on with one.

    Args:
        episodes: What to write.
        folder: The store's folder; made if it is not there.
        source: Says what the episodes are, in JSON; a folder that holds those of another source is left alone.
        embeds: Whether pictures are embedded; else they are named by path, and have to stay where they are.
        on_bad: ``"raise"``, or ``"skip"`` to leave out and count episodes with a picture that cannot be decoded.
        on_episode: Called with the number of episodes done, for progress.

    Raises:
        DatasetError: If the folder holds something else, or a picture cannot be decoded.
        ValueError: If pictures without a file are not to be embedded.
    """
    description = json.loads(json.dumps({**source, "num_episodes": len(episodes), "embeds": embeds}))
    manifest = _start_manifest(folder, description, dict(getattr(episodes, "skipped", {})))
    num_found, num_done = len(manifest["shards"]), sum(shard["num_read"] for shard in manifest["shards"])
    on_episode(num_done)
    while num_done < len(episodes):
        shard = _Shard(embeds=embeds)
        for index in range(num_done, len(episodes)):
            try:
                shard.add(episodes[index])
            except DatasetError:
                if on_bad == "raise":
                    raise
                manifest["skipped"]["episodes_bad"] = manifest["skipped"].get("episodes_bad", 0) + 1
            num_done += 1
            on_episode(num_done)
            if shard.is_full:
                break
        name = f"part-{len(manifest['shards']):05d}.parquet"
        manifest["shards"].append({"file": name, **shard.write(folder, name)})
        _write_manifest(folder, manifest)
    manifest["is_complete"] = True
    _write_manifest(folder, manifest)
    return Outcome(len(manifest["shards"]), num_found)


def read_manifest(folder: Path) -> dict[str, Any]:
    """A store's manifest.

    Raises:
        DatasetError: If there is none, or it is of another version.
    """
    path = folder / MANIFEST_FILE
    manifest: dict[str, Any] = read_json(path, advice="pass as root a folder that prepare_data.py has written")
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise DatasetError(
            f"{path}: expected a store of version {SCHEMA_VERSION}, got {version!r}; write it again with this release"
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
        if not path.is_file() or _sha256(path) != shard[f"{kind}_sha256"]:
            raise DatasetError(f"{path}: expected what was written, got other bytes; copy the store again")
        yield path


class _Shard:
    """The rows of a shard that is being written."""

    def __init__(self, *, embeds: bool) -> None:
        self._embeds = embeds
        self._episodes: list[dict[str, Any]] = []
        self._frames: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, int] = {}
        self._num_read = 0
        self._num_bytes = 0

    @property
    def is_full(self) -> bool:
        return self._num_read >= MAX_SHARD_EPISODES or self._num_bytes >= MAX_SHARD_BYTES

    def add(self, episode: Episode) -> None:
        """Add an episode, unless one of its pictures cannot be decoded."""
        self._num_read += 1
        support_frames = [exemplar.frame for exemplar in episode.support]
        encoded = {
            frame.name: _encode(frame, embeds=self._embeds)
            for frame in (*support_frames, episode.query_frame)
            if frame.name not in self._frames
        }
        for name, row in encoded.items():
            self._rows[name] = len(self._frames)
            self._frames[name] = row
            self._num_bytes += len(row["image"] or b"")
        self._episodes.append(
            {
                "episode_id": episode.episode_id,
                "identity": episode.identity,
                "category": episode.category,
                "support_frame": [self._rows[frame.name] for frame in support_frames],
                "support_name": [frame.name for frame in support_frames],
                "support_wh": [frame.image_wh for frame in support_frames],
                "support_box": [exemplar.box for exemplar in episode.support],
                "support_note": [exemplar.note for exemplar in episode.support],
                "query_frame": self._rows[episode.query_frame.name],
                "query_name": episode.query_frame.name,
                "query_wh": episode.query_frame.image_wh,
                "target_box": episode.target_box,
                "target_note": episode.target_note,
            }
        )

    def write(self, folder: Path, name: str) -> dict[str, Any]:
        """Write both tables, and say what the manifest keeps of them."""
        entry: dict[str, Any] = {"num_episodes": len(self._episodes), "num_read": self._num_read}
        entry["num_frames"] = len(self._frames)
        tables = {
            "episodes": (self._episodes, EPISODES, EPISODES_PER_GROUP),
            "frames": (list(self._frames.values()), FRAMES, FRAMES_PER_GROUP),
        }
        for kind, (rows, schema, per_group) in tables.items():
            path = folder / kind / name
            path.parent.mkdir(exist_ok=True)
            scratch = path.with_suffix(".unfinished")
            compression = "none" if kind == "frames" else "zstd"  # pictures are compressed already
            table = pa.Table.from_pylist(rows, schema=schema)
            pq.write_table(table, scratch, row_group_size=per_group, compression=compression)
            entry |= {f"{kind}_bytes": scratch.stat().st_size, f"{kind}_sha256": _sha256(scratch)}
            os.replace(scratch, path)
        return entry


def _encode(frame: Frame, *, embeds: bool) -> dict[str, Any]:
    """A row of the frames table. The picture is decoded once, which finds one that is damaged."""
    pixels = frame.image()
    if not embeds:
        if not isinstance(frame.source, Path) or frame.file_wh is not None:
            raise ValueError(
                f"frame {frame.name!r}: expected a picture file, shown at its own size, to name by path, got "
                f"{type(frame.source).__name__}; embed the pictures"
            )
        return {"name": frame.name, "image": None, "path": str(frame.source.resolve())}
    if frame.file_wh is None and not isinstance(frame.source, np.ndarray):
        image = frame.source.read_bytes() if isinstance(frame.source, Path) else frame.source.read()
    else:
        buffer = io.BytesIO()
        if isinstance(frame.source, np.ndarray):
            Image.fromarray(pixels).save(buffer, "PNG")
        else:  # made smaller: its details are small as well, in colour too
            Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
        image = buffer.getvalue()
    return {"name": frame.name, "image": image, "path": None}


def _start_manifest(folder: Path, description: Mapping[str, Any], skipped: Mapping[str, int]) -> dict[str, Any]:
    """The manifest of a store that was begun, or of a new one in an empty folder."""
    manifest: dict[str, Any]
    if not (folder / MANIFEST_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        if others := sorted(path.name for path in folder.iterdir()):
            raise DatasetError(f"{folder}: expected an empty folder or a store, found {others[0]}; choose another")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "source": description,
            "is_complete": False,
            "skipped": dict(skipped),
            "shards": [],
        }
        _write_manifest(folder, manifest)
        return manifest
    manifest = read_manifest(folder)
    found = manifest["source"]
    if found != description:
        differing = sorted(key for key in description.keys() | found.keys() if description.get(key) != found.get(key))
        raise DatasetError(
            f"{folder}: expected to find a store of the same source, got one with another {', '.join(differing)}; "
            "choose another folder, or delete this one"
        )
    return manifest


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    scratch = folder / f"{MANIFEST_FILE}.unfinished"
    scratch.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(scratch, folder / MANIFEST_FILE)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_row(path: Path, group: int, position: int, columns: tuple[str, ...]) -> dict[str, Any]:
    """A row of a table."""
    try:
        table = _read_group(path, path.stat().st_mtime_ns, group, columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}, row group {group}: expected rows, got {error}; copy the store again") from error
    row: dict[str, Any] = table.slice(position, 1).to_pylist()[0]
    return row


@functools.lru_cache(maxsize=8)
def _read_group(path: Path, changed: int, group: int, columns: tuple[str, ...]) -> pa.Table:
    """A row group of a file as it was at a time; the last few are kept."""
    return _open(path, changed).read_row_group(group, columns=list(columns))


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
