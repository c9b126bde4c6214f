"""The three benchmarks' folders in little: made-up pictures, and annotations as their authors write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGE_WH = (40, 30)


def write_got10k_sequence(split: Path, name: str, boxes: list[str], absence: list[int], object_class: str) -> Path:
    folder = split / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    for number in range(1, len(boxes) + 1):
        pixels = rng.integers(256, size=(IMAGE_WH[1], IMAGE_WH[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:08d}.jpg")
    (folder / "groundtruth.txt").write_text("\n".join(boxes) + "\n")
    (folder / "absence.label").write_text("".join(f"{flag}\n" for flag in absence))
    (folder / "meta_info.ini").write_text(
        f"[METAINFO]\nurl: https://example.org/watch:1\nobject_class: {object_class}\nresolution: (1, 1)\n"
    )
    return folder


LASOT_BOXES = [f"{x},5,10,8" for x in range(6)]


def write_lasot_sequence(
    root: Path,
    name: str,
    boxes: list[str] = LASOT_BOXES,
    *,
    hidden: list[int] | None = None,
    out_of_view: list[int] | None = None,
) -> Path:
    folder = root / name.rpartition("-")[0] / name
    (folder / "img").mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    for number in range(1, len(boxes) + 1):
        pixels = rng.integers(256, size=(IMAGE_WH[1], IMAGE_WH[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "img" / f"{number:08d}.jpg")
    (folder / "groundtruth.txt").write_text("\n".join(boxes) + "\n")
    for file, flags in (("full_occlusion.txt", hidden), ("out_of_view.txt", out_of_view)):
        (folder / file).write_text(",".join(map(str, flags or [0] * len(boxes))) + "\n")
    (folder / "nlp.txt").write_text("words that nobody reads\n")
    return folder


def write_lasot_lists(root: Path, *, train: list[str] | None, test: list[str] | None) -> None:
    for file, names in (("training_set.txt", train), ("testing_set.txt", test)):
        if names is not None:
            (root / file).write_text("\n".join(names) + "\n\n")


Json = dict[str, Any]

TAO_VIDEOS = {1: "train/YFCC100M/v_1", 2: "train/LaSOT/zebra-14"}
TAO_SIZES = {1: (40, 30), 2: (32, 48)}


def tao_image_id(video: int, number: int) -> int:
    return 100 * video + number


def tao_file_name(video: int, number: int) -> str:
    return f"{TAO_VIDEOS[video]}/frame{number:04d}.jpg"


def make_tao_annotations() -> Json:
    """Two videos of six frames; their images are listed backwards, as nothing says that they are in order.

    Track 11 has four boxes, 12 and 13 five each, 21 has six, and 22 none. Category 3 is merged into 7.
    """
    images = [
        {
            "id": tao_image_id(video, number), "video_id": video, "file_name": tao_file_name(video, number),
            "width": TAO_SIZES[video][0], "height": TAO_SIZES[video][1], "frame_index": 30 * number, "license": 0,
        }
        for video in TAO_VIDEOS
        for number in reversed(range(6))
    ]  # fmt: skip
    tracks = {21: (2, 3), 11: (1, 3), 12: (1, 7), 13: (1, 5), 22: (2, 7)}
    boxes = [(13, 5), (11, 0), (12, 0), (12, 3), (12, 1), (12, 2), (12, 4)]
    boxes += [(11, 1), (13, 4), (11, 2), (13, 3), (11, 3), (13, 2), (13, 1)]
    boxes += [(21, number) for number in range(6)]
    annotations = [
        {
            "id": position, "image_id": tao_image_id(tracks[track][0], number), "track_id": track,
            "category_id": tracks[track][1], "video_id": tracks[track][0],
            "bbox": [number + track / 4, 5, 10.5, 8], "area": 84.0, "iscrowd": 0,
        }
        for position, (track, number) in enumerate(boxes, start=1000)
    ]  # fmt: skip
    return {
        "info": {"year": 2020},
        "licenses": ["Unknown"],
        "videos": [
            {"id": key, "name": name, "neg_category_ids": [5], "not_exhaustive_category_ids": []}
            for key, name in TAO_VIDEOS.items()
        ],
        "categories": [
            {"id": 3, "name": "baby", "synset": "baby.n.01"},
            {"id": 7, "name": "person", "synset": "person.n.01", "merged": [{"id": 3, "name": "baby"}]},
            {"id": 5, "name": "bicycle", "synset": "bicycle.n.01"},
        ],
        "images": images,
        "tracks": [{"id": key, "video_id": video, "category_id": cat} for key, (video, cat) in tracks.items()],
        "annotations": annotations,
    }


def write_tao_annotations(root: Path, data: object, *, file: str = "train.json") -> Path:
    path = root / "annotations" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def write_tao_frames(root: Path) -> None:
    rng = np.random.default_rng(0)
    for video, (width, height) in TAO_SIZES.items():
        for number in range(6):
            path = root / "frames" / tao_file_name(video, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(path)
