"""focus convert, and pictures of one's own in other commands, from their command lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from focus_agents.cli import convert
from focus_agents.cli.command_line import parse
from focus_agents.cli.data_arguments import TrainingDataArguments
from tests.focus_env.annotations.samples import as_json, boxed, coco, picture, scene


def run(*words: str | Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["focus convert", *map(str, words)])
        convert.main()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A COCO file with a good box, which has a track, and its picture."""
    picture(tmp_path / "mine/a.jpg")
    return as_json(tmp_path / "mine/x.json", coco(annotations=boxed(10, 20, 30, 20, track_id=7)))


def test_it_converts_and_counts(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(mine, tmp_path / "new" / "x.csv")
    assert (tmp_path / "new/x.csv").read_text().splitlines()[1] == "a.jpg,64,48,10,20,40,40,mug,7,,,,,"
    run(mine, tmp_path / "out", "--to", "yolo", "--copy-pictures")
    assert (tmp_path / "out/images/a.jpg").read_bytes() == (mine.parent / "a.jpg").read_bytes()
    run(tmp_path / "out", tmp_path / "back.jsonl")
    back = json.loads((tmp_path / "back.jsonl").read_text())
    assert (back["image"], back["objects"]) == ("images/a.jpg", [{"label": "mug", "box": [10, 20, 40, 40]}])
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines() == [
        f"{mine}: coco, 1 pictures, 1 boxes",
        f"{tmp_path}/new/x.csv: csv, 1 pictures, 1 boxes",
        f"{mine}: coco, 1 pictures, 1 boxes",
        f"{tmp_path}/out: yolo, 1 pictures, 1 boxes",
        "yolo has no place for: track: 1",
        f"{tmp_path}/out: yolo, 1 pictures, 1 boxes",
        f"{tmp_path}/back.jsonl: jsonl, 1 pictures, 1 boxes",
    ]


def test_bad_entries_are_all_named_and_nothing_is_written(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [one | {"id": number} for number, one in enumerate([*boxed(9, 9, -3, 3), *boxed(99, 9, 3, 3)] * 20)]
    as_json(mine, coco(annotations=[*bad, *boxed(10, 20, 30, 20)]))
    with pytest.raises(SystemExit, match="2"):
        run(mine, tmp_path / "x.csv")
    shown = capsys.readouterr().err
    assert f"error: {mine}, annotations[0]: expected x1 < x2 and y1 < y2, got x1=9, y1=9, x2=6, y2=12" in shown
    assert "error: and 20 more (boxes_reversed: 10, boxes_outside: 10)" in shown
    assert "got 40 that cannot (boxes_reversed: 20, boxes_outside: 20), and nothing was written" in shown
    assert "with --on-bad 'skip'" in shown
    assert not (tmp_path / "x.csv").exists()
    run(mine, tmp_path / "x.csv", "--on-bad", "skip")
    assert "left out: boxes_reversed: 20, boxes_outside: 20" in capsys.readouterr().out
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/no.json", "{tmp}/y.csv"], "no.json: expected annotations, found nothing"),
        (
            ["{mine}", "{mine}"],
            "x.json: expected a free path, found a file or folder there; choose another path, or pass --overwrite",
        ),
        (["{mine}", "{tmp}/y"], "expected one of the endings .json, .xml, .csv"),
        (["{mine}", "{tmp}/y", "--to", "coca"], "unknown annotation format 'coca'; there are coco, yolo"),
        (["{mine}", "{tmp}/y.csv", "--from", "voc"], "x.json: expected XML, got something else"),
        (
            ["{mine}", "{tmp}/y.csv", "--copy-pictures"],
            "annotation format 'csv' is one file: leave out --copy-pictures",
        ),
        (["{mine}", "{tmp}/y.csv", "--image-root", "{tmp}/no"], "expected the folder of the pictures"),
        (["{mine}", "{mine}/y.csv"], "error: target: expected a path that can be used"),
    ],
)
def test_wrong_arguments(
    words: list[str], message: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mine.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        run(*(word.format(mine=mine, tmp=tmp_path) for word in words))
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert mine.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_overwriting_when_asked(mine: Path) -> None:
    run(mine, mine, "--overwrite")
    assert json.loads(mine.read_text())["annotations"][0]["track_id"] == 7


def test_a_training_on_pictures_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training and validation are of different clips, and of random episodes; the commands say how."""
    images, annotations = [], []
    for number in range(24):
        clip = number // 4
        path = tmp_path / f"clip{clip}_{number}.png"
        scene(number).save(path)
        images.append({"id": number, "file_name": path.name, "width": 64, "height": 48})
        annotations += [one | {"id": number, "image_id": number} for one in boxed(number, 20, 30, 20)]
    as_json(tmp_path / "x.json", coco(images=images, annotations=annotations))
    words = ["--dataset", "coco", "--data-root", str(tmp_path), "--shots", "1", "--identity", "clip"]
    data = parse(TrainingDataArguments, None, words=words)
    training, validation = data.load_training(), data.load_validation()
    assert (len(training), len(validation)) == (400, 100)
    clips = [
        {episodes[i].identity.partition("/")[0] for i in range(len(episodes))} for episodes in (training, validation)
    ]
    assert [len(found) for found in clips] == [4, 1]
    assert not clips[0] & clips[1]
    assert (
        "split 'train': 6 clips (told by folders and names) split into 4 train, 1 val, 1 test; objects by their labels "
        "within a clip"
    ) in capsys.readouterr().err


def test_identity_is_of_labelled_pictures_alone() -> None:
    with pytest.raises(ValueError, match="identity: the data set 'got10k' has nothing that it could change"):
        parse(TrainingDataArguments, None, words=["--dataset", "got10k", "--data-root", "x", "--identity", "label"])
