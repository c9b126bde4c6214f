"""Pictures of any mode and depth: 8 bits of sRGB over white, whether they lie in a file or in memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from focus_env.images import decode, read_picture
from tests.focus_env.pictures import Pixels, apart, as_file

ROWS, COLUMNS = np.mgrid[:12, :16]
COLOURED = np.stack([ROWS * 20, COLUMNS * 15, 255 - ROWS * 10 - COLUMNS * 8], axis=-1).astype(np.uint8)
RGB = Image.fromarray(COLOURED)
GREY = RGB.convert("L")
GREYS = np.array(GREY.convert("RGB"))
ALPHA = Image.fromarray(np.where(COLUMNS < 8, 0, 255).astype(np.uint8))
HALF_WHITE, HALF_WHITE_GREYS = COLOURED.copy(), GREYS.copy()
HALF_WHITE[:, :8] = HALF_WHITE_GREYS[:, :8] = 255
WIDE = GREYS[..., 0].astype(np.uint16) * 256 + 200


def _with_alpha(mode: str) -> Image.Image:
    picture = (GREY if "L" in mode else RGB).copy()
    picture.putalpha(ALPHA)
    return picture.convert(mode)


def _palette(*, hole: bool) -> Image.Image:
    """Two colours, of which one lets white through."""
    picture = Image.fromarray((COLUMNS < 8).astype(np.uint8))
    picture.putpalette([10, 200, 30, 90, 0, 0])
    if hole:
        picture.info["transparency"] = 1
    return picture


def _two(left: tuple[int, ...], right: tuple[int, ...]) -> Pixels:
    return np.where((COLUMNS < 8)[..., None], left, right).astype(np.uint8)


def _pa() -> Image.Image:
    picture = _palette(hole=False).convert("PA")
    picture.putalpha(ALPHA)
    return picture


def _lab() -> Image.Image:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    picture = ImageCms.applyTransform(RGB, to_lab)
    assert picture is not None
    return picture


def _numbers(values: np.ndarray, mode: str) -> Image.Image:
    picture = Image.fromarray(values)
    assert picture.mode == mode
    return picture


MODES: list[tuple[str, Callable[[], Image.Image], Pixels, float]] = [
    # mode, the picture, how a person sees it, and by how many grey levels it may be off in the mean
    ("1", lambda: GREY.point(lambda v: 255 * (v > 99)).convert("1"), np.where(GREYS > 99, 255, 0).astype(np.uint8), 0),
    ("L", lambda: GREY, GREYS, 0),
    ("LA", lambda: _with_alpha("LA"), HALF_WHITE_GREYS, 0),
    ("La", lambda: _with_alpha("LA").convert("La"), HALF_WHITE_GREYS, 0),
    ("P", lambda: _palette(hole=False), _two((90, 0, 0), (10, 200, 30)), 0),
    ("P with a hole", lambda: _palette(hole=True), _two((255,) * 3, (10, 200, 30)), 0),
    ("PA", _pa, _two((255,) * 3, (10, 200, 30)), 0),
    ("RGB", lambda: RGB, COLOURED, 0),
    ("RGBA", lambda: _with_alpha("RGBA"), HALF_WHITE, 0),
    ("RGBa", lambda: _with_alpha("RGBA").convert("RGBa"), HALF_WHITE, 0),
    ("RGBX", lambda: RGB.convert("RGBX"), COLOURED, 0),
    ("CMYK", lambda: RGB.convert("CMYK"), COLOURED, 0),
    ("YCbCr", lambda: RGB.convert("YCbCr"), COLOURED, 2),
    ("HSV", lambda: RGB.convert("HSV"), COLOURED, 2),
    ("LAB", _lab, COLOURED, 3),
    ("I;16", lambda: _numbers(WIDE, "I;16"), GREYS, 0),
    ("I;16B", lambda: Image.frombytes("I;16B", (16, 12), WIDE.astype(">u2").tobytes()), GREYS, 0),
    ("I;16L", lambda: Image.frombytes("I;16L", (16, 12), WIDE.astype("<u2").tobytes()), GREYS, 0),
    ("I;16N", lambda: Image.frombytes("I;16N", (16, 12), WIDE.astype("=u2").tobytes()), GREYS, 0),
    ("I of 8 bits", lambda: GREY.convert("I"), GREYS, 0),
    ("I of 16 bits", lambda: _numbers(WIDE.astype(np.int32), "I"), GREYS, 0),
    ("I of 31 bits", lambda: _numbers(GREYS[..., 0].astype(np.int32) << 23, "I"), GREYS * (255 / GREYS.max()), 1),
    ("F of 8 bits", lambda: GREY.convert("F"), GREYS, 0),
    ("F of shares", lambda: _numbers(GREYS[..., 0].astype(np.float32) / 255, "F"), GREYS, 0),
    ("F of 16 bits", lambda: _numbers(WIDE.astype(np.float32), "F"), GREYS, 0),
    ("F of nothing", lambda: _numbers(np.full((12, 16), np.nan, np.float32), "F"), GREYS * 0, 0),
    ("F without end", lambda: _numbers(np.full((12, 16), -np.inf, np.float32), "F"), GREYS * 0, 0),
]


class TestModes:
    """Every mode of Pillow."""

    @pytest.mark.parametrize(("mode", "make", "expected", "tolerance"), MODES, ids=[mode for mode, *_ in MODES])
    def test_in_memory(self, mode: str, make: Callable[[], Image.Image], expected: Pixels, tolerance: float) -> None:
        pixels = read_picture(make())
        assert (pixels.shape, pixels.dtype) == ((12, 16, 3), np.uint8)
        assert apart(pixels, expected) <= tolerance

    @pytest.mark.parametrize(("mode", "make", "expected", "tolerance"), MODES, ids=[mode for mode, *_ in MODES])
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM"])
    def test_in_a_file(
        self, kind: str, mode: str, make: Callable[[], Image.Image], expected: Pixels, tolerance: float
    ) -> None:
        picture = make()
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        try:
            encoded = as_file(picture, kind, **options)
        except (OSError, ValueError, KeyError):
            return  # no file of this kind has this mode
        with Image.open(io.BytesIO(encoded)) as stored:
            is_same = stored.mode == picture.mode and "hole" not in mode
        pixels = decode(encoded, file_wh=(16, 12), image_wh=(16, 12), name=kind)
        assert pixels.shape == (12, 16, 3)
        if is_same and not (mode in ("I of 8 bits", "I of 31 bits") and kind in ("PNG", "PPM")):  # which have 16
            assert apart(pixels, expected) <= tolerance


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(depth: int, colour: int, row: bytes, *more: bytes) -> bytes:
    """A PNG of two pixels beside each other."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + pixels + _chunk(b"IEND", b"")


def _hole(*values: int) -> bytes:
    return _chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def _gamma(value: int) -> bytes:
    return _chunk(b"gAMA", struct.pack(">I", value))


TWO = b"\x03\xff\x64\x00"
"""Two pixels of 16 bits, or in their upper bytes 3 and 100."""

SMALL: list[tuple[str, bytes, list[int]]] = [
    ("1 bit, black is a hole", _png(1, 0, b"\x40", _hole(0)), [255, 255]),
    ("1 bit, white is a hole", _png(1, 0, b"\x40", _hole(1)), [0, 255]),
    ("2 bits", _png(2, 0, b"\x60"), [85, 170]),
    ("2 bits with a hole", _png(2, 0, b"\x60", _hole(1)), [255, 170]),
    ("4 bits with a hole", _png(4, 0, b"\x3a", _hole(3)), [255, 170]),
    ("8 bits with a hole", _png(8, 0, b"\x03\x64", _hole(3)), [255, 100]),
    ("16 bits", _png(16, 0, TWO), [3, 100]),
    ("16 bits with a hole", _png(16, 0, TWO, _hole(0x3FF)), [255, 100]),
    ("16 bits beside the hole", _png(16, 0, TWO, _hole(0x3FE)), [3, 100]),
    ("colours of 16 bits with a hole", _png(16, 2, TWO[:2] * 3 + TWO[2:] * 3, _hole(*[0x3FF] * 3)), [255, 100]),
    ("usual gamma", _png(8, 0, b"\x03\x64", _gamma(45455)), [3, 100]),
    ("linear", _png(8, 0, b"\x40\xff", _gamma(100_000)), [136, 255]),  # 255 * (64 / 255) ** (1 / 2.2)
    ("no gamma", _png(8, 0, b"\x03\x64", _gamma(0)), [3, 100]),
    ("sRGB, whatever the gamma", _png(8, 0, b"\x03\x64", _gamma(100_000), _chunk(b"sRGB", b"\0")), [3, 100]),
]


@pytest.mark.parametrize(("case", "encoded", "expected"), SMALL, ids=[case for case, *_ in SMALL])
def test_depths_holes_and_gamma_of_png(case: str, encoded: bytes, expected: list[int]) -> None:
    pixels = read_picture(encoded)
    assert pixels[0, :, 0].tolist() == expected
    assert (pixels == pixels[..., :1]).all()


def test_half_transparent_is_half_white() -> None:
    picture = Image.new("RGBA", (2, 1), (10, 100, 200, 51))
    white = Image.new("RGBA", (2, 1), "white")
    expected = Image.alpha_composite(white, picture).convert("RGB")
    assert apart(read_picture(as_file(picture, "PNG")), expected) <= 1


class TestAnimations:
    """The first frame."""

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_it_is_the_first(self, kind: str) -> None:
        frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "lime", "blue")]
        options = {"lossless": True} if kind == "WEBP" else {}
        encoded = as_file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        with Image.open(io.BytesIO(encoded)) as opened:
            assert getattr(opened, "n_frames", 1) == 3
        assert (read_picture(encoded) == [255, 0, 0]).all()


class TestProfiles:
    """ICC profiles, made here: one whose red and green are exchanged, and some that do not fit."""

    @pytest.fixture(scope="class")
    def srgb(self) -> bytes:
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    @pytest.fixture(scope="class")
    def exchanged(self, srgb: bytes) -> bytes:
        """An sRGB profile whose tags of red and green are each other's, under another name."""
        tags = srgb.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
        return tags.replace("sRGB".encode("utf-16-be"), "turn".encode("utf-16-be"))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
    def test_it_is_applied(self, exchanged: bytes, kind: str) -> None:
        picture = Image.new("RGB", (16, 16), (200, 30, 30))
        options = {"lossless": True} if kind == "WEBP" else {}
        pixels = read_picture(as_file(picture, kind, icc_profile=exchanged, **options))
        assert apart(pixels, Image.new("RGB", (16, 16), (30, 200, 30))) < 4
        alpha = Image.new("RGBA", (16, 16), (200, 30, 30, 0))
        if kind in ("PNG", "TIFF"):
            assert (read_picture(as_file(alpha, kind, icc_profile=exchanged)) == 255).all()
            palette = picture.convert("P", palette=Image.Palette.ADAPTIVE)
            assert read_picture(as_file(palette, kind, icc_profile=exchanged))[0, 0].argmax() == 1

    def test_srgb_changes_no_pixel(self, srgb: bytes) -> None:
        assert (read_picture(as_file(RGB, "PNG", icc_profile=srgb)) == COLOURED).all()

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "LA", "RGBA", "I;16"])
    @pytest.mark.parametrize("profile", [b"", b"no profile", b"\0" * 200])
    def test_one_that_is_none_is_left_aside(self, mode: str, profile: bytes) -> None:
        picture = RGB.convert(mode) if mode != "I;16" else Image.fromarray(WIDE)
        expected = read_picture(picture)
        picture.info["icc_profile"] = profile
        np.testing.assert_array_equal(read_picture(picture), expected)

    def test_one_of_another_kind_of_picture_is_left_aside(self, exchanged: bytes) -> None:
        picture = RGB.convert("CMYK")
        picture.info["icc_profile"] = exchanged
        assert (read_picture(picture) == COLOURED).all()
        grey = GREY.copy()
        grey.info["icc_profile"] = exchanged  # an RGB profile of a grey picture, as cameras write them
        assert apart(read_picture(grey), GREYS) < 4
