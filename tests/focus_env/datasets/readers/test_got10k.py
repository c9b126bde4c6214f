"""GOT-10k: what is read from files, and what is made of files that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_env.datasets import Got10kTracks, dataset_names, load_dataset
from focus_env.datasets.sampler import TrackEpisodes
from focus_env.datasets.store_writer import write_store
from focus_env.errors import DatasetError
from focus_env.types import Box
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.focus_env.datasets.readers.writers import IMAGE_WH, write_got10k_sequence
from tests.places import NO_REAL_FRAMES, REAL_FRAMES

NOTES = {
    "flagged absent, though with a box": "flagged_absent",
    "flagged absent, without a box": "flagged_absent",
    "all zeros": "no_size",
    "no width": "no_size",
    "negative height": "negative_size",
    "no width, negative height": "negative_size",
    "outside to the right": "outside",
    "outside at the top left": "outside",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree in the layout of GOT-10k; sequences "a" and "b" for training, "c" for validation."""
    boxes = [f"{x}.0,5.0000,10.5,8.0" for x in range(6)]
    for split, names in (("train", ("a", "b")), ("val", ("c",))):
        for name in names:
            write_got10k_sequence(tmp_path / split, name, boxes, [0] * 6, object_class="polar bear")
        (tmp_path / split / "list.txt").write_text("\n".join(names) + "\n\n")
    return tmp_path


def test_a_sound_sequence(root: Path) -> None:
    tracks = Got10kTracks(root, split="train")
    assert len(tracks) == 2
    track = tracks[1]
    assert (track.identity, track.category) == ("b", "polar bear")
    assert [frame.name for frame in track.frames[:2]] == ["train/b/00000001.jpg", "train/b/00000002.jpg"]
    # The size is that of the files; meta_info.ini has it wrong here.
    assert {frame.image_wh for frame in track.frames} == {IMAGE_WH}
    assert track.frames[0].image().shape == (30, 40, 3)
    assert track.boxes == tuple(Box(float(x), 5.0, x + 10.5, 13.0) for x in range(6))
    assert [track.identity for track in tracks[:]] == ["a", "b"]


def test_frames_are_not_decoded_before_they_are_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    episode = load_dataset("got10k", root=root, shots=2)[0]
    with pytest.raises(AssertionError, match="a frame was decoded"):
        episode.query_frame.image()


@pytest.mark.parametrize(
    ("case", "line", "flag", "expected"),
    [
        ("flagged absent, though with a box", "5,5,10,10", 1, Box(5.0, 5.0, 15.0, 15.0)),
        ("flagged absent, without a box", "0,0,0,0", 1, None),
        ("all zeros", "0,0,0,0", 0, None),
        ("no width", "5,5,0,10", 0, None),
        ("negative height", "5,5,10,-3", 0, None),
        ("no width, negative height", "1,1,0,-3", 0, None),
        ("outside to the right", "40,5,10,10", 0, None),
        ("outside at the top left", "-20,-20,10,10", 0, None),
        ("reaching beyond two borders", "-2.5,25,10,10", 0, Box(0.0, 25.0, 7.5, 30.0)),
        ("as large as the picture", "0,0,40,30", 0, Box(0.0, 0.0, 40.0, 30.0)),
        ("spaces and exponents", " 1e0, 2 ,3.5 , 4", 0, Box(1.0, 2.0, 4.5, 6.0)),
        ("tiny", "5,5,0.25,0.25", 0, Box(5.0, 5.0, 5.25, 5.25)),
    ],
)
def test_boxes(tmp_path: Path, case: str, line: str, flag: int, expected: Box | None) -> None:
    write_got10k_sequence(tmp_path / "train", "odd", ["1,1,5,5", line], [0, flag], object_class="")
    (tmp_path / "train" / "list.txt").write_text("odd\n")
    track = Got10kTracks(tmp_path, split="train")[0]
    assert track.boxes == (Box(1.0, 1.0, 6.0, 6.0), expected)
    assert track.notes == ("", NOTES.get(case, ""))
    assert track.category is None


def _append(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def _replace(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("case", "spoil", "match"),
    [
        ("no boxes file", _remove("groundtruth.txt"), r"b.groundtruth\.txt: expected this file.*found none"),
        ("empty boxes", _replace("groundtruth.txt", "\n"), r"groundtruth\.txt: expected one line per frame"),
        (
            "no text",
            lambda f: (f / "groundtruth.txt").write_bytes(b"\xff\xfe1"),
            r"groundtruth\.txt: expected text",
        ),
        (
            "a box too many",
            _append("groundtruth.txt", "1,1,5,5\n"),
            r"absence\.label: expected 7 lines.*got 6",
        ),
        ("a flag too many", _append("absence.label", "0\n"), r"absence\.label: expected 6 lines.*got 7"),
        (
            "three numbers",
            _replace("groundtruth.txt", "1,1,5,5\n1,1,5\n"),
            r"groundtruth\.txt, line 2: expected x_min,y_min,width,height, got '1,1,5'",
        ),
        (
            "five numbers",
            _replace("groundtruth.txt", "1,1,5,5,0"),
            r"line 1: expected x_min.*got '1,1,5,5,0'",
        ),
        ("words", _replace("groundtruth.txt", "1,1,five,5"), r"line 1: expected x_min.*got '1,1,five,5'"),
        (
            "an empty line",
            _replace("groundtruth.txt", "1,1,5,5\n\n1,1,5,5"),
            r"line 2: expected x_min.*got ''",
        ),
        ("not a number", _replace("groundtruth.txt", "nan,1,5,5"), r"line 1: expected four finite numbers"),
        ("infinite", _replace("groundtruth.txt", "1,1,inf,5"), r"line 1: expected four finite numbers"),
        (
            "an odd flag",
            _replace("absence.label", "0\n0\n2\n0\n0\n0\n"),
            r"absence\.label, line 3: expected 0.*got '2'",
        ),
        ("a frame missing", _remove("00000003.jpg"), r"expected frames.*got 5 frames; 00000003\.jpg"),
        (
            "a frame too many",
            lambda f: (f / "00000007.jpg").write_bytes(b""),
            r"expected frames 00000001\.jpg .. 00000006\.jpg.*got 7 frames; 00000007\.jpg",
        ),
        ("no picture", _replace("00000001.jpg", "GIF?"), r"00000001\.jpg: expected a picture, got something else"),
    ],
)
def test_malformed_sequences_are_named(root: Path, case: str, spoil: Callable[[Path], object], match: str) -> None:
    spoil(root / "train" / "b")
    tracks = Got10kTracks(root, split="train")
    assert tracks[0].identity == "a"
    with pytest.raises(DatasetError, match=match):
        tracks[1]
    with pytest.raises(DatasetError, match=match):  # at once, not when the episode is asked for
        load_dataset("got10k", root=root, shots=1)


def test_a_listed_sequence_that_is_not_there(root: Path) -> None:
    (root / "val" / "list.txt").write_text("c\nghost\n")
    with pytest.raises(DatasetError, match=r"ghost.groundtruth\.txt: expected this file"):
        load_dataset("got10k", split="val", root=root, shots=1)


def test_wrong_folder_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"val.list\.txt.*pass as `root` the folder that holds train/list\.txt"):
        load_dataset("got10k", split="val", root=tmp_path)


def test_test_split_is_refused(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"only the first box of each test sequence.*use split 'val'"):
        load_dataset("got10k", split="test", root=root)


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("imagenet", {}, r"unknown data set 'imagenet'; there are .*synthetic.*got10k"),
        ("got10k", {}, r"data set 'got10k' is read from files: pass `root`"),
        (
            "got10k",
            {"root": "x", "level": 2},
            r"'got10k' has no option level; its own are episodes_per_track, min_gap, on_bad",
        ),
        ("got10k", {"root": "x", "split": "dev"}, r"split must be one of \('train', 'val'\), got 'dev'"),
        ("synthetic", {"root": "x"}, r"'synthetic' is drawn, not read: leave out root, got 'x'"),
        (
            "synthetic",
            {"levels": 2, "colour": 1},
            r"no option colour, levels; its own are num_episodes, level, image_size, num_objects, distractors, absent_",
        ),
    ],
)
def test_load_dataset_refuses(name: str, arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_dataset(name, **arguments)  # type: ignore[arg-type]


def test_load_dataset_passes_its_arguments_on(root: Path) -> None:
    assert {"synthetic", "got10k"} <= set(dataset_names())
    episodes = load_dataset(
        "got10k", split="val", root=str(root), shots=3, protocol="random", seed=5, episodes_per_track=7
    )
    assert len(episodes) == 7
    assert len(episodes[6].support) == 3
    assert episodes[6].episode_id == "c/random/seed5/6"
    with_absent = root / "train" / "a" / "absence.label"
    with_absent.write_text("0\n0\n0\n0\n0\n1\n")
    kept = load_dataset("got10k", root=root, shots=2, absent="keep")[0]
    assert (kept.target_box, kept.target_note) == (Box(5.0, 5.0, 15.5, 13.0), "flagged_absent")
    assert load_dataset("got10k", root=root, shots=2)[0].target_box == Box(4.0, 5.0, 14.5, 13.0)
    synthetic = load_dataset("synthetic", split="val", shots=2, seed=3, level=2, image_size=64, num_episodes=9)
    assert len(synthetic) == 9
    assert len(synthetic[0].support) == 2
    assert synthetic[0].episode_id == "synthetic/val/level2/seed3/0"
    assert synthetic[0].query_frame.image_wh == (64, 64)


class TestSeveral:
    """Data sets by names and weights, each from its own folder."""

    def test_each_has_its_folder_and_its_options(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "got10k").symlink_to(root)
        options = {"shots": 2, "protocol": "random", "num_episodes": 40, "episodes_per_track": 10, "image_size": 64}
        by_folder = load_dataset("got10k:0.25,synthetic:0.75", root=tmp_path / "data", **options)
        by_name = load_dataset("got10k:0.25,synthetic:0.75", root={"got10k": root}, **options)
        assert len(by_folder) == len(by_name) == 20 + 40
        ids = [by_folder[index].episode_id for index in range(60)]
        assert ids == [by_name[index].episode_id for index in range(60)]
        assert {identifier.split("/")[0] for identifier in ids} == {"got10k", "synthetic"}

    @pytest.mark.parametrize(
        ("name", "options", "match"),
        [
            ("got10k:1,imagenet:1", {}, "unknown data set 'imagenet'; there are synthetic"),
            ("got10k:1", {}, "data set 'got10k' is read from files: pass `root`"),
            ("got10k:0", {}, "data sets: expected name:weight"),
            (
                "got10k:1,synthetic:1",
                {"root": "x", "colour": 1},
                "data set 'got10k,synthetic' has no option colour; its",
            ),
        ],
    )
    def test_wrong_arguments(self, name: str, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            load_dataset(name, **options)


def test_pictures_may_be_smaller(root: Path) -> None:
    episodes = load_dataset("got10k", root=root, shots=2, max_pixels=300)
    assert episodes[0].query_frame.image().shape == (15, 20, 3)
    assert episodes[0].target_box == Box(2.5, 2.5, 7.75, 6.5)


def test_a_store_is_a_data_set(root: Path, tmp_path: Path) -> None:
    episodes = load_dataset("got10k", root=root, shots=2)
    write_store(episodes, tmp_path / "store", source={})
    stored = load_dataset("store", root=tmp_path / "store")
    assert len(stored) == len(episodes)
    assert_same_episode(stored[1], episodes[1])
    with pytest.raises(ValueError, match="data set 'store' has no option level; it has none"):
        load_dataset("store", root=tmp_path / "store", level=2)


def test_contract_on_a_made_up_tree(root: Path) -> None:
    assert_dataset_contract(load_dataset("got10k", root=root, shots=3), shots=3)


@pytest.fixture(scope="module")
def real_root() -> Path:
    """Real frames in GOT-10k's layout, which are not part of the repository."""
    if not (REAL_FRAMES / "val" / "list.txt").is_file():
        pytest.skip(NO_REAL_FRAMES)
    return REAL_FRAMES


@pytest.mark.parametrize("protocol", ["focus", "random"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_contract_on_real_frames(real_root: Path, split: str, protocol: str) -> None:
    episodes = load_dataset(
        "got10k",
        split=split,
        root=real_root,
        shots=4,
        protocol=protocol,  # type: ignore[arg-type]
    )
    assert isinstance(episodes, TrackEpisodes)
    assert_dataset_contract(episodes, shots=4, num_checked=4)
    assert all(episode.category for episode in (episodes[0], episodes[len(episodes) - 1]))


def test_splits_of_real_frames_share_no_identity(real_root: Path) -> None:
    train, val = ({track.identity for track in Got10kTracks(real_root, split=split)} for split in ("train", "val"))
    assert train
    assert val
    assert not train & val
