"""A wrong annotation of TAO's file, where what is bad is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from focus_env.datasets import TaoTracks, load_dataset
from focus_env.errors import DatasetError
from tests.focus_env.datasets.readers.writers import make_tao_annotations, write_tao_annotations, write_tao_frames


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [1, 2, "x", 4]},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, float("nan"), 4]},
        {"image_id": 999},
        {"category_id": "7"},
        {"id": None},
    ],
    ids=str,
)
def test_it_costs_its_track_alone(tmp_path: Path, change: dict[str, Any]) -> None:
    data = make_tao_annotations()
    bad = data["annotations"][0]["track_id"]
    data["annotations"][0] |= change
    write_tao_annotations(tmp_path, data)
    write_tao_frames(tmp_path)
    tracks = TaoTracks(tmp_path, split="train", skips=True)
    ids = [key.identity.rpartition("/")[2] for key in tracks._keys]
    with pytest.raises(DatasetError, match=r"annotations\[0\]: expected "):
        tracks[ids.index(str(bad))]
    dataset: Any = load_dataset("tao", root=tmp_path, split="train", shots=1, on_bad="skip", protocol="random")
    assert dataset.skipped["tracks_bad"] == 1
    assert len(dataset) > 0
    assert not any(dataset[index].identity.endswith(f"/{bad}") for index in range(len(dataset)))


def test_one_that_names_no_track_ends_the_split(tmp_path: Path) -> None:
    data = make_tao_annotations()
    data["annotations"][0]["track_id"] = 999
    write_tao_annotations(tmp_path, data)
    with pytest.raises(DatasetError, match=r"annotations\[0\]: expected track_id to be an id in the file, got 999"):
        TaoTracks(tmp_path, split="train", skips=True)
