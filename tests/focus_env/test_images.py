"""Picture files: the size at which they are shown, what is decoded, what is refused, and what is remembered."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from focus_env import images as pictures
from focus_env.errors import DatasetError
from focus_env.images import (
    LARGEST_PICTURE,
    REDUCTIONS,
    WORTH_REDUCING,
    PictureCache,
    check_picture,
    decode,
    picture_wh,
    shown_wh,
)
from focus_env.types import Frame
from tests.places import NO_REAL_FRAMES, REAL_FRAMES

Pixels = npt.NDArray[np.uint8]


@functools.cache
def _waves_and_edges() -> Pixels:
    """Waves of many lengths and directions, and sharp edges: [721, 1287, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:721, 0:1287].astype(np.float32)
    pixels = np.full((721, 1287, 3), 110, np.float32)
    for channel in range(3):
        for _ in range(6):
            along_x, along_y = rng.uniform(0.006, 0.4, 2).astype(np.float32)
            pixels[..., channel] += 11 * np.sin(along_x * x + along_y * y)
    for _ in range(40):
        left, top, wide, high = rng.integers(1287), rng.integers(721), *rng.integers(5, 200, 2)
        pixels[top : top + high, left : left + wide] += rng.uniform(-70, 70, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _detailed(image_wh: tuple[int, int] = (1280, 720)) -> Image.Image:
    return Image.fromarray(_waves_and_edges()[: image_wh[1], : image_wh[0]])


def _encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _apart(one: Pixels, other: Image.Image | Pixels) -> float:
    """The mean difference in grey levels."""
    return float(np.abs(one.astype(float) - np.asarray(other).astype(float)).mean())


@pytest.fixture(scope="module")
def detailed() -> bytes:
    return _encoded(_detailed(), quality=90)


class TestShownSize:
    """What `shown_wh` promises."""

    sides = st.integers(1, 5000)
    budgets = st.integers(1, 3_000_000)

    @given(width=sides, height=sides, budget=budgets)
    @example(width=1000, height=1, budget=10)
    @example(width=1, height=4000, budget=1)
    @example(width=1919, height=1079, budget=960 * 540)
    def test_it_fits_and_keeps_the_shape(self, width: int, height: int, budget: int) -> None:
        shown = shown_wh((width, height), budget)
        assert 1 <= shown[0] <= width
        assert 1 <= shown[1] <= height
        assert shown[0] * shown[1] <= budget
        if width * height <= budget:
            assert shown == (width, height)
        else:
            # Each side is off by less than a pixel.
            assert abs(shown[0] / width - shown[1] / height) < 1 / width + 1 / height

    @given(width=sides, height=sides, budget=budgets)
    def test_no_pixel_is_wasted_but_for_rounding(self, width: int, height: int, budget: int) -> None:
        shown = shown_wh((width, height), budget)
        if shown == (width, height):
            return
        is_reduced = any(shown == (math.ceil(width / r), math.ceil(height / r)) for r in REDUCTIONS)
        is_worth_it = is_reduced and shown[0] * shown[1] >= WORTH_REDUCING * budget
        assert is_worth_it or (shown[0] + 1) * (shown[1] + 1) > budget

    @given(width=sides, height=sides, reduction=st.sampled_from(REDUCTIONS), share=st.floats(WORTH_REDUCING, 1))
    def test_a_half_is_taken_if_it_has_three_quarters_of_the_budget(
        self, width: int, height: int, reduction: int, share: float
    ) -> None:
        reduced = math.ceil(width / reduction), math.ceil(height / reduction)
        budget = math.floor(reduced[0] * reduced[1] / share)
        shown = shown_wh((width, height), budget)
        if width * height <= budget:
            assert shown == (width, height)
        else:
            # Where two would do, the smaller is tried first.
            candidates = [(math.ceil(width / r), math.ceil(height / r)) for r in REDUCTIONS]
            assert shown in candidates[: candidates.index(reduced) + 1]

    @pytest.mark.parametrize(
        ("image_wh", "budget", "expected"),
        [
            ((1280, 720), None, (1280, 720)),
            ((1280, 720), 1280 * 720, (1280, 720)),
            ((1280, 720), 1280 * 720 - 1, (1279, 719)),
            ((1280, 720), 230_400, (640, 360)),
            ((1280, 720), 307_200, (640, 360)),  # three quarters to the pixel
            ((1280, 720), 307_201, (739, 415)),
            ((1280, 720), 230_399, (639, 359)),
            ((1281, 721), 641 * 361, (641, 361)),
            ((1280, 720), 14_400, (160, 90)),
            ((40, 1), 3, (3, 1)),
            ((1, 40), 3, (1, 3)),
            ((3, 3), 1, (1, 1)),
            ((15, 15), 169, (13, 13)),  # 15 * sqrt(169 / 225) is less than 13 in floats
        ],
    )
    def test_by_hand(self, image_wh: tuple[int, int], budget: int | None, expected: tuple[int, int]) -> None:
        assert shown_wh(image_wh, budget) == expected

    @pytest.mark.parametrize("budget", [0, -1])
    def test_a_budget_of_nothing_is_refused(self, budget: int) -> None:
        with pytest.raises(ValueError, match=f"max_pixels must be at least 1, or None for any number, got {budget}"):
            shown_wh((4, 4), budget)


class TestDecoding:
    """The pixels that come out."""

    @pytest.mark.parametrize("budget", [1280 * 720, 600_000, 230_400, 100_000, 57_600, 20_000, 9_000])
    def test_it_is_the_picture_opened_and_resized(self, detailed: bytes, budget: int) -> None:
        size = shown_wh((1280, 720), budget)
        pixels = decode(detailed, file_wh=(1280, 720), image_wh=size, name="d")
        assert (pixels.shape, pixels.dtype) == ((size[1], size[0], 3), np.uint8)
        with Image.open(io.BytesIO(detailed)) as picture:
            assert _apart(pixels, picture.convert("RGB").resize(size)) < 2
        # A test of the test: a pixel to the side is another picture.
        shifted = np.roll(pixels, 1, axis=1)
        with Image.open(io.BytesIO(detailed)) as picture:
            assert _apart(shifted, picture.convert("RGB").resize(size)) > 2

    def test_a_size_that_is_not_reduced_is_exact(self, detailed: bytes) -> None:
        with Image.open(io.BytesIO(detailed)) as picture:
            whole = picture.convert("RGB")
        np.testing.assert_array_equal(decode(detailed, file_wh=whole.size, image_wh=whole.size, name="d"), whole)
        np.testing.assert_array_equal(
            decode(detailed, file_wh=whole.size, image_wh=(641, 361), name="d"), whole.resize((641, 361))
        )

    def test_a_jpeg_is_decoded_reduced(self, detailed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        # Resizing is what remains to do; where it has nothing to do, the decoder did it all.
        monkeypatch.delattr(Image.Image, "resize")
        for reduction in REDUCTIONS:
            size = 1280 // reduction, 720 // reduction
            assert decode(detailed, file_wh=(1280, 720), image_wh=size, name="d").shape == (size[1], size[0], 3)

    @pytest.mark.parametrize("file_wh", [(1287, 721), (1281, 719), (47, 31), (9, 9), (17, 3), (3, 200)])
    @pytest.mark.parametrize("reduction", [1, 2, 4, 8])
    def test_odd_sizes(self, file_wh: tuple[int, int], reduction: int) -> None:
        encoded = _encoded(_detailed(file_wh), quality=90)
        size = math.ceil(file_wh[0] / reduction), math.ceil(file_wh[1] / reduction)
        for image_wh in (size, (max(1, size[0] - 1), max(1, size[1] - 1))):
            assert decode(encoded, file_wh=file_wh, image_wh=image_wh, name="odd").shape == (*image_wh[::-1], 3)

    @pytest.mark.parametrize("side", [1025, 1028])
    def test_an_odd_size_is_not_stretched(self, side: int) -> None:
        # A bright bar near the right and lower ends, where a stretch shows most.
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[:, -40:-24, 0] = pixels[-40:-24, :, 1] = 240
        encoded = _encoded(Image.fromarray(pixels), quality=95, subsampling=0)
        image_wh = (math.ceil(side / 8),) * 2
        shown = decode(encoded, file_wh=(side, side), image_wh=image_wh, name="bar").astype(float)
        for profile in (shown[:100, :, 0].mean(axis=0), shown[:, :100, 1].mean(axis=1)):
            middle = (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
            assert middle / image_wh[0] == pytest.approx((side - 32) / side, abs=1 / side)

    @pytest.mark.parametrize(
        ("case", "mode", "kind"),
        [
            ("grey JPEG", "L", "JPEG"),
            ("CMYK JPEG", "CMYK", "JPEG"),
            ("PNG", "RGB", "PNG"),
            ("grey PNG", "L", "PNG"),
            ("PNG with a palette", "P", "PNG"),
            ("PNG with alpha", "RGBA", "PNG"),
            ("black and white PNG", "1", "PNG"),
            ("WebP", "RGB", "WEBP"),
        ],
    )
    @pytest.mark.parametrize("image_wh", [(321, 181), (161, 91), (100, 57)])
    def test_other_kinds(self, case: str, mode: str, kind: str, image_wh: tuple[int, int]) -> None:
        picture = _detailed((321, 181)).convert(mode)
        encoded = _encoded(picture, kind)
        pixels = decode(encoded, file_wh=(321, 181), image_wh=image_wh, name=case)
        assert pixels.shape == (image_wh[1], image_wh[0], 3)
        with Image.open(io.BytesIO(encoded)) as opened:
            assert _apart(pixels, opened.convert("RGB").resize(image_wh)) < 2

    def test_bytes_and_file_are_the_same(self, detailed: bytes, tmp_path: Path) -> None:
        path = tmp_path / "d.jpg"
        path.write_bytes(detailed)
        sizes = {"file_wh": (1280, 720), "image_wh": (640, 360)}
        np.testing.assert_array_equal(decode(path, name="a", **sizes), decode(detailed, name="b", **sizes))


@pytest.fixture(scope="module")
def real_frames() -> list[Path]:
    """The first frames of real videos, which are not part of the repository."""
    frames = sorted(REAL_FRAMES.glob("*/*/00000001.jpg"))
    if not frames:
        pytest.skip(NO_REAL_FRAMES)
    return frames


@pytest.mark.parametrize("share", [2.0, 3.7, 4.0, 9.0, 16.0, 40.0])
def test_real_frames_are_their_means_over_blocks(real_frames: list[Path], share: float) -> None:
    for path in real_frames:
        with Image.open(path) as picture:
            whole = picture.convert("RGB")
        size = shown_wh(whole.size, int(whole.width * whole.height / share))
        pixels = decode(path, file_wh=whole.size, image_wh=size, name=path.name)
        reduction = max(r for r in (1, *REDUCTIONS) if math.ceil(whole.width / r) >= size[0])
        # What the decoder leaves out, a mean over blocks leaves out too; a bicubic filter leaves out more, and is up
        # to 5 grey levels away just below a half and a quarter.
        assert _apart(pixels, whole.reduce(reduction).resize(size)) < 1.25, path


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG of a few bytes that says it is that large."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + _chunk(b"IDAT", zlib.compress(bytes(10))) + _chunk(b"IEND", b"")
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8))
SOUND = _encoded(NOISE)
SOUND_PNG = _encoded(NOISE, "PNG")
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
    ("a small picture", _encoded(Image.new("RGB", (30, 20))), None, r"expected 60 x 40 pixels, got 30 x 20; index"),
    ("a bomb", _png(60_000, 60_000), r"picture of a usual size.*3600000000", r"decompression bomb"),
    (
        "a bomb that Pillow lets pass",
        _png(9_000, 9_000),
        r"expected at most 64000000 pixels, got 9000 x 9000; it may be a decompression bomb, remove it",
        r"got 9000 x 9000; index",
    ),
    (
        "a picture of a kind that is not read",
        _encoded(Image.new("RGB", (60, 40)), "GIF"),
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
            ("another size", "7.jpg", _encoded(Image.new("RGB", (40, 60))), r"expected 60 x 40 pixels, got 40 x 60"),
            ("another size", "7.png", _encoded(Image.new("L", (60, 41)), "PNG"), r"expected 60 x 40.*got 60 x 41"),
        ],
    )
    def test_check_picture(self, tmp_path: Path, case: str, name: str, content: bytes, match: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=match):
            check_picture(tmp_path / name, (60, 40))


def _pixels(value: int, num_bytes: int = 300) -> Pixels:
    return np.full((num_bytes // 3, 1, 3), value, np.uint8)


def _refuse() -> Pixels:
    raise AssertionError("made again")


class TestCache:
    """What is remembered, and how much of it."""

    def test_what_was_asked_for_last_stays(self) -> None:
        cache = PictureCache(900)
        for key in (1, 2, 3):
            cache.get(key, lambda key=key: _pixels(key))  # type: ignore[misc]
        assert cache.num_bytes == 900
        assert cache.get(1, _refuse)[0, 0, 0] == 1
        cache.get(4, lambda: _pixels(4))
        assert cache.num_bytes == 900
        for key in (1, 3, 4):
            assert cache.get(key, _refuse)[0, 0, 0] == key
        with pytest.raises(AssertionError, match="made again"):
            cache.get(2, _refuse)

    @given(sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 500)), max_size=60), bound=st.integers(0, 1500))
    def test_the_bound_holds(self, sizes: list[tuple[int, int]], bound: int) -> None:
        cache = PictureCache(bound)
        for key, num_pixels in sizes:
            cache.get(key, lambda key=key, n=num_pixels: _pixels(key, 3 * n))  # type: ignore[misc]
            assert cache.num_bytes <= bound
            assert cache.num_bytes == sum(picture.nbytes for picture in cache._pictures.values())

    @pytest.mark.parametrize("bound", [0, 299])
    def test_what_is_too_large_is_not_kept_and_drives_nothing_out(self, bound: int) -> None:
        cache = PictureCache(bound)
        if bound:
            cache.get("small", lambda: _pixels(1, 30))
        assert cache.get("large", lambda: _pixels(7))[0, 0, 0] == 7
        with pytest.raises(AssertionError, match="made again"):
            cache.get("large", _refuse)
        assert cache.num_bytes == (30 if bound else 0)
        if bound:
            cache.get("small", _refuse)

    def test_another_bound(self) -> None:
        cache = PictureCache(900)
        for key in range(3):
            cache.get(key, lambda: _pixels(0))
        cache.max_bytes = 300
        cache.get(3, lambda: _pixels(3))
        assert cache.num_bytes == 300
        cache.get(3, _refuse)

    def test_two_who_make_the_same_at_once(self) -> None:
        cache = PictureCache(900)

        def make() -> Pixels:
            cache.get(1, lambda: _pixels(1))  # another thread is faster
            return _pixels(1)

        assert cache.get(1, make)[0, 0, 0] == 1
        assert cache.num_bytes == 300

    def test_an_error_leaves_nothing_behind(self) -> None:
        cache = PictureCache(900)
        with pytest.raises(AssertionError, match="made again"):
            cache.get(1, _refuse)
        assert cache.get(1, lambda: _pixels(1)).nbytes == cache.num_bytes == 300

    def test_threads(self) -> None:
        cache = PictureCache(2_000)
        together = threading.Barrier(8)

        def work(seed: int) -> None:
            together.wait()
            for key in np.random.default_rng(seed).integers(12, size=400).tolist():
                picture = cache.get(key, lambda key=key: _pixels(key, 30 * (key + 1)))  # type: ignore[misc]
                assert picture.nbytes == 30 * (key + 1)
                assert (picture == key).all()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert 0 < cache.num_bytes <= 2_000
        assert cache.num_bytes == sum(picture.nbytes for picture in cache._pictures.values())


@pytest.fixture
def recent(monkeypatch: pytest.MonkeyPatch) -> PictureCache:
    """An empty memory in place of the one that all tests share."""
    cache = PictureCache(2**20)
    monkeypatch.setattr("focus_env.types.RECENT", cache)
    return cache


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A picture in a store that counts how often it is read."""

    content: bytes
    reads: list[int] = dataclasses.field(default_factory=list, compare=False)

    def read(self) -> bytes:
        self.reads.append(1)
        return self.content


class TestFrame:
    """A frame, and what it remembers."""

    def test_a_file_that_changes_is_decoded_anew(self, tmp_path: Path, recent: PictureCache) -> None:
        path = tmp_path / "7.png"
        frame = Frame("7", (6, 4), path)
        for grey in (10, 200):
            Image.new("RGB", (6, 4), (grey,) * 3).save(path)
            os.utime(path, ns=(grey, grey))
            assert (frame.image() == grey).all()
        path.unlink()
        with pytest.raises(DatasetError, match=r"picture '7': expected the file .*7\.png, found none"):
            frame.image()

    def test_a_file_is_decoded_once(
        self, tmp_path: Path, recent: PictureCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "7.png"
        Image.new("RGB", (6, 4), (9, 9, 9)).save(path)
        Frame("7", (6, 4), path).image()
        monkeypatch.setattr("focus_env.types.decode", _refuse)
        assert (Frame("7", (6, 4), path).image() == 9).all()  # another frame of the same file
        assert recent.num_bytes == 6 * 4 * 3

    def test_one_may_write_into_the_result(self, tmp_path: Path, recent: PictureCache) -> None:
        path = tmp_path / "7.png"
        Image.new("RGB", (6, 4), (9, 9, 9)).save(path)
        pixels = np.full((4, 6, 3), 9, np.uint8)
        stored = _Stored(path.read_bytes())
        for frame in (
            Frame("file", (6, 4), path),
            Frame("store", (6, 4), stored),
            Frame("array", (6, 4), pixels),
            Frame("array", (6, 4), pixels).shrunk(6),
        ):
            for _ in range(3):  # made, remembered, and remembered once more
                image = frame.image()
                assert (image == 9).all()
                image[:] = 77
        assert len(stored.reads) == 1

    def test_what_is_remembered_is_of_the_size_that_is_wanted(self, tmp_path: Path, recent: PictureCache) -> None:
        path = tmp_path / "7.png"
        Image.new("RGB", (16, 8)).save(path)
        large = Frame("7", (16, 8), path)
        assert [frame.image().shape for frame in (large, large.shrunk(32), large)] == [
            (8, 16, 3),
            (4, 8, 3),
            (8, 16, 3),
        ]
        wrong = Frame("7", (8, 4), path)  # its file is no longer as large as this
        with pytest.raises(DatasetError, match=r"picture '7': expected 8 x 4 pixels, got 16 x 8; index"):
            wrong.image()

    def test_shrunk_again_it_still_knows_its_file(self, tmp_path: Path, detailed: bytes, recent: PictureCache) -> None:
        path = tmp_path / "7.jpg"
        path.write_bytes(detailed)
        whole = Frame("7", (1280, 720), path)
        once = whole.shrunk(230_400)
        twice = once.shrunk(57_600)
        assert [(f.image_wh, f.file_wh) for f in (whole, once, twice)] == [
            ((1280, 720), None), ((640, 360), (1280, 720)), ((320, 180), (1280, 720)),
        ]  # fmt: skip
        np.testing.assert_array_equal(twice.image(), whole.shrunk(57_600).image())
        twice.check()
        assert (twice.name, twice.source) == (whole.name, whole.source)

    @pytest.mark.parametrize("max_pixels", [None, 24, 100])
    def test_what_fits_stays_what_it_is(self, max_pixels: int | None) -> None:
        frame = Frame("7", (6, 4), np.zeros((4, 6, 3), np.uint8))
        assert frame.shrunk(max_pixels) is frame

    def test_arrays_shrink_too(self) -> None:
        picture = _detailed((64, 48))
        frame = Frame("7", (64, 48), np.array(picture))
        once = frame.shrunk(32 * 24)
        twice = once.shrunk(100)
        np.testing.assert_array_equal(once.image(), picture.resize((32, 24)))
        np.testing.assert_array_equal(twice.image(), picture.resize(twice.image_wh))
        assert (twice.image_wh, twice.file_wh) == ((11, 8), (64, 48))

    def test_what_is_stored_shrinks_too(self, detailed: bytes, recent: PictureCache) -> None:
        stored = _Stored(detailed)
        frame = Frame("7", (1280, 720), stored).shrunk(230_400)
        assert frame.image().shape == (360, 640, 3)
        frame.check()  # has nothing to say: the bytes are not at hand
        assert len(stored.reads) == 1

    def test_check_looks_at_the_size_of_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "7.png"
        Image.new("RGB", (16, 8)).save(path)
        Frame("7", (16, 8), path).shrunk(32).check()
        with pytest.raises(DatasetError, match=r"7\.png: expected 8 x 4 pixels, got 16 x 8"):
            Frame("7", (8, 4), path).check()


def test_the_shared_memory_has_a_bound() -> None:
    assert pictures.RECENT.max_bytes == 256 * 2**20
