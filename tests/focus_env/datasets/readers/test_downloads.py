"""Data sets as downloads have them: files that are usable are used, and what is damaged is named with what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from focus_env.datasets import Got10kTracks, LasotTracks, TrackEpisodes, load_dataset
from focus_env.errors import DatasetError
from focus_env.types import Track
from tests.focus_env.datasets.readers.writers import (
    write_got10k_sequence,
    write_lasot_lists,
    write_lasot_sequence,
)

BOXES = [f"{x},5.5,10,8" for x in range(6)]


class Layout:
    """A data set of the sequences "cup-1" and "cup-2", of which the second is spoilt."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind, self.root = kind, root
        if kind == "got10k":
            for name in ("cup-1", "cup-2"):
                write_got10k_sequence(root / "train", name, BOXES, [0] * 6, object_class="cup")
            self.list = root / "train" / "list.txt"
            self.list.write_text("cup-1\ncup-2\n")
            self.folder = self.frames = root / "train" / "cup-2"
            self.flags = self.folder / "absence.label"
        else:
            for name in ("cup-1", "cup-2"):
                write_lasot_sequence(root, name, BOXES)
            write_lasot_lists(root, train=["cup-1", "cup-2"], test=None)
            self.list = root / "training_set.txt"
            self.folder = root / "cup" / "cup-2"
            self.frames = self.folder / "img"
            self.flags = self.folder / "out_of_view.txt"
        self.boxes = self.folder / "groundtruth.txt"

    def tracks(self) -> list[Track]:
        reader = Got10kTracks if self.kind == "got10k" else LasotTracks
        return list(reader(self.root, split="train"))


@pytest.fixture(params=["got10k", "lasot"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    return Layout(request.param, tmp_path / "data")


def _facts(track: Track) -> tuple[object, ...]:
    return track.identity, track.boxes, track.notes, [frame.image_wh for frame in track.frames]


STRAY_FILES = (
    "._00000001.jpg", "._00000007.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "cover.jpg", "00000001 (1).jpg",
    "00000001.jpg.part", "notes.txt", "00000001.json",
)  # fmt: skip


def _litter(layout: Layout) -> None:
    for folder in (layout.root, layout.list.parent, layout.folder, layout.frames):
        for name in STRAY_FILES:
            (folder / name).write_bytes(b"\0\x05\x16\x07")
        for name in ("__MACOSX", ".git"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "._00000001.jpg").write_text("?")


def _with_boxes(text: str | bytes) -> Callable[[Layout], object]:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda layout: layout.boxes.write_bytes(content)


def _with_flags(text: str) -> Callable[[Layout], object]:
    lines = text if "\n" in text else text + "\n"
    return lambda layout: layout.flags.write_text(
        lines if layout.kind == "lasot" else lines.strip().rstrip(",").replace(",", "\r\n") + "\r\n\r\n"
    )


def _with_list(text: bytes) -> Callable[[Layout], object]:
    return lambda layout: layout.list.write_bytes(text)


def _rename(suffix: str) -> Callable[[Layout], object]:
    def rename(layout: Layout) -> None:
        for path in list(layout.frames.glob("0*.jpg")):
            path.rename(path.with_suffix(suffix))

    return rename


def _pngs(layout: Layout) -> None:
    for path in layout.frames.glob("0*.jpg"):
        with Image.open(path) as picture:
            picture.convert("RGB").save(path, "PNG")


def _joined(separator: str, end: str = "\n") -> str:
    return end.join(line.replace(",", separator) for line in BOXES) + end


USABLE: list[tuple[str, Callable[[Layout], object]]] = [
    ("nothing odd", lambda layout: None),
    ("stray files", _litter),
    ("tabs", _with_boxes(_joined("\t"))),
    ("blanks", _with_boxes(_joined("  "))),
    ("semicolons", _with_boxes(_joined("; "))),
    ("commas and blanks", _with_boxes(_joined(" , "))),
    ("lines of Windows", _with_boxes(_joined(",", "\r\n"))),
    ("lines of an old Mac", _with_boxes(_joined(",", "\r"))),
    ("a comma at each end", _with_boxes(_joined(",", ",\n"))),
    ("blank lines at the end", _with_boxes(_joined(",") + "\r\n \n\n\t\n")),
    ("no end of the last line", _with_boxes(_joined(",").rstrip())),
    ("a mark of UTF-8", _with_boxes(b"\xef\xbb\xbf" + _joined(",").encode())),
    ("UTF-32", _with_boxes(_joined(",").encode("utf-32"))),
    ("UTF-16 without its mark", _with_boxes(_joined(",").encode("utf-16-le"))),
    ("commas as wide as letters", _with_boxes(_joined("\uff0c").encode())),
    ("the end of a file of an old system", _with_boxes(_joined(",").encode() + b"\r\n\x1a")),
    ("zeros at the end", _with_boxes(_joined(",").encode() + b"\n\0\0")),
    ("UTF-16", _with_boxes(_joined(",").encode("utf-16"))),
    ("UTF-16 the other way", _with_boxes(b"\xfe\xff" + _joined(",").encode("utf-16-be"))),
    ("exponents, signs, points", _with_boxes("".join(f"+{x}.e0,.55E+1,1000e-2,8.\n" for x in range(6)))),
    ("flags that end with a comma", _with_flags("0,0,0,0,0,0,")),
    ("flags with points", _with_flags("0.0,0,0.000e+00,0,0,0")),
    ("no flags", lambda layout: layout.flags.unlink()),
    ("endings in capitals", _rename(".JPG")),
    ("longer endings", _rename(".jpeg")),
    ("PNG by name", lambda layout: (_pngs(layout), _rename(".png")(layout))),
    ("PNG called JPEG", _pngs),
    ("a list of Windows", _with_list(b"\xef\xbb\xbfcup-1\r\ncup-2\r\n\r\n")),
    ("a list in UTF-16", _with_list("cup-1\r\ncup-2\r\n".encode("utf-16"))),
    ("a list with blanks", _with_list(b" cup-1 \n\n\tcup-2\n")),
]


@pytest.mark.parametrize(("case", "change"), USABLE, ids=[case for case, _ in USABLE])
def test_usable_files_are_used(layout: Layout, case: str, change: Callable[[Layout], object]) -> None:
    expected = [_facts(track) for track in layout.tracks()]
    change(layout)
    tracks = layout.tracks()
    assert [_facts(track) for track in tracks] == expected
    assert len(tracks) == 2
    for frame in tracks[1].frames:
        frame.check()
        assert frame.image().shape == (30, 40, 3)


def test_two_files_of_one_frame_are_the_one_that_the_data_set_has(layout: Layout) -> None:
    (layout.frames / "00000002.JPG").write_text("?")
    (layout.frames / "00000002.png").write_text("?")
    assert [Path(frame.name).name for frame in layout.tracks()[1].frames][:2] == ["00000001.jpg", "00000002.jpg"]


def test_got10k_takes_a_name_once_and_does_without_what_is_optional(tmp_path: Path) -> None:
    layout = Layout("got10k", tmp_path)
    layout.list.write_text("cup-1\ncup-2\ncup-1\n")
    assert [track.identity for track in layout.tracks()] == ["cup-1", "cup-2"]
    meta = layout.folder / "meta_info.ini"
    meta.write_bytes(b"[METAINFO]\nvideo: caf\xe9 \xa9\nobject_class: canap\xe9\n")
    assert layout.tracks()[1].category == "canapé"
    meta.unlink()
    assert layout.tracks()[1].category is None


def test_got10k_without_a_list_has_all_sequences(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = Layout("got10k", tmp_path)
    layout.list.unlink()
    (tmp_path / "train" / "notes").mkdir()
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "train" / "__MACOSX" / "groundtruth.txt").write_text("?")
    assert [track.identity for track in layout.tracks()] == ["cup-1", "cup-2"]
    assert "list.txt: expected this file, found none; all 2 folders with boxes are taken" in caplog.text


def test_missing_flags_are_said_once(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    layout.flags.unlink()
    layout.tracks()
    layout.tracks()
    (record,) = caplog.records
    assert f"sequences without {layout.flags.name}, of which no frame counts as absent" in record.getMessage()


NUMBERS = r"groundtruth\.txt, line 2: expected x_min,y_min,width,height, got "
FINITE = r"groundtruth\.txt, line 2: expected four finite numbers, got "
LEAVE_OUT = r"correct the line, or leave the sequence out, with `on_bad` 'skip'$"

NO_BOXES: list[tuple[str, str, str]] = [
    ("an underscore", "1_0,6,20,15", NUMBERS + "'1_0,6,20,15'"),
    ("Arabic digits", "١٠,6,20,15", NUMBERS),
    ("wide digits", "１,6,20,15", NUMBERS),
    ("not a number", "nan,6,20,15", FINITE),
    ("without end", "1,-Infinity,20,15", FINITE),
    ("more than any float", "1,6,1e400,15", FINITE),
    ("a huge exponent", "1,6,1e300,15", FINITE),
    ("many digits", f"1,6,{'9' * 5000},15", FINITE),
    ("hexadecimal", "0x1,6,20,15", NUMBERS),
    ("a field too few", "1;6;20", NUMBERS),
    ("a field too many", "1 6 20 15 1", NUMBERS),
    ("an empty field", "1,,20,15", NUMBERS),
    ("two commas at the end", "1,6,20,15,,", NUMBERS),
    ("decimal commas", "1,5;6,5;20;15", NUMBERS),
    ("a comment", "# x,y,w,h", NUMBERS),
    ("a null", "1,6,20,15\0", NUMBERS),
]


@pytest.mark.parametrize(("case", "line", "match"), NO_BOXES, ids=[case for case, *_ in NO_BOXES])
def test_a_line_that_is_no_box_is_named(layout: Layout, case: str, line: str, match: str) -> None:
    layout.boxes.write_text("\n".join([BOXES[0], line, *BOXES[2:]]) + "\n")
    with pytest.raises(DatasetError, match=match + rf".*; {LEAVE_OUT}") as raised:
        layout.tracks()
    assert len(str(raised.value)) < 500


FILES: dict[str, Callable[[Layout], Path]] = {
    "boxes": lambda layout: layout.boxes,
    "flags": lambda layout: layout.flags,
    "list": lambda layout: layout.list,
    "first frame": lambda layout: layout.frames / "00000001.jpg",
    "meta": lambda layout: layout.folder / "meta_info.ini",
}


@pytest.mark.parametrize("file", FILES)
class TestFilesThatAreNone:
    """A pipe waits for ever, a device gives bytes for ever; a link out of the folder may lead to a secret."""

    def test_a_pipe(self, layout: Layout, file: str) -> None:
        path = FILES[file](layout)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        if (file, layout.kind) == ("meta", "lasot"):
            return  # which has none
        with pytest.raises(DatasetError, match=rf"{path.name}: expected .* a pipe \(FIFO\), no regular file"):
            layout.tracks()

    def test_a_link_out_of_the_folder(self, layout: Layout, file: str) -> None:
        path = FILES[file](layout)
        if (file, layout.kind) == ("meta", "lasot"):
            return
        outside = layout.root.parent / "outside"
        path.rename(outside)
        path.symlink_to(outside)
        with pytest.raises(
            DatasetError, match=rf"{path.name}: expected a path below .*, a link to .*outside; copy the"
        ):
            layout.tracks()

    def test_a_link_to_a_device(self, layout: Layout, file: str) -> None:
        path = FILES[file](layout)
        if (file, layout.kind) == ("meta", "lasot"):
            return
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(DatasetError, match=r"expected a path below .*, a link to /dev/zero"):
            layout.tracks()


def test_a_pipe_among_later_frames_is_left_out(layout: Layout) -> None:
    (layout.frames / "00000004.jpg").unlink()
    os.mkfifo(layout.frames / "00000004.jpg")
    with pytest.raises(DatasetError, match=r"a pipe \(FIFO\), no regular file"):
        layout.tracks()[1].frames[3].image()
    episodes = load_dataset(layout.kind, root=layout.root, shots=2, on_bad="skip")
    assert isinstance(episodes, TrackEpisodes)
    assert (len(episodes), dict(episodes.skipped)) == (1, {"tracks_bad": 1})
