"""What is looked through: every way to say it, in an order that people expect, and what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_agents.finding import sources, video
from focus_agents.finding.sources import list_sources
from focus_env.errors import MissingDependencyError
from tests.focus_agents.finding.scenes import scene, write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("frame_10.jpg", "frame_2.jpg", "sub/frame_2.jpg", "frame_2.png", "a, b: ü.JPG", ".hidden.jpg"):
        write(tmp_path / "photos" / name, (8, 8), format="PNG" if name.endswith("png") else "JPEG")
    (tmp_path / "photos/notes.txt").write_text("none")
    return tmp_path / "photos"


def names(*given: object) -> list[str]:
    return [source.name for source in list_sources(list(given)).files]


def test_a_folder(photos: Path) -> None:
    found = list_sources(photos)
    expected = ["a, b: ü.JPG", "frame_2.jpg", "frame_2.png", "frame_10.jpg", "sub/frame_2.jpg"]
    assert sorted(source.name for source in found.files) == sorted(expected)
    ordered = [source.name for source in found.files]
    assert ordered.index("frame_2.jpg") < ordered.index("frame_10.jpg")
    assert (found.root, found.count()) == (photos, 5)
    assert [shown.name for shown in found.read(3)] == ordered[3:]


def test_patterns_lists_and_files(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(f"{photos}/*.jpg") == ["frame_2.jpg", "frame_10.jpg"]
    assert set(names(f"{photos}/**/frame_2.*")) == {"frame_2.jpg", "frame_2.png", "sub/frame_2.jpg"}
    assert names(photos / "sub/frame_2.jpg") == ["frame_2.jpg"]
    assert set(names(photos / "frame_2.jpg", photos / "sub/frame_2.jpg", photos / "frame_2.jpg")) == {
        "frame_2.jpg", "sub/frame_2.jpg",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (photos / "list.txt").write_text(f"frame_2.jpg\n\n  sub/frame_2.jpg\r\n{photos}/frame_10.jpg\nphotos/frame_2.png\n")
    assert set(names("photos/list.txt")) == {"frame_2.jpg", "sub/frame_2.jpg", "frame_10.jpg", "frame_2.png"}
    write(tmp_path / "[x]*.jpg", (1, 1))
    assert names("[x]*.jpg") == ["[x]*.jpg"], "a file that is there is no pattern"


def test_pictures_that_cannot_be_read_are_shown_with_the_reason(photos: Path) -> None:
    (photos / "damaged.jpg").write_bytes((photos / "frame_2.jpg").read_bytes()[:200])
    (photos / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (photos / "gone.png").symlink_to(photos / "nothing.png")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "a:b.jpg").write_bytes((photos / "frame_2.jpg").read_bytes())
    (photos / "new\nline.jpg").write_bytes((photos / "frame_2.jpg").read_bytes())
    shown = {one.name: one.fault for one in list_sources(photos).read()}
    faults = {name: fault for name, fault in shown.items() if fault}
    assert sorted(faults) == ["a:b.jpg", "damaged.jpg", "gone.png", "new?line.jpg", "phone.heic", "pipe.jpg"]
    assert "expected a picture" in faults["phone.heic"]
    assert "rename the file" in faults["a:b.jpg"]
    assert "found no file" in faults["gone.png"]


def test_pictures_of_every_kind_are_as_people_see_them(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    scene((0, 0), (40, 20)).save(tmp_path / "turned.jpg", exif=turned)
    scene((0, 0)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((8, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    scene((0, 0)).save(tmp_path / "moves.gif", save_all=True, append_images=[scene(None)])
    (tmp_path / "link.png").symlink_to(tmp_path / "deep.png")
    shown = {one.name: one.image for one in list_sources(tmp_path).read()}
    assert {name: image is not None and image.shape for name, image in shown.items()} == {
        "cmyk.jpg": (60, 80, 3), "deep.png": (8, 9, 3), "link.png": (8, 9, 3), "moves.gif": (60, 80, 3),
        "turned.jpg": (40, 20, 3),
    }  # fmt: skip


def test_pictures_in_memory() -> None:
    pixels = np.asarray(scene((3, 4)))
    found = list_sources([scene((1, 2)), pixels])
    assert [(one.name, one.image is not None) for one in found.read()] == [
        ("picture_000000.png", True), ("picture_000001.png", True),
    ]  # fmt: skip
    assert list_sources(pixels).count() == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{tmp}/nothing", "expected a folder, a pattern, a picture, a video or a list of files, found nothing"),
        ("{tmp}/*.jpg", "expected a pattern of pictures or videos, found none"),
        ("{tmp}/*", "found none among the 3 that it matches"),
        ("{tmp}/empty", "expected a folder with pictures"),
        ("{tmp}/videos", "its 1 videos are searched only if you name them"),
        ("{tmp}/empty.txt", "expected a path in each line, found none"),
        ("https://x.org/a.jpg", "got an address; fetch the files first"),
        ([], "expected a folder, a pattern, files or a video to search, got none"),
    ],
)
def test_nothing_to_look_through(given: str | list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/x.MP4").touch()
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        list_sources(given.format(tmp=tmp_path) if isinstance(given, str) else given)


def test_a_video_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "x.mp4").touch()
    with pytest.raises(MissingDependencyError, match=r"pip install 'focus-localization\[video\]'"):
        list_sources(tmp_path / "x.mp4")
    assert video.num_frames(tmp_path / "x.mp4") is None


def test_frames_are_in_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.video, "load_av", lambda: None)
    for name in ("a.mp4", "a.mov", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    write(tmp_path / "c/1.jpg", (1, 1))
    found = names(*(tmp_path / name for name in ("a.mp4", "a.mov", "b.mp4", "c.mp4")), tmp_path / "c")
    assert sorted(found) == ["a.mov", "a.mp4", "b", "c.mp4", "c/1.jpg"]


def test_a_digest_tells_pictures_apart(photos: Path) -> None:
    before = list_sources(photos).digest()
    assert list_sources(photos).digest() == before
    write(photos / "frame_2.jpg", (30, 30))
    assert list_sources(photos).digest() != before
