"""LaSOT: what is read from files, what is made of files that are wrong, and ICL-LaSOT's arithmetic."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_env.datasets import LasotTracks, dataset_names, load_dataset
from focus_env.datasets.readers.lasot import IPLOC_TEST, IPLOC_TRAIN, lasot_categories
from focus_env.datasets.sampler import TrackEpisodes
from focus_env.errors import DatasetError
from focus_env.types import Box
from tests.contracts import assert_dataset_contract
from tests.focus_env.datasets.readers.writers import IMAGE_WH, write_lasot_lists, write_lasot_sequence

TRAIN = ["airplane-2", "airplane-10", "zebra-14"]
TEST = ["airplane-1", "zebra-3"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree in LaSOT's layout; of its categories IPLoc tests on airplanes and trains on zebras."""
    for name in (*TRAIN, *TEST):
        write_lasot_sequence(tmp_path, name)
    write_lasot_lists(tmp_path, train=TRAIN, test=TEST)
    return tmp_path


def identities(tracks: LasotTracks) -> list[str]:
    return [track.identity for track in tracks]


def test_a_sound_sequence(root: Path) -> None:
    tracks = LasotTracks(root, split="train")
    assert len(tracks) == 3
    track = tracks[1]
    assert (track.identity, track.category, track.video) == ("airplane-10", "airplane", "")
    assert track.frames[0].name == "airplane/airplane-10/img/00000001.jpg"
    assert track.frames[0].source == root / "airplane" / "airplane-10" / "img" / "00000001.jpg"
    assert {frame.image_wh for frame in track.frames} == {IMAGE_WH}
    assert track.frames[5].image().shape == (30, 40, 3)
    assert track.boxes == tuple(Box(float(x), 5.0, x + 10.0, 13.0) for x in range(6))
    assert set(track.notes) == {""}
    assert [track.identity for track in tracks[1:]] == ["airplane-10", "zebra-14"]


def test_frames_are_not_decoded_before_they_are_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    episode = load_dataset("lasot", root=root, shots=2)[0]
    with pytest.raises(AssertionError, match="a frame was decoded"):
        episode.query_frame.image()


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", TRAIN),
        ("test", TEST),
        ("iploc_test", ["airplane-1"]),
        ("iploc_train", ["zebra-14", "zebra-3"]),
    ],
)
def test_splits(root: Path, split: str, expected: list[str]) -> None:
    assert identities(LasotTracks(root, split=split)) == expected


@pytest.mark.parametrize(("split", "expected"), [("train", TRAIN), ("iploc_train", ["zebra-14", "zebra-3"])])
def test_training_sequences_are_the_folders_that_are_not_for_testing(
    root: Path, split: str, expected: list[str]
) -> None:
    (root / "training_set.txt").unlink()
    for other in ("unicorn/unicorn-1", "airplane/airplane-x", "airplane/zebra-7", "airplane/7"):
        (root / other).mkdir(parents=True)
    (root / "airplane" / "airplane-4").write_text("no folder")
    assert identities(LasotTracks(root, split=split)) == expected


def test_categories() -> None:
    categories = lasot_categories()
    assert len(set(categories)) == 70
    assert list(categories) == sorted(categories)
    assert categories[35] == "horse"
    assert (len(IPLOC_TEST), IPLOC_TEST[-1], IPLOC_TRAIN[0], len(IPLOC_TRAIN)) == (36, "horse", "kangaroo", 34)
    assert not set(IPLOC_TEST) & set(IPLOC_TRAIN)


def test_excluded_sequences_are_left_out(root: Path) -> None:
    everything = LasotTracks(root, split="train", exclude=())
    fewer = LasotTracks(root, split="train", exclude={"airplane-2", "zebra-14", "zebra-3", "unicorn-1"})
    assert (len(everything), identities(fewer)) == (3, ["airplane-10"])
    # A string is a collection too, of letters, and would leave out nothing.
    with pytest.raises(ValueError, match="exclude must be a collection of sequence names, got the string 'zebra-14'"):
        LasotTracks(root, split="train", exclude="zebra-14")


@pytest.mark.parametrize(
    ("case", "line", "hidden", "out_of_view", "expected", "note"),
    [
        ("hidden, with a box", "5,5,10,10", 1, 0, Box(5.0, 5.0, 15.0, 15.0), "flagged_absent"),
        ("out of view, with a box", "5,5,10,10", 0, 1, Box(5.0, 5.0, 15.0, 15.0), "flagged_absent"),
        ("both, without a box", "0,0,0,0", 1, 1, None, "flagged_absent"),
        ("hidden, negative height", "5,5,10,-3", 1, 0, None, "flagged_absent"),
        ("all zeros", "0,0,0,0", 0, 0, None, "no_size"),
        ("ones and zeros", "1,1,0,0", 0, 0, None, "no_size"),
        ("negative height", "5,5,10,-3", 0, 0, None, "negative_size"),
        ("negative width", "5,5,-1,10", 0, 0, None, "negative_size"),
        ("outside to the right", "40,5,10,10", 0, 0, None, "outside"),
        ("reaching beyond two borders", "-2,25,10,10", 0, 0, Box(0.0, 25.0, 8.0, 30.0), ""),
        ("spaces", " 1 , 2,3, 4", 0, 0, Box(1.0, 2.0, 4.0, 6.0), ""),
    ],
)
def test_boxes(
    tmp_path: Path, case: str, line: str, hidden: int, out_of_view: int, expected: Box | None, note: str
) -> None:
    write_lasot_sequence(tmp_path, "cup-1", ["1,1,5,5", line], hidden=[0, hidden], out_of_view=[0, out_of_view])
    write_lasot_lists(tmp_path, train=None, test=["cup-1"])
    track = LasotTracks(tmp_path, split="test")[0]
    assert track.boxes == (Box(1.0, 1.0, 6.0, 6.0), expected)
    assert track.notes == ("", note)


def _replace(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _link_out(folder: Path) -> None:
    outside = folder.parents[2] / "outside.jpg"
    (folder / "img" / "00000003.jpg").rename(outside)
    (folder / "img" / "00000003.jpg").symlink_to(outside)


@pytest.mark.parametrize(
    ("case", "spoil", "match"),
    [
        ("no boxes", _remove("groundtruth.txt"), r"airplane-10.groundtruth\.txt: expected this file.*found none"),
        ("empty boxes", _replace("groundtruth.txt", "\n"), r"groundtruth\.txt: expected one line per frame"),
        ("three numbers", _replace("groundtruth.txt", "1,1,5,5\n1,1,5\n"), r"groundtruth\.txt, line 2: .*'1,1,5'"),
        ("not a number", _replace("groundtruth.txt", "nan,1,5,5"), r"line 1: expected four finite numbers"),
        (
            "a flag too many",
            _replace("full_occlusion.txt", "0,0,0,0,0,0,0"),
            r"full_occlusion\.txt: expected 6 values, as in groundtruth\.txt, got 7",
        ),
        ("a flag too few", _replace("out_of_view.txt", "0,0,0,0,0\n"), r"out_of_view\.txt: expected 6 values.*got 5"),
        ("a comma too many", _replace("out_of_view.txt", "0,0,,0,0,0,0\n"), r"out_of_view\.txt: expected 6 .*got 7"),
        (
            "no flags",
            _replace("out_of_view.txt", "\n"),
            r"out_of_view\.txt: expected one line of 6 values, got 0 lines",
        ),
        (
            "a flag per line, as in GOT-10k",
            _replace("full_occlusion.txt", "0\n0\n0\n0\n0\n0\n"),
            r"full_occlusion\.txt: expected one line of 6 values, got 6 lines",
        ),
        ("an odd flag", _replace("full_occlusion.txt", "0,0,2,0,0,0"), r"full_occlusion\.txt, value 3: .*got '2'"),
        ("a frame missing", _remove("img/00000003.jpg"), r"img: expected frames.*got 5 frames; 00000003\.jpg"),
        ("a frame too many", _replace("img/00000007.jpg", ""), r"img: expected .*got 7 frames; 00000007\.jpg"),
        (
            "no frames",
            lambda folder: (folder / "img").rename(folder / "imgs"),
            r"img: expected a folder of frames, found none",
        ),
        ("no picture", _replace("img/00000001.jpg", "GIF?"), r"00000001\.jpg: expected a picture, got something else"),
        ("a frame from elsewhere", _link_out, r"00000003\.jpg: expected a path below .*a link to .*outside\.jpg"),
    ],
)
def test_malformed_sequences_are_named(tmp_path: Path, case: str, spoil: Callable[[Path], object], match: str) -> None:
    root = tmp_path / "LaSOT"
    for name in ("airplane-2", "airplane-10"):
        write_lasot_sequence(root, name)
    write_lasot_lists(root, train=["airplane-2", "airplane-10"], test=None)
    spoil(root / "airplane" / "airplane-10")
    tracks = LasotTracks(root, split="train")
    assert tracks[0].identity == "airplane-2"
    with pytest.raises(DatasetError, match=match):
        tracks[1]
    with pytest.raises(DatasetError, match=match):  # at once, not when the episode is asked for
        load_dataset("lasot", root=root, shots=1)
    left_out = TrackEpisodes(tracks, shots=1, on_bad="skip")
    assert (len(left_out), left_out.skipped["tracks_bad"]) == (1, 1)


@pytest.mark.parametrize(
    ("case", "file", "text", "split", "match"),
    [
        ("empty", "testing_set.txt", "\n\n", "test", r"testing_set\.txt: expected one sequence name.*empty file"),
        ("empty", "training_set.txt", "", "train", r"training_set\.txt: expected one .*empty file; .*or remove it"),
        ("no number", "training_set.txt", "zebra-14\nzebra\n", "train", r"training_set\.txt, line 2: .*got 'zebra'"),
        ("no name", "training_set.txt", "-14\n", "train", r"line 1: expected a sequence name such as 'airplane-1'"),
        ("twice", "testing_set.txt", "a-1\n\na-1\n", "test", r"testing_set\.txt, line 3: .*once, got 'a-1' again"),
        ("in both", "testing_set.txt", "zebra-14\n", "iploc_train", r"testing_set\.txt, line 1: .*'zebra-14' again"),
        ("upwards", "testing_set.txt", "../../etc/x-1\n", "test", r"testing_set\.txt, line 1: expected a path below"),
        ("absolute", "testing_set.txt", "/etc/x-1\n", "test", r"testing_set\.txt, line 1: expected a path below"),
        ("no text", "testing_set.txt", b"\xff\xfe", "test", r"testing_set\.txt: expected text"),
    ],
)
def test_malformed_lists_are_named(root: Path, case: str, file: str, text: str | bytes, split: str, match: str) -> None:
    (root / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=match):
        LasotTracks(root, split=split)


def test_a_link_to_another_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "LaSOT"
    write_lasot_sequence(tmp_path / "elsewhere", "cup-1")
    root.mkdir()
    (root / "cup").symlink_to(tmp_path / "elsewhere" / "cup")
    write_lasot_lists(root, train=None, test=["cat-1"])
    with pytest.raises(DatasetError, match=r"cup-1: expected a path below .*a link to .*elsewhere"):
        LasotTracks(root, split="train")


@pytest.mark.parametrize("split", ["train", "test", "iploc_test", "iploc_train"])
def test_without_the_list_of_test_sequences_it_says_where_it_comes_from(root: Path, split: str) -> None:
    (root / "training_set.txt").unlink()
    (root / "testing_set.txt").unlink()
    match = r"testing_set\.txt: expected this file, found none; it is part of LaSOT's evaluation toolkit"
    with pytest.raises(DatasetError, match=match):
        LasotTracks(root, split=split)


def test_a_folder_without_any_sequence(tmp_path: Path) -> None:
    write_lasot_lists(tmp_path, train=None, test=["cat-1"])
    with pytest.raises(DatasetError, match=r"training_set\.txt: expected this file, or folders.*found neither; pass"):
        LasotTracks(tmp_path, split="train")


def test_an_unknown_split(root: Path) -> None:
    with pytest.raises(ValueError, match=r"split must be one of \('train', 'test', 'iploc_test'.*got 'val'"):
        LasotTracks(root, split="val")


def test_contract_on_a_made_up_tree(root: Path) -> None:
    assert "lasot" in dataset_names()
    for protocol in ("focus", "random"):
        episodes = load_dataset("lasot", root=root, shots=3, protocol=protocol)  # type: ignore[arg-type]
        assert_dataset_contract(episodes, shots=3)


ABSENT_QUERIES = {"airplane-1", "gecko-4"}
NO_SECOND_SUPPORT = "horse-2"
"""No box in its frame 5, which is the second support of two: 1 + 1 * (9 // 2)."""


@pytest.fixture(scope="module")
def icl_lasot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with LaSOT's test sequences by number: 4 of each of 70 categories, 9 frames each, all of one file."""
    root = tmp_path_factory.mktemp("icl-lasot")
    picture = root / "picture.jpg"
    Image.fromarray(np.zeros((IMAGE_WH[1], IMAGE_WH[0], 3), dtype=np.uint8)).save(picture)
    names = [f"{category}-{number}" for category in lasot_categories() for number in range(1, 5)]
    for name in names:
        folder = root / name.rpartition("-")[0] / name
        (folder / "img").mkdir(parents=True)
        lines = [f"{x},5,10,8" for x in range(9)]
        hidden = [0] * 9
        if name in ABSENT_QUERIES:
            lines[8], hidden[8] = "0,0,0,0", 1
        if name == NO_SECOND_SUPPORT:
            lines[4], hidden[4] = "1,1,0,0", 1
        (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
        (folder / "full_occlusion.txt").write_text(",".join(map(str, hidden)))
        (folder / "out_of_view.txt").write_text(",".join("0" * 9))
        for number in range(1, 10):
            os.link(picture, folder / "img" / f"{number:08d}.jpg")
    write_lasot_lists(root, train=None, test=names)
    return root


@pytest.mark.parametrize(("shots", "numbers"), [(1, [1, 9]), (2, [1, 5, 9]), (4, [1, 3, 5, 7, 9])])
def test_icl_lasot_has_144_episodes(icl_lasot: Path, shots: int, numbers: list[int]) -> None:
    episodes = load_dataset("lasot", split="iploc_test", root=icl_lasot, shots=shots, protocol="iploc", absent="keep")
    assert isinstance(episodes, TrackEpisodes)
    assert (len(episodes), dict(episodes.skipped)) == (144, {})
    by_identity = {episode.identity: episode for episode in (episodes[index] for index in range(144))}
    assert Counter(episode.category for episode in by_identity.values()) == dict.fromkeys(IPLOC_TEST, 4)
    for name, episode in by_identity.items():
        frames = [*(exemplar.frame for exemplar in episode.support), episode.query_frame]
        shown = [int(Path(frame.name).stem) for frame in frames]
        if name == NO_SECOND_SUPPORT and shots > 1:
            # Frame 5 gives its place to the nearest with a box that is not shown yet, the earlier of two.
            assert shown == sorted({*numbers, 4} - {5})
        else:
            assert shown == numbers, name
        if name in ABSENT_QUERIES:
            assert (episode.target_box, episode.target_note) == (None, "flagged_absent")
        else:
            assert (episode.target_box, episode.target_note) == (Box(8.0, 5.0, 18.0, 13.0), "")
    assert_dataset_contract(episodes, shots=shots, num_checked=8)


def test_icl_lasot_without_what_is_absent(icl_lasot: Path) -> None:
    episodes = load_dataset("lasot", split="iploc_test", root=icl_lasot, shots=4, protocol="iploc", absent="skip")
    assert isinstance(episodes, TrackEpisodes)
    assert (len(episodes), dict(episodes.skipped)) == (144, {"frames_flagged_absent": 3})
    absent = next(episodes[index] for index in range(144) if episodes[index].identity == "gecko-4")
    assert (absent.query_frame.name[-7:], absent.target_box) == ("008.jpg", Box(7.0, 5.0, 17.0, 13.0))


def test_tracks_go_to_other_processes(root: Path) -> None:
    tracks = LasotTracks(root, split="train", exclude={"zebra-14"})
    copy = pickle.loads(pickle.dumps(tracks))
    assert [track.boxes for track in copy] == [track.boxes for track in tracks]
    assert identities(copy) == ["airplane-2", "airplane-10"]
