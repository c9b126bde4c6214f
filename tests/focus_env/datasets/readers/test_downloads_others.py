"""TAO, PerSeg and IPLoc's files as downloads have them; see `test_downloads` for what all of them share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_env.datasets import IPLocEpisodes, PerSegTracks, load_dataset
from focus_env.errors import DatasetError
from tests.focus_env.datasets.readers.iploc_records import SOUND, load_records, record_of, write_pictures
from tests.focus_env.datasets.readers.writers import make_tao_annotations, write_tao_annotations


class TestTao:
    """Its file, and pictures that are not what the file says."""

    @pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
    def test_an_annotation_file_that_is_none(self, tmp_path: Path, make: Callable[[Path], object]) -> None:
        (tmp_path / "annotations").mkdir()
        make(tmp_path / "annotations" / "train.json")
        with pytest.raises(DatasetError, match=r"train\.json: expected .*(no regular file|a link to /dev/zero)"):
            load_dataset("tao", root=tmp_path, shots=1)

    def test_the_size_in_the_file_is_that_of_what_is_shown(self, tmp_path: Path) -> None:
        data = make_tao_annotations()
        write_tao_annotations(tmp_path, data)
        exif = Image.Exif()
        exif[0x0112] = 6
        for image in data["images"]:
            path = tmp_path / "frames" / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            turned = image["video_id"] == 1
            size = (image["height"], image["width"]) if turned else (image["width"], image["height"])
            Image.new("RGB", size).save(path, exif=exif)
        upright, turned_away = (load_dataset("tao", root=tmp_path, shots=2)[index].query_frame for index in (0, 1))
        assert upright.image().shape == (30, 40, 3)
        with pytest.raises(DatasetError, match=r"expected 32 x 48 pixels, got 48 x 32, which its EXIF orientation may"):
            turned_away.image()


def test_an_iploc_picture_that_is_a_pipe(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    records = [record_of("cat-2", SOUND), record_of("cat-1", SOUND)]
    path = tmp_path / "LASOT/cat/cat-1/img/00000001.jpg"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DatasetError, match=r"record 1: .*00000001\.jpg: expected .* a pipe \(FIFO\), no regular file"):
        load_records(tmp_path, records)
    assert len(load_records(tmp_path, records, on_bad="skip")) == 1
    (tmp_path / "pipe.json").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DatasetError, match=r"pipe\.json: expected .* a pipe \(FIFO\), no regular file"):
        IPLocEpisodes(tmp_path / "pipe.json", image_root=tmp_path, shots=1)


def test_perseg_with_stray_files_and_other_endings(tmp_path: Path) -> None:
    for kind in ("Images", "Annotations"):
        (tmp_path / kind / "cat").mkdir(parents=True)
        for junk in ("__MACOSX", ".git"):
            (tmp_path / kind / junk).mkdir()
            (tmp_path / kind / junk / "._00.jpg").write_text("?")
        for junk in ("Thumbs.db", "desktop.ini", "._00.jpg", ".00.png", "._00.png"):
            (tmp_path / kind / "cat" / junk).write_text("?")
    for name in ("00.JPG", "01.jpeg", "02.png", "03.jpg"):
        path = tmp_path / "Images" / "cat" / name
        Image.new("RGB", (40, 30)).save(path, "PNG" if name == "03.jpg" else None)
    mask = Image.fromarray(np.pad(np.full((10, 20), 255, np.uint8), ((5, 15), (8, 12))))
    for name in ("00.png", "01.PNG", "02.png", "03.png"):
        mask.save(tmp_path / "Annotations" / "cat" / name, "PNG")
    (track,) = PerSegTracks(tmp_path)
    assert track.boxes == ((8.0, 5.0, 28.0, 15.0),) * 4
    assert [frame.image().shape for frame in track.frames] == [(30, 40, 3)] * 4
    Image.new("RGB", (40, 30)).save(tmp_path / "Images" / "cat" / "00.png")
    with pytest.raises(DatasetError, match=r"cat: expected one file '00', got 00\.JPG and 00\.png; delete one"):
        PerSegTracks(tmp_path)[0]


def test_perseg_pictures_and_masks_are_as_they_are_shown(tmp_path: Path) -> None:
    for kind in ("Images", "Annotations"):
        (tmp_path / kind / "cat").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "Images" / "cat" / "00.jpg", exif=exif)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:10, 20:40] = 255
    Image.fromarray(mask).save(tmp_path / "Annotations" / "cat" / "00.png")
    with pytest.raises(
        DatasetError, match=r"00\.png: expected a mask of 30 x 40 pixels, as its picture has, got 40 x 30"
    ):
        PerSegTracks(tmp_path)[0]
    Image.fromarray(np.rot90(mask, -1)).save(tmp_path / "Annotations" / "cat" / "00.png")
    upright = PerSegTracks(tmp_path)[0]
    Image.fromarray(mask).save(tmp_path / "Annotations" / "cat" / "00.png", exif=exif)
    turned = PerSegTracks(tmp_path)[0]
    assert upright.boxes == turned.boxes == ((20.0, 20.0, 25.0, 40.0),)
    assert upright.frames[0].image_wh == (30, 40)


def test_tao_of_two_categories_merged_into_each_other(tmp_path: Path) -> None:
    data = make_tao_annotations()
    data["categories"][0]["merged"] = [{"id": 7, "name": "person"}]
    write_tao_annotations(tmp_path, data)
    match = r"train\.json, categories: expected one of two categories to be merged into the other, got 7 and 3, each"
    with pytest.raises(DatasetError, match=match):
        load_dataset("tao", root=tmp_path, shots=1)


def test_names_that_cannot_be_printed(tmp_path: Path) -> None:
    data = make_tao_annotations()
    data["categories"][2]["name"] = "a\ud800\x1b[31m[/b]\n"
    write_tao_annotations(tmp_path, data)
    episodes = load_dataset("tao", root=tmp_path, shots=2)
    assert episodes[0].category == "a??[31m[/b]?"
