"""Picture files: the size at which they are shown, and what is decoded."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from focus_env.images import (
    REDUCTIONS,
    WORTH_REDUCING,
    decode,
    enlarged_wh,
    shown_wh,
)
from tests.focus_env.pictures import apart, as_file, detailed_picture
from tests.places import NO_REAL_FRAMES, REAL_FRAMES


class TestEnlargedSize:
    """What `enlarged_wh` promises."""

    @given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 3_000_000))
    @example(64, 48, 12_288)
    @example(1, 5000, 3_000_000)
    def test_at_least_so_many_pixels_and_no_more_than_needed(self, width: int, height: int, least: int) -> None:
        size = enlarged_wh((width, height), least)
        if width * height >= least:
            assert size == (width, height)
            return
        assert size[0] * size[1] >= least
        assert size[0] >= width
        assert size[1] >= height
        scale = math.sqrt(least / (width * height))
        assert size[0] <= math.ceil(width * scale + 1e-6)
        assert size[1] <= math.ceil(height * scale + 1e-6)

    def test_no_number(self) -> None:
        with pytest.raises(ValueError, match="min_pixels must be at least 1, or None for any number, got 0"):
            enlarged_wh((4, 4), 0)


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
            assert apart(pixels, picture.convert("RGB").resize(size)) < 2
        # A test of the test: a pixel to the side is another picture.
        shifted = np.roll(pixels, 1, axis=1)
        with Image.open(io.BytesIO(detailed)) as picture:
            assert apart(shifted, picture.convert("RGB").resize(size)) > 2

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
        encoded = as_file(detailed_picture(file_wh), quality=90)
        size = math.ceil(file_wh[0] / reduction), math.ceil(file_wh[1] / reduction)
        for image_wh in (size, (max(1, size[0] - 1), max(1, size[1] - 1))):
            assert decode(encoded, file_wh=file_wh, image_wh=image_wh, name="odd").shape == (*image_wh[::-1], 3)

    @pytest.mark.parametrize("side", [1025, 1028])
    def test_an_odd_size_is_not_stretched(self, side: int) -> None:
        # A bright bar near the right and lower ends, where a stretch shows most.
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[:, -40:-24, 0] = pixels[-40:-24, :, 1] = 240
        encoded = as_file(Image.fromarray(pixels), quality=95, subsampling=0)
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
        picture = detailed_picture((321, 181)).convert(mode)
        encoded = as_file(picture, kind)
        pixels = decode(encoded, file_wh=(321, 181), image_wh=image_wh, name=case)
        assert pixels.shape == (image_wh[1], image_wh[0], 3)
        with Image.open(io.BytesIO(encoded)) as opened:
            assert apart(pixels, opened.convert("RGB").resize(image_wh)) < 2

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
        assert apart(pixels, whole.reduce(reduction).resize(size)) < 1.25, path
