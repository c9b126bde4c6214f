"""Picture files that are cut, damaged, too large or none."""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_env.errors import DatasetError
from focus_env.images import LARGEST_PICTURE, check_picture, decode, picture_wh
from tests.focus_env.pictures import as_file


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG of a few bytes that says it is that large."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + _chunk(b"IDAT", zlib.compress(bytes(10))) + _chunk(b"IEND", b"")
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8))
SOUND = as_file(NOISE)
SOUND_PNG = as_file(NOISE, "PNG")
LONG_TEXT = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10_000_000)))

BAD_FILES: list[tuple[str, bytes, str | None, str]] = [
    # what it is, what is in it, what picture_wh says (None: nothing, its head is sound), and decode
    ("empty", b"", r"expected a picture, got something else", r"expected a whole picture"),
    ("a text", b"<html>404</html>", r"got something else than JPEG, PNG", r"expected a whole picture: cannot identify"),
    ("cut in its head", SOUND[:30], r"expected a picture", r"expected a whole picture"),
    ("cut in the middle", SOUND[:-1000], None, r"expected a whole picture: .*truncated"),
    ("a PNG cut in its head", SOUND_PNG[:10], r"expected a picture", r"expected a whole picture"),
    ("a PNG cut in the middle", SOUND_PNG[:-4000], None, r"expected a whole picture"),
    ("a PNG with a head of no length", SOUND_PNG[:8] + _chunk(b"IHDR", b""), r"can be read: Truncated IHDR", r"IHDR"),
    ("a PNG with a long text", _png(60, 40, LONG_TEXT), r"can be read: .*too large", r"whole picture: .*too large"),
    (
        "a small picture",
        as_file(Image.new("RGB", (30, 20))),
        None,
        r"expected 60 x 40 pixels, got 30 x 20; put the picture there",
    ),
    ("a bomb", _png(60_000, 60_000), r"picture of a usual size.*3600000000", r"decompression bomb"),
    (
        "a bomb that Pillow lets pass",
        _png(9_000, 9_000),
        r"expected at most 64000000 pixels, got 9000 x 9000; it may be a decompression bomb, remove it",
        r"got 9000 x 9000; put the picture there",
    ),
    (
        "a picture of a kind that is not read",
        as_file(Image.new("RGB", (60, 40)), "TGA"),
        r"something else",
        r"identify",
    ),
    ("a program for a printer", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n", r"something else", r"identify"),
]


class TestBadFiles:
    """Each is named, and nothing but `DatasetError` comes out."""

    @pytest.mark.parametrize(("case", "content", "of_size", "of_pixels"), BAD_FILES, ids=[c for c, *_ in BAD_FILES])
    def test_they_are_named(
        self, tmp_path: Path, case: str, content: bytes, of_size: str | None, of_pixels: str
    ) -> None:
        path = tmp_path / "7.jpg"
        path.write_bytes(content)
        if of_size is None:
            picture_wh(path)
        else:
            with pytest.raises(DatasetError, match=rf"7\.jpg: .*{of_size}"):
                picture_wh(path)
        for source in (path, content):
            with pytest.raises(DatasetError, match=rf"picture 'x/7': .*({of_pixels})"):
                decode(source, file_wh=(60, 40), image_wh=(30, 20), name="x/7")
        with pytest.raises(DatasetError, match=r"7\.jpg: "):
            check_picture(path, (60, 40))

    @pytest.mark.parametrize("place", range(0, 60, 3))
    def test_a_byte_that_is_wrong_is_no_other_error(self, tmp_path: Path, place: int) -> None:
        path = tmp_path / "7.jpg"
        for sound in (SOUND, SOUND_PNG):
            for value in (0, 1, 127, 255):
                path.write_bytes(sound[:place] + bytes([value]) + sound[place + 1 :])
                for look in (picture_wh, lambda path: decode(path, file_wh=(60, 40), image_wh=(30, 20), name="7")):
                    with contextlib.suppress(DatasetError):
                        look(path)

    def test_a_size_that_is_said_is_not_believed(self) -> None:
        side = 1 + math.isqrt(LARGEST_PICTURE)
        with pytest.raises(DatasetError, match=rf"'big': expected at most 64000000 pixels, got {side} x {side}"):
            decode(_png(side, side), file_wh=(side, side), image_wh=(8, 8), name="big")

    def test_no_file(self, tmp_path: Path) -> None:
        path = tmp_path / "gone.jpg"
        with pytest.raises(DatasetError, match=r"gone\.jpg: expected a picture, found no file; unpack or copy"):
            picture_wh(path)
        with pytest.raises(DatasetError, match=r"picture 'g': expected the file .*gone\.jpg, found none; copy it"):
            decode(path, file_wh=(4, 4), image_wh=(4, 4), name="g")
        with pytest.raises(DatasetError, match=r"expected a picture that can be read: .*directory"):
            picture_wh(tmp_path)

    def test_a_sound_file_is_not_refused(self, tmp_path: Path) -> None:
        for name, content in (("a.jpg", SOUND), ("b.png", SOUND_PNG), ("c.JPEG", SOUND + bytes(600))):
            (tmp_path / name).write_bytes(content)
            assert picture_wh(tmp_path / name) == (60, 40)
            check_picture(tmp_path / name, (60, 40))

    @pytest.mark.parametrize(
        ("case", "name", "content", "match"),
        [
            ("no end", "7.jpg", SOUND[:-2], r"7\.jpg: expected a whole JPEG, got one without an end; copy it again"),
            ("no end", "7.JPEG", SOUND[:-2], r"7\.JPEG: expected a whole JPEG"),
            ("half of it", "7.jpg", SOUND[:-1000], r"expected a whole JPEG"),
            ("another size", "7.jpg", as_file(Image.new("RGB", (40, 60))), r"expected 60 x 40 pixels, got 40 x 60"),
            ("another size", "7.png", as_file(Image.new("L", (60, 41)), "PNG"), r"expected 60 x 40.*got 60 x 41"),
        ],
    )
    def test_check_picture(self, tmp_path: Path, case: str, name: str, content: bytes, match: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=match):
            check_picture(tmp_path / name, (60, 40))
