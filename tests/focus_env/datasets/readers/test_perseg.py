"""PerSeg: what is read from pictures and masks, and what is made of files that are wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from focus_env.datasets import PerSegTracks, TrackEpisodes, dataset_names, load_dataset
from focus_env.datasets.readers.perseg import mask_box
from focus_env.errors import DatasetError
from focus_env.types import Box
from tests.contracts import assert_dataset_contract

SIZES = [(40, 30), (30, 40), (33, 21), (40, 30), (16, 16)]
BOXES = [Box(2.0, 3.0, 12.0, 9.0), Box(0.0, 0.0, 30.0, 40.0), Box(32.0, 20.0, 33.0, 21.0)] + 2 * [
    Box(5.0, 1.0, 6.0, 15.0)
]


def _mask(image_wh: tuple[int, int], box: Box | None, value: int = 255) -> npt.NDArray[np.uint8]:
    pixels = np.zeros((image_wh[1], image_wh[0]), np.uint8)
    if box is not None:
        x1, y1, x2, y2 = map(int, box)
        pixels[y1:y2, x1:x2] = value
    return pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree in the layout of PerSeg: "cat" and "can_2", five pictures each, of different sizes."""
    rng = np.random.default_rng(0)
    for name in ("cat", "can_2"):
        for kind in ("Images", "Annotations"):
            (tmp_path / kind / name).mkdir(parents=True)
        for number, (image_wh, box) in enumerate(zip(SIZES, BOXES, strict=True)):
            pixels = rng.integers(256, size=(image_wh[1], image_wh[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "Images" / name / f"{number:02d}.jpg")
            Image.fromarray(_mask(image_wh, box)).save(tmp_path / "Annotations" / name / f"{number:02d}.png")
    return tmp_path


def test_a_sound_object(root: Path) -> None:
    tracks = PerSegTracks(root)
    assert len(tracks) == 2
    assert [track.identity for track in tracks[:]] == ["can_2", "cat"]
    track = tracks[1]
    assert (track.identity, track.category, track.video) == ("cat", "cat", "")
    assert [frame.name for frame in track.frames] == [f"Images/cat/{number:02d}.jpg" for number in range(5)]
    assert [frame.image_wh for frame in track.frames] == SIZES
    assert track.frames[1].image().shape == (40, 30, 3)
    assert track.boxes == tuple(BOXES)
    assert [track.note(position) for position in range(5)] == [""] * 5


def _png(path: Path, mode: str) -> None:
    """The second box of `SIZES`' first picture as a PNG of a mode, with the value 1 where one can say so."""
    mask = _mask((40, 30), BOXES[0], 1)
    if mode == "1":
        picture = Image.fromarray(mask.astype(bool))
    elif mode == "P":
        picture = Image.fromarray(mask)
        picture.putpalette([0, 0, 0, 0, 0, 128])
    elif mode == "I;16":
        picture = Image.fromarray(mask.astype(np.uint16))
    else:
        bands = {"L": mask, "RGB": np.dstack([mask * 0, mask * 0, mask])}
        opaque = np.full_like(mask, 255)
        bands["RGBA"], bands["LA"] = np.dstack([bands["RGB"], opaque]), np.dstack([mask, opaque])
        picture = Image.fromarray(bands[mode])
    assert picture.mode == mode
    picture.save(path)


class TestMaskBox:
    """The box of a mask."""

    @pytest.mark.parametrize(
        ("case", "box"),
        [
            ("nothing", None),
            ("all of it", Box(0.0, 0.0, 7.0, 5.0)),
            ("a pixel in the first corner", Box(0.0, 0.0, 1.0, 1.0)),
            ("a pixel in the last corner", Box(6.0, 4.0, 7.0, 5.0)),
            ("a row", Box(2.0, 3.0, 6.0, 4.0)),
            ("a column", Box(2.0, 1.0, 3.0, 5.0)),
        ],
    )
    @pytest.mark.parametrize("value", [1, 128, 255])
    def test_it_is_the_tightest(self, tmp_path: Path, case: str, box: Box | None, value: int) -> None:
        path = tmp_path / "m.png"
        Image.fromarray(_mask((7, 5), box, value)).save(path)
        found = mask_box(path, image_wh=(7, 5))
        assert found == box
        assert found is None or all(type(side) is float for side in found)

    def test_parts_that_do_not_touch_are_one_object(self, tmp_path: Path) -> None:
        pixels = _mask((7, 5), None)
        pixels[1, 5] = pixels[3, 2] = 9
        Image.fromarray(pixels).save(tmp_path / "m.png")
        assert mask_box(tmp_path / "m.png", image_wh=(7, 5)) == Box(2.0, 1.0, 6.0, 4.0)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_any_kind_of_png(self, tmp_path: Path, mode: str) -> None:
        _png(tmp_path / "m.png", mode)
        assert mask_box(tmp_path / "m.png", image_wh=(40, 30)) == BOXES[0]


def test_an_empty_mask_is_no_box(root: Path) -> None:
    Image.fromarray(_mask(SIZES[2], None)).save(root / "Annotations" / "cat" / "02.png")
    track = PerSegTracks(root)[1]
    assert [box is None for box in track.boxes] == [False, False, True, False, False]
    assert track.note(2) == "no_size"
    episodes = load_dataset("perseg", split="test", root=root, shots=3)
    assert isinstance(episodes, TrackEpisodes)
    assert dict(episodes.skipped) == {"frames_no_size": 1}
    names = [exemplar.frame.name for exemplar in episodes[1].support]
    assert names == [f"Images/cat/{number:02d}.jpg" for number in (0, 1, 3)]


def test_pictures_are_not_decoded_before_they_are_asked_for_and_masks_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def load(picture: Image.Image) -> None:
        decoded.append(str(picture.format))

    tracks = PerSegTracks(root)
    with monkeypatch.context() as patch:
        patch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load)
        opened = [tracks[0], tracks[0], tracks[0:1][0]]
    assert decoded == []
    assert opened[0] is opened[1] is opened[2]
    for path in (root / "Annotations").rglob("*.png"):
        path.unlink()
    assert tracks[0].boxes == tuple(BOXES)
    assert pickle.loads(pickle.dumps(tracks))[0].boxes == tuple(BOXES)
    with pytest.raises(DatasetError, match=r"00\.jpg: expected a mask that goes with it, found none"):
        tracks[1]


def test_other_files_are_passed_over(root: Path) -> None:
    for name in ("Images/.DS_Store", "Images/readme.txt", "Images/cat/._00.jpg", "Images/cat/notes.txt"):
        (root / name).write_text("?")
    (root / "Annotations" / "cat" / ".01.png").write_text("?")
    (root / "Images" / ".cache").mkdir()
    assert [track.identity for track in PerSegTracks(root)[:]] == ["can_2", "cat"]


def _remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def _replace(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def _remove_folder(name: str) -> Callable[[Path], object]:
    def remove(root: Path) -> None:
        for path in (root / name).iterdir():
            path.unlink()
        (root / name).rmdir()

    return remove


def _empty_both(root: Path) -> None:
    for kind in ("Images", "Annotations"):
        for path in (root / kind / "cat").iterdir():
            path.unlink()


def _link_out(name: str) -> Callable[[Path], object]:
    def link(root: Path) -> None:
        outside = root.parent / f"{root.name}-outside"
        (root / name).rename(outside)
        (root / name).symlink_to(outside)

    return link


def _save(name: str, image_wh: tuple[int, int], kind: str = "PNG") -> Callable[[Path], object]:
    return lambda root: Image.new("L", image_wh, 255).save(root / name, kind)


def _cut(name: str) -> Callable[[Path], object]:
    def cut(root: Path) -> None:
        Image.fromarray(np.random.default_rng(0).integers(256, size=(30, 40), dtype=np.uint8)).save(root / name)
        (root / name).write_bytes((root / name).read_bytes()[:-600])

    return cut


MASK = "Annotations/cat/03.png"


@pytest.mark.parametrize(
    ("case", "spoil", "match"),
    [
        ("a picture without a mask", _remove(MASK), r"Images.cat.03\.jpg: expected a mask that goes with it, found"),
        ("a mask without a picture", _remove("Images/cat/04.jpg"), r"cat.04\.png: expected a picture that goes with"),
        ("no masks", _remove_folder("Annotations/cat"), r"Annotations.cat: expected a folder of \*\.png, found none"),
        ("no pictures", _remove_folder("Images/cat"), r"Images.cat: expected a folder of \*\.jpg, found none"),
        ("neither", _empty_both, r"Images.cat: expected pictures NN\.jpg, found none; pass as `root` the folder"),
        ("a wide mask", _save(MASK, (41, 30)), r"03\.png: expected a mask of 40 x 30 pixels.*got 41 x 30; copy both"),
        ("a turned mask", _save(MASK, (30, 40)), r"03\.png: expected a mask of 40 x 30 pixels.*got 30 x 40"),
        ("a mask of text", _replace(MASK, b"mask"), r"cat.03\.png: expected a picture, got something else"),
        ("an empty mask file", _replace(MASK, b""), r"cat.03\.png: expected a picture, got something else"),
        ("half a mask", _cut(MASK), r"cat.03\.png: expected a whole PNG: .*; copy it again"),
        ("a lossy mask", _save(MASK, (40, 30), "JPEG"), r"cat.03\.png: expected a whole PNG: cannot identify"),
        ("a picture of text", _replace("Images/cat/03.jpg", b"cat"), r"cat.03\.jpg: expected a picture, got something"),
        ("a mask elsewhere", _link_out(MASK), r"Annotations.cat: expected a path below .*a link to .*-outside; copy"),
        ("a picture elsewhere", _link_out("Images/cat/03.jpg"), r"Images.cat: expected a path below .*a link to"),
        ("an object elsewhere", _link_out("Images/cat"), r"Images: expected a path below .*a link to .*-outside; copy"),
        ("masks elsewhere", _link_out("Annotations/cat"), r"Annotations: expected a path below .*a link to"),
    ],
)
def test_malformed_objects_are_named(root: Path, case: str, spoil: Callable[[Path], object], match: str) -> None:
    spoil(root)
    tracks = PerSegTracks(root)
    assert tracks[0].identity == "can_2"
    with pytest.raises(DatasetError, match=match):
        tracks[1]
    with pytest.raises(DatasetError, match=match):  # at once, not when the episode is asked for
        load_dataset("perseg", split="test", root=root, shots=1)
    episodes = load_dataset("perseg", split="test", root=root, shots=1, on_bad="skip")
    assert isinstance(episodes, TrackEpisodes)
    assert (len(episodes), dict(episodes.skipped)) == (1, {"tracks_bad": 1})


@pytest.mark.parametrize("kind", ["Images", "Annotations"])
def test_wrong_folder_says_what_to_pass(tmp_path: Path, kind: str) -> None:
    (tmp_path / ({"Images", "Annotations"} - {kind}).pop()).mkdir()
    with pytest.raises(
        DatasetError, match=rf"{kind}: expected this folder, found none; pass as `root` the folder that"
    ):
        PerSegTracks(tmp_path)
    (tmp_path / kind).mkdir()
    with pytest.raises(DatasetError, match=r"Images: expected a folder for each object, found none; pass as `root`"):
        PerSegTracks(tmp_path)


@pytest.mark.parametrize("split", ["train", "val", ""])
def test_the_only_split_is_test(root: Path, split: str) -> None:
    match = rf"PerSeg split must be one of \('test',\), got '{split}'; it is for evaluation alone, pass split='test'"
    with pytest.raises(ValueError, match=match):
        PerSegTracks(root, split=split)
    with pytest.raises(ValueError, match=match):
        load_dataset("perseg", root=root, split=split)


def test_a_split_has_to_be_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'train'; it is for evaluation alone, pass split='test'"):
        load_dataset("perseg", root=root)


@pytest.mark.parametrize("protocol", ["focus", "iploc", "random"])
def test_contract(root: Path, protocol: str) -> None:
    assert "perseg" in dataset_names()
    episodes = load_dataset("perseg", split="test", root=str(root), shots=3, protocol=protocol)  # type: ignore[arg-type]
    assert_dataset_contract(episodes, shots=3)
    assert len(episodes) == (200 if protocol == "random" else 2)


def test_load_dataset_passes_its_arguments_on(root: Path) -> None:
    options = {"protocol": "random", "shots": 2, "episodes_per_track": 40, "min_gap": 2}
    episodes = load_dataset("perseg", split="test", root=root, **options)  # type: ignore[arg-type]
    assert len(episodes) == 80
    drawn = [{int(frame.name[-6:-4]) for frame in _frames(episode)} for episode in map(episodes.__getitem__, range(80))]
    assert all(numbers == {0, 2, 4} for numbers in drawn)


def _frames(episode: object) -> list[object]:
    return [*(exemplar.frame for exemplar in episode.support), episode.query_frame]  # type: ignore[attr-defined]
