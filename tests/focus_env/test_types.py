"""Frames: what they are made of, and what they show."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_env import images as pictures
from focus_env.errors import DatasetError
from focus_env.images import PictureCache
from focus_env.types import Frame
from tests.focus_env.pictures import detailed_picture, refuse


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
        monkeypatch.setattr("focus_env.types.decode", refuse)
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
        with pytest.raises(
            DatasetError,
            match=r"picture '7': expected 8 x 4 pixels, got 16 x 8; put the picture there that its boxes are for",
        ):
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
        picture = detailed_picture((64, 48))
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
