"""Writing a store: shard by shard, and the manifest after each, all by renaming.

So a writer that is killed goes on where it was, and does nothing if nothing is left to do. What a store looks like is
in `focus_env.datasets.store`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from focus_env.boxes import validate_box
from focus_env.datasets.sampler import BadPolicy
from focus_env.datasets.store import MANIFEST_FILE, SCHEMA_VERSION, read_manifest, sha256
from focus_env.datasets.store_rows import EPISODES, FRAMES
from focus_env.errors import DatasetError
from focus_env.files import fresh_file, write_text
from focus_env.regular_files import open_regular
from focus_env.text_files import is_stray
from focus_env.types import Episode, EpisodeDataset, Frame, PictureBytes

MANIFEST_SCRATCH = f"{MANIFEST_FILE}.unfinished"
EPISODES_PER_GROUP = 256
"""Episodes that are read at once to get at one of them."""
FRAMES_PER_GROUP = 4
MAX_SHARD_EPISODES = 10_000
MAX_SHARD_BYTES = 256 * 2**20


class Outcome(NamedTuple):
    """The result of `write_store`: shards in all, and how many of them it found written."""

    num_shards: int
    num_found: int


def write_store(
    episodes: EpisodeDataset,
    folder: Path,
    *,
    source: Mapping[str, Any],
    embeds: bool = True,
    on_bad: BadPolicy = "raise",
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
        StorageError: If a file cannot be written; the call can be repeated once it can.
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
        """Add an episode, unless a box lies outside its picture, or a picture cannot be decoded."""
        self._num_read += 1
        _check_boxes(episode)
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
                "episode_id": _text(episode.episode_id),
                "identity": _text(episode.identity),
                "category": None if episode.category is None else _text(episode.category),
                "support_frame": [self._rows[frame.name] for frame in support_frames],
                "support_name": [_text(frame.name) for frame in support_frames],
                "support_wh": [frame.image_wh for frame in support_frames],
                "support_box": [exemplar.box for exemplar in episode.support],
                "support_note": [exemplar.note for exemplar in episode.support],
                "query_frame": self._rows[episode.query_frame.name],
                "query_name": _text(episode.query_frame.name),
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
            compression = "none" if kind == "frames" else "zstd"  # pictures are compressed already
            table = pa.Table.from_pylist(rows, schema=schema)
            with fresh_file(path) as scratch:
                pq.write_table(table, scratch, row_group_size=per_group, compression=compression)
                entry |= {f"{kind}_bytes": scratch.stat().st_size, f"{kind}_sha256": sha256(scratch)}
        return entry


def _check_boxes(episode: Episode) -> None:
    boxes = [(f"support {number}", e.box, e.frame) for number, e in enumerate(episode.support)]
    if episode.target_box is not None:
        boxes.append(("target_box", episode.target_box, episode.query_frame))
    for what, box, frame in boxes:
        try:
            validate_box(box, frame.image_wh, f"{what} of episode {episode.episode_id!r}")
        except ValueError as error:
            raise DatasetError(str(error)) from error


def _text(name: str) -> str:
    """Return a name as a store can have it: names of files may hold bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _encode(frame: Frame, *, embeds: bool) -> dict[str, Any]:
    """Return a row of the frames table. The picture is decoded once, which finds one that is damaged."""
    pixels = frame.image()
    if not embeds:
        if not isinstance(frame.source, Path) or frame.file_wh is not None:
            raise ValueError(
                f"frame {frame.name!r}: expected a picture file, shown at its own size, to name by path, got "
                f"{type(frame.source).__name__}; embed the pictures"
            )
        path = str(frame.source.resolve())
        if _text(path) != path:
            raise DatasetError(f"frame {frame.name!r}: expected a path that is text, got {path!r}; rename it, or embed")
        return {"name": _text(frame.name), "image": None, "path": path}
    source, is_file = frame.source, isinstance(frame.source, Path | PictureBytes)
    if frame.file_wh is None and isinstance(source, Path | PictureBytes):
        image = _content(source) if isinstance(source, Path) else source.read()
    else:
        buffer = io.BytesIO()
        if not is_file:
            Image.fromarray(pixels).save(buffer, "PNG")
        else:  # made smaller: its details are small as well, in colour too
            Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
        image = buffer.getvalue()
    return {"name": _text(frame.name), "image": image, "path": None}


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _start_manifest(folder: Path, description: Mapping[str, Any], skipped: Mapping[str, int]) -> dict[str, Any]:
    """Return the manifest of a store that was begun, or of a new one in an empty folder."""
    manifest: dict[str, Any]
    if not (folder / MANIFEST_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        # A writer that was killed at its first file has left a hidden one, or one of this name in earlier releases.
        names = sorted(path.name for path in folder.iterdir())
        if others := [name for name in names if name != MANIFEST_SCRATCH and not is_stray(name)]:
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
    write_text(folder / MANIFEST_FILE, json.dumps(manifest, indent=1) + "\n")
