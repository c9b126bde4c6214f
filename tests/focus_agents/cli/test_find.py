"""`focus find`: what it prints and writes, and what it says to wrong arguments before any model is loaded."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from focus_agents.cli import find
from focus_agents.policies import vlm
from focus_env.annotations import LabelledBox, LabelledPicture, read_annotations, write_annotations
from focus_env.datasets import SyntheticDataset
from focus_env.rendering import write_picture
from focus_env.types import Box
from tests.focus_agents.finding.scenes import square, write


def run(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["focus find", *map(str, words)])
        find.main()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, corner in {"1.png": (8, 8), "2.png": (50, 30), "sub/1.png": (20, 40)}.items():
        write(tmp_path / "photos" / name, corner)
    (tmp_path / "photos/bad.jpg").write_text("no picture")
    (tmp_path / "photos/film.mp4").touch()
    write(tmp_path / "12:30, a.png", (30, 30))
    return tmp_path / "photos"


def test_it_says_what_it_does(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    support = f"{tmp_path}/12:30, a.png:30,30,46,46"
    run("--support", support, "--name", "mug", "--in", photos, "--out", tmp_path / "x.csv", "--policy", "center")
    shown = capsys.readouterr()
    *lines, pace = shown.out.splitlines()
    assert lines == [
        "looking for 'mug': 1 supports",
        f"in {photos}: 4 pictures",
        "passed over: 1 .mp4",
        "policy: center",
        "'mug': found 3",
        "1 of 4 pictures could not be read",
        f"{tmp_path}/x.csv: csv, 3 pictures, 3 boxes",
        f"names of pictures in it begin at {photos}",
    ]
    assert re.fullmatch(r"4 pictures in \d+\.\d s, \d+\.\d a second", pace)
    assert shown.err.splitlines()[0].startswith(f"cannot be read: {photos}/bad.jpg: expected a picture, got something")
    read = read_annotations(tmp_path / "x.csv", image_root=photos)
    assert [(one.label, one.box) for picture in read.pictures for one in picture.objects] == [
        ("mug", Box(32, 22, 48, 38))
    ] * 3


def test_objects_of_a_file_and_of_the_command_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    labels = [LabelledBox("cup", square((8, 8))), LabelledBox("cap", Box(1, 2, 3, 4))]
    write_annotations(tmp_path / "y.json", [LabelledPicture("photos/1.png", (80, 60), tuple(labels))])
    support = f"{tmp_path}/12:30, a.png:30,30,46,46:mug"
    run(
        "--supports", tmp_path / "y.json", "--name", "cup", "--support", support, "--in", photos / "2.png",
        photos / "1.png", "--out", tmp_path / "out", "--format", "yolo", "--copy-pictures",
        "--draw", tmp_path / "s.png",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "looking for 'cup': 1 supports" in out
    assert "policy: match, the best on real frames" in out
    assert f"drawn: {tmp_path}/s.png" in out
    assert 'names:\n  0: "mug"\n  1: "cup"\n' in (tmp_path / "out/data.yaml").read_text()
    assert (tmp_path / "out/images/1.png").read_bytes() == (photos / "1.png").read_bytes()
    read = read_annotations(tmp_path / "out", format="yolo")
    found = {(picture.name, one.label): one.box for picture in read.pictures for one in picture.objects}
    assert found["images/1.png", "cup"] == pytest.approx(square((8, 8)), abs=0.01)


def test_the_small_model_on_its_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is taken for pictures as it was trained on, encodes supports once, and says how sure it is."""
    episode = SyntheticDataset(split="test", level=1, image_size=64, shots=2)[0]
    words: list[object] = []
    for number, exemplar in enumerate(episode.support):
        write_picture(tmp_path / f"s{number}.png", exemplar.frame.image())
        words += ["--support", f"{tmp_path}/s{number}.png:{','.join(map(str, exemplar.box))}"]
    (tmp_path / "in").mkdir()
    for number in range(2):
        write_picture(tmp_path / f"in/{number}.png", episode.query_frame.image())
    run(*words, "--in", tmp_path / "in", "--out", tmp_path / "x.json")
    assert "policy: vlm:focus-small, trained on scenes of 64 x 64 pixels" in capsys.readouterr().out
    for entry in json.loads((tmp_path / "x.json").read_text())["annotations"]:
        assert 0 < entry["score"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--in", "{photos}"], "--support: expected a picture with a box, as in --support a.jpg:10,20,80,120"),
        (["--support", "{a}:30,30,46,46"], "--in: expected a folder, a pattern, pictures or a video"),
        (["--support", "{a}", "--in", "{photos}"], "expected PICTURE:x1,y1,x2,y2 with four numbers"),
        (["--support", "{a}:46,30,30,46", "--in", "{photos}"], "must be xyxy with x1 < x2"),
        (["--support", "{a}:30,30,46,99", "--in", "{photos}"], "must lie inside the image of (80, 60)"),
        (["--support", "{tmp}/no.png:1,2,3,4", "--in", "{photos}"], "no.png: expected a picture, found no file"),
        (["--support", "{a}:30,30,46,46", "--in", "{tmp}/no"], "found nothing"),
        (["--support", "{a}:30,30,46,46", "--in", "{photos}", "--out", "{a}"], "expected one of the endings"),
        (["--support", "{a}:30,30,46,46", "--in", "{photos}", "--out", "{tmp}/there.json"], "or pass --overwrite"),
        (["--support", "{a}:30,30,46,46", "--in", "{photos}", "--min-score", "2"], "--min-score"),
        (["--support", "{a}:30,30,46,46", "--in", "{photos}", "--shots", "2"], "without effect without --supports"),
        (["--support", "{a}:30,30,46,46", "--in", "{photos}", "--name", "a", "b"], "--name: expected one"),
        (["--supports", "{tmp}/no.json", "--in", "{photos}"], "no.json: expected annotations, found nothing"),
        (["--support", "{a}:1,2,3,4", "--in", "{photos}", "--policy", "vlm:no-such"], "expected one of focus-small"),
        (
            ["--support", "{a}:1,2,3,4", "--in", "{photos}", "--policy", "center", "--device", "cpu"],
            "without effect on",
        ),
        (
            ["--support", "{a}:1,2,3,4", "--in", "{photos}", "--out", "{tmp}/x.csv", "--copy-pictures"],
            "annotation format 'csv' is one file: leave out --copy-pictures",
        ),
        (["--support", "{a}:1,2,3,4", "--in", "{photos}/film.mp4"], "expected a video|need the package av"),
    ],
)
def test_wrong_arguments(
    words: list[str],
    message: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vlm, "VLMPolicy", None)
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "there.json").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match="2"):
        run(*(word.format(photos=photos, tmp=tmp_path, a=tmp_path / "12:30, a.png") for word in words))
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert any(part in shown for part in message.split("|")), shown
    assert sorted(tmp_path.rglob("*")) == before


def test_no_picture_that_can_be_read(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    support = f"{tmp_path}/12:30, a.png:30,30,46,46"
    with pytest.raises(SystemExit, match="1"):
        run("--support", support, "--in", photos / "bad.jpg", "--out", tmp_path / "x.csv", "--policy", "center")
    assert "error: no picture could be read; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
