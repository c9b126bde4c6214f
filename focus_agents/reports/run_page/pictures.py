"""The small pictures of a report: drawn from data sets once, and kept in the run's folder from then on.

samples/pictures/training-12-0.png     the first support of training episode 12; its query has the last number
samples/pictures/training-12.json      where the supports' boxes are
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus_env.types import Episode, EpisodeDataset, ImageArray

SIDE = 320
"""Pixels of a picture's longer side at most."""
PLAIN_SIDE = 128
"""Pictures up to here are kept as they are, without loss."""
MOST_BYTES = 32 * 2**10
"""Of a picture's file."""
_KINDS = {".png": "image/png", ".jpg": "image/jpeg"}


def encode_picture(image: ImageArray, *, side: int = SIDE, most_bytes: int = MOST_BYTES) -> tuple[str, bytes]:
    """Encode a picture in few bytes.

    Args:
        image: [H, W, 3] uint8.
        side: Pixels of its longer side at most; larger ones are scaled down.
        most_bytes: What quality and size are lowered for, down to half the size.

    Returns:
        ".png" or ".jpg", and the file.
    """
    picture = Image.fromarray(image)
    if max(picture.size) <= PLAIN_SIDE:
        plain = io.BytesIO()
        picture.save(plain, "PNG", optimize=True)
        if plain.tell() <= most_bytes:
            return ".png", plain.getvalue()
    data = b""
    for size, quality in ((side, 82), (side, 60), (side // 2, 70), (side // 2, 40)):
        small, buffer = picture.copy(), io.BytesIO()
        small.thumbnail((size, size))
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        data = buffer.getvalue()
        if len(data) <= most_bytes:
            break
    return ".jpg", data


class PictureBook:
    """The pictures of a run's episodes, by data set ("training" or "validation"), index and place.

    Args:
        folder: The run's folder.
        episodes: The data sets by those names, as far as they are at hand; they are asked only for what is not kept.
    """

    def __init__(self, folder: Path, episodes: Mapping[str, EpisodeDataset] | None = None) -> None:
        self._folder, self._episodes = folder / "samples" / "pictures", dict(episodes or {})
        self._used: set[str] = set()
        self._missing: set[tuple[str, int]] = set()

    def uri(self, data: str, index: int, place: int) -> str | None:
        """Return a picture as a data URI; None where it is not to be had.

        Args:
            data: "training" or "validation".
            index: Of the episode.
            place: Of the picture: supports in their order, then the query.
        """
        name = f"{data}-{index}-{place}"
        file = self._find(name)
        if file is None and self._draw(data, index):
            file = self._find(name)
        if file is None:
            return None
        self._used |= {file.name, f"{data}-{index}.json"}
        try:
            return data_uri(file.read_bytes(), _KINDS[file.suffix])
        except OSError:
            return None

    def supports(self, data: str, index: int) -> list[Mapping[str, Any]]:
        """Return the supports of an episode, each with `box` and `image_wh`; none where they are not known."""
        file = self._folder / f"{data}-{index}.json"
        if not file.is_file() and not self._draw(data, index):
            return []
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["supports"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return found if isinstance(found, list) else []

    def forget_unused(self) -> None:
        """Remove the files that no call of `uri` has asked for."""
        for file in self._folder.glob("*-*.*"):
            if file.name not in self._used:
                with contextlib.suppress(OSError):
                    file.unlink()

    def _find(self, name: str) -> Path | None:
        return next((file for kind in _KINDS if (file := self._folder / f"{name}{kind}").is_file()), None)

    def _draw(self, data: str, index: int) -> bool:
        """Write the pictures of an episode; whether that was possible."""
        episodes = self._episodes.get(data)
        if episodes is None or (data, index) in self._missing:
            return False
        try:
            episode = episodes[index]
            self._folder.mkdir(parents=True, exist_ok=True)
            for place, image in enumerate(_images(episode)):
                kind, encoded = encode_picture(image)
                _write(self._folder / f"{data}-{index}-{place}{kind}", encoded)
            supports = [{"box": list(one.box), "image_wh": list(one.frame.image_wh)} for one in episode.support]
            _write(self._folder / f"{data}-{index}.json", json.dumps({"supports": supports}).encode())
        except Exception:  # of any data set; a report does without a picture
            self._missing.add((data, index))
            return False
        return True


def data_uri(data: bytes, kind: str) -> str:
    """Return a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _write(file: Path, data: bytes) -> None:
    """Write a file that is whole or not there; without waiting for the disk, since a lost one is drawn again."""
    scratch = file.with_name(f".{file.name}")
    scratch.write_bytes(data)
    scratch.replace(file)


def _images(episode: Episode) -> list[ImageArray]:
    frames = [exemplar.frame for exemplar in episode.support] + [episode.query_frame]
    return [np.asarray(frame.image()) for frame in frames]
