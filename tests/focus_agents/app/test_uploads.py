"""What people drop: names, kinds of files, and what is too much."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_agents.app import uploads
from focus_agents.app.uploads import free_name, is_video, read_upload
from focus_agents.finding.video import write_video
from focus_agents.serving import RefusedError
from focus_env.annotations.lookup import plain_name
from focus_env.images import read_picture
from tests.focus_agents.app.client import png
from tests.focus_agents.finding.scenes import scene

ROOM = 2**24


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose head says that it is large."""
    content = png(Image.new("L", (1, 1)))
    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("../../etc/passwd", [], "passwd"),
        ("..\\..\\boot.ini", [], "boot.ini"),
        ("/", [], "picture"),
        ("", [], "picture"),
        ("..", [], "picture"),
        (".jpg", [], "jpg"),
        ("a\0b\n.jpg", [], "a?b?.jpg"),
        ("C:a.jpg", [], "C_a.jpg"),
        ("a.jpg", ["A.png"], "a_2.jpg"),
        ("a.jpg", ["a.jpg", "a_2.jpg"], "a_3.jpg"),
        ("clip.mp4", ["clip/frame_000000.jpg"], "clip_2.mp4"),
        ("v1.2.mp4", ["v1.2/frame_000000.jpg"], "v1.2_2.mp4"),
        ("x" * 500 + ".jpg", [], "x" * 120 + ".jpg"),
    ],
)
def test_a_name_is_no_path_and_is_free(name: str, taken: list[str], expected: str) -> None:
    assert free_name(name, taken) == expected
    assert plain_name(expected) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.png: expected a picture or a video: cannot identify it as one of JPEG"),
        (b"hello", "a.png: expected a picture or a video: cannot identify it as one of JPEG"),
        (png(scene((8, 8)))[:-40], "a.png: expected a picture or a video: expected a whole picture"),
        (bomb(100_000, 100_000), "a.png: expected a picture or a video: Image size .* exceeds limit"),
        (bomb(9_000, 9_000), "a.png: expected a picture or a video: expected at most 64000000 pixels"),
        (b"\0\0\0\x18ftypheic" + bytes(64), "HEIC or AVIF, which is not read; save it as one of JPEG"),
        # A list of other files, which FFmpeg would open, whatever the name says.
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "a.png: expected a picture or a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "a.png: expected a picture or a video"),
    ],
)
def test_what_is_neither_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(RefusedError, match=message) as refusal:
        read_upload(content, "a.png", taken=[], room=ROOM)
    assert refusal.value.status == 415


def test_a_picture_is_as_a_person_sees_it() -> None:
    turned = Image.new("RGB", (40, 20), (200, 30, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    (one,), note = read_upload(png(turned, "JPEG", exif=exif), "a.jpg", taken=[], room=ROOM)
    assert (one.image_wh, one.pixels().shape, note) == ((20, 40), (40, 20, 3), "")
    assert read_picture(one.preview).shape == (40, 20, 3)


def test_a_large_picture_is_shown_smaller() -> None:
    (one,), _ = read_upload(png(Image.new("RGB", (3000, 1500))), "a.png", taken=[], room=ROOM)
    assert (one.image_wh, read_picture(one.preview).shape) == ((3000, 1500), (640, 1280, 3))


def test_what_has_no_room_is_refused() -> None:
    with pytest.raises(RefusedError, match="at most 0 MB more, got 0 MB; remove some") as refusal:
        read_upload(png(scene(None)), "a.png", taken=[], room=100)
    assert refusal.value.status == 413


def test_kinds_of_videos() -> None:
    for video in (b"\0\0\0\x20ftypisom", b"\0\0\0\x08wide", b"\x1aE\xdf\xa3....", b"RIFF....AVI LIST"):
        assert is_video(video)
    for other in (b"", b"RIFF....WEBPVP8 ", b"#EXTM3U", b"\0\0\0\x20ftypavif", png(scene(None))):
        assert not is_video(other)


class TestVideos:
    @pytest.fixture
    def clip(self, tmp_path: Path) -> bytes:
        pytest.importorskip("av", reason="the extra `video` is not installed")
        write_video(tmp_path / "c.mp4", [np.asarray(scene((4 * n, 20))) for n in range(10)], Fraction(5))
        return (tmp_path / "c.mp4").read_bytes()

    def test_its_frames_are_pictures(self, clip: bytes) -> None:
        found, note = read_upload(clip, "../c.mp4", taken=["c.png"], room=ROOM)
        assert [one.name for one in found] == [f"c_2/frame_{number:06d}.jpg" for number in range(10)]
        assert {one.clip for one in found} == {"c_2"}
        assert note == ""
        for number, one in enumerate(found):
            assert np.abs(one.pixels().astype(int) - np.asarray(scene((4 * number, 20)))).mean() < 12

    def test_of_a_long_one_frames_are_spread_evenly(self, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uploads, "MOST_FRAMES", 4)
        found, note = read_upload(clip, "c.mp4", taken=[], room=ROOM)
        assert [one.name[-10:-4] for one in found] == ["000000", "000004", "000008"]
        assert note == "c.mp4: 3 of 10 frames are taken, each 4th"

    def test_one_that_takes_too_long_is_cut(self, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uploads, "MOST_SECONDS", 0.0)
        found, note = read_upload(clip, "c.mp4", taken=[], room=ROOM)
        assert len(found) == 1
        assert note == "c.mp4: the first 1 frames, decoded in 0 s, are taken; cut the video"

    def test_room_is_for_all_frames_together(self, clip: bytes) -> None:
        one = read_upload(clip, "c.mp4", taken=[], room=ROOM)[0][0]
        with pytest.raises(RefusedError, match="remove some"):
            read_upload(clip, "c.mp4", taken=[], room=3 * one.num_bytes)

    def test_a_damaged_one(self, clip: bytes) -> None:
        with pytest.raises(RefusedError, match=r"c\.mp4: video: expected a video that can be decoded") as refusal:
            read_upload(clip[:200], "c.mp4", taken=[], room=ROOM)
        assert refusal.value.status == 415
