"""Videos, read and written; needs the extra `video`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from focus_agents.finding import find, video
from focus_agents.finding.sources import list_sources
from focus_env.annotations import read_annotations
from focus_env.errors import DatasetError
from tests.focus_agents.finding.scenes import bright, scene, square

av = pytest.importorskip("av", reason="the extra `video` is not installed")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten frames in which a square moves to the right."""
    frames = [np.asarray(scene((4 * number, 20))) for number in range(10)]
    assert video.write_video(tmp_path / "clip.mp4", frames, Fraction(5)) == 10
    return tmp_path / "clip.mp4"


def test_frames_come_back(clip: Path) -> None:
    found = list(video.read_frames(clip, every=3))
    assert [number for number, _ in found] == [0, 3, 6, 9]
    for number, image in found:
        assert image.shape == (60, 80, 3)
        assert np.abs(image.astype(int) - np.asarray(scene((4 * number, 20)))).mean() < 12
    assert (video.num_frames(clip), video.num_frames(clip, 3), video.frame_rate(clip)) == (10, 4, 5)


def test_frames_of_an_open_file(clip: Path) -> None:
    with clip.open("rb") as file:
        assert len(list(video.read_frames(file))) == 10


def test_a_list_of_other_files_is_no_video(clip: Path, tmp_path: Path) -> None:
    """FFmpeg would open what a list names, whatever the list's own name says."""
    others = tmp_path / "list.mp4"
    others.write_text(f"ffconcat version 1.0\nfile {clip.name}\n")
    message = "list.mp4: expected a video in one of the containers mov, mp4, .*; convert it"
    with pytest.raises(DatasetError, match=message):
        list(video.read_frames(others))
    with others.open("rb") as file, pytest.raises(DatasetError, match="video: expected a video in one of"):
        list(video.read_frames(file))
    assert (video.num_frames(others), video.frame_rate(others)) == (None, video.USUAL_RATE)


CODECS = {
    ".webm": "libvpx",
    ".mpg": "mpeg1video",
    ".mpeg": "mpeg1video",
    ".wmv": "wmv2",
    ".flv": "flv1",
    ".ogv": "libvpx",
}
MUXERS = {
    ".m4v": "mp4", ".mpg": "mpeg", ".mpeg": "mpeg", ".wmv": "asf", ".mts": "mpegts", ".m2ts": "mpegts", ".ogv": "ogg",
}  # fmt: skip


@pytest.mark.parametrize("ending", video.ENDINGS)
def test_videos_of_each_ending_are_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{ending}"
    with av.open(str(path), "w", format=MUXERS.get(ending)) as container:
        stream = container.add_stream(CODECS.get(ending, "mpeg4"), rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        for level in range(10):
            pixels = np.full((60, 80, 3), 20 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert [round(image.mean(), -1) for _, image in video.read_frames(path)] == [*range(0, 200, 20)]


def test_a_frame_of_too_many_pixels_is_refused(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "LARGEST_PICTURE", 4799)
    with pytest.raises(DatasetError, match="expected at most 4799 pixels, got 80 x 60; remove it"):
        list(video.read_frames(clip))


def test_an_object_in_a_video(clip: Path, tmp_path: Path) -> None:
    support = [(scene((0, 20)), square((0, 20)))]
    found = find(support, clip, policy=bright(), every=2, out=tmp_path / "found.xml", video=tmp_path / "seen.mp4")
    assert [looked.name for looked in found.looked] == [f"clip/frame_{number:06d}.jpg" for number in range(0, 10, 2)]
    read = read_annotations(tmp_path / "found.xml")
    for picture, number in zip(read.pictures, range(0, 10, 2), strict=True):
        np.testing.assert_allclose(picture.objects[0].box, square((4 * number, 20)), atol=2.5)  # type: ignore[arg-type]
    assert (video.num_frames(tmp_path / "seen.mp4"), video.frame_rate(tmp_path / "seen.mp4")) == (5, Fraction(5, 2))
    assert [one.name for one in list_sources(clip, every=2).read(3)] == [
        "clip/frame_000006.jpg",
        "clip/frame_000008.jpg",
    ]


def test_pictures_of_several_sizes_are_one_clip(tmp_path: Path) -> None:
    frames = [np.full(shape, 99, np.uint8) for shape in [(31, 41, 3), (90, 10, 3), (62, 82, 3), (4000, 3000, 3)]]
    video.write_video(tmp_path / "x.mov", frames, video.USUAL_RATE)
    assert {image.shape for _, image in video.read_frames(tmp_path / "x.mov")} == {(32, 40, 3)}
    video.write_video(tmp_path / "y.mp4", frames[3:], video.USUAL_RATE)
    assert next(video.read_frames(tmp_path / "y.mp4"))[1].shape == (1920, 1440, 3)


def test_a_damaged_video_gives_what_can_be_decoded(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("no video")
    with pytest.raises(DatasetError, match=r"words.mp4: expected a video that can be decoded"):
        list(video.read_frames(tmp_path / "words.mp4"))
    faults = [one.fault for one in list_sources([clip, tmp_path / "words.mp4"]).read() if one.image is None]
    assert len(faults) == 1
