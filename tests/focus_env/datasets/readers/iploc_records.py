"""IPLoc's files of episodes in little, and the pictures that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus_env.datasets import IPLocEpisodes

IPLOC_PREFIX = "data/tracking/LASOT"
WH = {0: (40, 30), 1: (30, 40), 2: (40, 30), 3: (16, 24)}

Record = dict[str, Any]


def record_of(name: str, boxes: list[str], prefix: str = IPLOC_PREFIX, **changes: object) -> Record:
    paths = [f"{prefix}/{name.split('-')[0]}/{name}/img/{number:08d}.jpg" for number in range(len(boxes))]
    record: Record = {
        "element": name.split("-")[0],
        "image_path": paths,
        "bbox": boxes,
        "image_id": list(range(len(boxes))),
    }
    return record | changes


SOUND = ["[1, 2, 11, 22]", "[0, 0, 30, 40]", "[5.5, 6, 7.25, 8]"]


def write_pictures(root: Path) -> None:
    """The pictures of three videos, four each, under <root>/LASOT."""
    rng = np.random.default_rng(0)
    for name in ("cat-1", "cat-2", "sea lion-7"):
        folder = root / "LASOT" / name.split("-")[0] / name / "img"
        folder.mkdir(parents=True)
        for number, (width, height) in WH.items():
            pixels = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:08d}.jpg")


def write_records(root: Path, records: object) -> Path:
    path = root / "episodes.json"
    path.write_text(records if isinstance(records, str) else json.dumps(records))
    return path


def load_records(root: Path, records: object, **options: Any) -> IPLocEpisodes:
    return IPLocEpisodes(write_records(root, records), **{"image_root": root / "LASOT", "shots": 2, **options})
