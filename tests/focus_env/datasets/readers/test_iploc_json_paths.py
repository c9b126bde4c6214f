"""IPLoc's files of episodes: where the pictures are that they name by another machine's paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from focus_env.errors import DatasetError
from tests.focus_env.datasets.readers.iploc_records import IPLOC_PREFIX, SOUND, load_records, record_of, write_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The pictures of three videos, four each, under <root>/LASOT."""
    write_pictures(tmp_path)
    return tmp_path


class TestWherePicturesAre:
    """The folders of the other machine are left out, and nothing else."""

    @pytest.mark.parametrize(
        "prefix", ["data/tracking/LASOT", "/home/someone/LASOT", "LASOT", "../data/LASOT", "//LASOT"]
    )
    @pytest.mark.parametrize("below", ["LASOT", "."])
    def test_any_beginning(self, root: Path, prefix: str, below: str) -> None:
        records = [record_of(name, SOUND, prefix) for name in ("cat-1", "sea lion-7")]
        episodes = load_records(root, records, image_root=root / below)
        assert len(episodes) == 2
        shown = "" if below == "LASOT" else "LASOT/"
        assert episodes[0].query_frame.name == f"{shown}cat/cat-1/img/00000002.jpg"

    def test_a_path_of_this_machine_is_one_like_any_other(self, root: Path) -> None:
        records = [record_of(name, SOUND, str(root / "LASOT")) for name in ("cat-1", "sea lion-7")]
        episodes = load_records(root, records)
        assert episodes[0].query_frame.name == "cat/cat-1/img/00000002.jpg"

    def test_few_files_are_looked_for(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        looked: list[object] = []
        monkeypatch.setattr("os.path.isfile", lambda path: looked.append(path) or Path(path).is_file())
        records = [record_of("cat-9", SOUND) for _ in range(100)] + [record_of("sea lion-7", SOUND)]
        assert len(load_records(root, records, image_root=root / "LASOT/sea lion", on_bad="skip")) == 1
        # None of the cats', of which no folder is there.
        assert len(looked) == 1

    def test_all_but_the_name_is_left_out(self, root: Path) -> None:
        episodes = load_records(
            root, [record_of("cat-1", SOUND, "cat/cat-1/..")], image_root=root / "LASOT/cat/cat-1/img"
        )
        assert episodes[0].query_frame.name == "00000002.jpg"
        assert episodes[0].identity == "cat"

    def test_as_little_as_possible_is_left_out(self, root: Path) -> None:
        (root / "LASOT/cat/cat-1/img/00000000.jpg").rename(root / "LASOT/00000000.jpg")
        with pytest.raises(
            DatasetError, match=r"record 0: .*LASOT.cat.cat-1.img.00000000\.jpg: expected a picture, found no"
        ):
            load_records(root, [record_of("cat-1", SOUND)])

    def test_a_first_picture_that_is_missing_does_not_mislead(self, root: Path) -> None:
        for number in range(3):
            (root / f"LASOT/cat/cat-1/img/{number:08d}.jpg").unlink()
        records = [record_of("cat-1", SOUND), record_of("cat-2", SOUND)]
        with pytest.raises(
            DatasetError, match=r"record 0: .*cat-1.img.00000000\.jpg: expected a picture, found no file"
        ):
            load_records(root, records)
        episodes = load_records(root, records, on_bad="skip")
        assert [episode.episode_id for episode in episodes] == ["episodes/1"]

    def test_another_beginning_is_not_guessed(self, root: Path) -> None:
        # Left out by its length, it would lead to a picture of another data set.
        records = [record_of("cat-1", SOUND), record_of("cat-2", SOUND, "data/tracking/OTHER")]
        match = (
            r"record 1: expected a path that begins with 'data/tracking/LASOT'.*got 'data/tracking/OTHER/cat.*; pass"
        )
        with pytest.raises(DatasetError, match=match):
            load_records(root, records)

    @pytest.mark.parametrize("path", [IPLOC_PREFIX, "data", ""])
    def test_a_path_that_is_only_a_beginning(self, root: Path, path: str) -> None:
        record = record_of("cat-2", SOUND)
        record["image_path"][1] = path
        with pytest.raises(DatasetError, match=r"record 1: expected a path "):
            load_records(root, [record_of("cat-1", SOUND), record])

    def test_no_picture_at_all(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for on_bad in ("raise", "skip"):
            with pytest.raises(
                DatasetError,
                match=r"episodes\.json: expected pictures below .*empty, found none, neither 'data/tracking/LASOT/.*"
                r"pass another `image_root`",
            ):
                load_records(root, [record_of("cat-1", SOUND)], image_root=tmp_path / "empty", on_bad=on_bad)

    def test_no_folder(self, root: Path) -> None:
        with pytest.raises(
            DatasetError, match=r"nowhere: expected the folder of the pictures, found none; pass `image_root`"
        ):
            load_records(root, [record_of("cat-1", SOUND)], image_root=root / "nowhere")

    @pytest.mark.parametrize(
        ("case", "path", "match"),
        [
            ("up", f"{IPLOC_PREFIX}/../secret.jpg", r"got '\.\./secret\.jpg'; it must be relative and not go up"),
            ("up and down", f"{IPLOC_PREFIX}/cat/../../LASOT/../secret.jpg", r"it must be relative and not go up"),
            ("backslashes", f"{IPLOC_PREFIX}/..\\secret.jpg", r"it must be relative and not go up"),
            ("a null", f"{IPLOC_PREFIX}/cat\0/secret.jpg", r"it must be relative and not go up"),
            (
                "a link",
                f"{IPLOC_PREFIX}/cat/link.jpg",
                r"got .*link\.jpg, a link to .*secret\.jpg; copy the target of the link",
            ),
            ("a link to itself", f"{IPLOC_PREFIX}/cat/loop.jpg", r"got '.*loop\.jpg', which leads nowhere"),
            ("no name of a file", f"{IPLOC_PREFIX}/cat/\ud800.jpg", r"which leads nowhere"),
            (
                "a name too long",
                f"{IPLOC_PREFIX}/{'a' * 300}/{'b' * 300}",
                r"expected a picture that can be read: .*too long",
            ),
            ("a folder", f"{IPLOC_PREFIX}/cat", r"LASOT.cat: expected a picture that can be read: .*directory"),
            (
                "nothing there",
                f"{IPLOC_PREFIX}/cat/cat-9/img/00000001.jpg",
                r"00000001\.jpg: expected a picture, found no file",
            ),
        ],
    )
    @pytest.mark.parametrize("first", [False, True])
    def test_no_path_leaves_the_folder(self, root: Path, case: str, path: str, match: str, first: bool) -> None:
        Image.new("RGB", (40, 30)).save(root / "secret.jpg")
        (root / "LASOT/cat/link.jpg").symlink_to(root / "secret.jpg")
        (root / "LASOT/cat/loop.jpg").symlink_to(root / "LASOT/cat/loop.jpg")
        spoilt = record_of("cat-1", SOUND)
        spoilt["image_path"][0] = path
        records = [spoilt, record_of("cat-2", SOUND)] if first else [record_of("cat-2", SOUND), spoilt]
        with pytest.raises(DatasetError, match=rf"episodes\.json, record {int(not first)}: .*{match}"):
            load_records(root, records)
        assert [e.category for e in load_records(root, records, on_bad="skip")] == ["cat"]
