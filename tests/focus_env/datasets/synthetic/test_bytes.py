"""What episodes look like is fixed: the models that ship and all published figures are of these very pictures."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest

from focus_env.datasets.synthetic import SyntheticDataset
from focus_env.types import Episode

SHAPES: tuple[dict[str, Any], ...] = (
    {"split": "train", "image_size": 64, "shots": 2},
    {"split": "val", "image_size": 113, "shots": 1, "seed": 7},
    {"split": "test", "image_size": 56, "shots": 4, "seed": 1},
    {"split": "test_shapes", "image_size": 250, "shots": 3},
)
OTHERS: tuple[dict[str, Any], ...] = (
    {"distractors": "any", "num_objects": 6},
    {"distractors": "same_shape", "absent_fraction": 0.5},
)
INDICES = (0, 1, 6, 123, 999)
EXPECTED: dict[tuple[str, int], str] = {
    ("one_look", 1): "a4389ad618bac3c6",
    ("one_look", 2): "426c1655e2296ebc",
    ("one_look", 3): "7b72e81cc85189b0",
    ("one_look", 4): "81fc7d96b0fd0b51",
    ("one_look", 5): "813258bf7b08387f",
    ("parts", 1): "a5cfd8f6a909a5f6",
    ("parts", 2): "9e913944bfea44ea",
    ("parts", 3): "9cacc30957acd100",
    ("parts", 4): "d4b322ae5e4d771c",
    ("parts", 5): "8b88c52bae9c0ed6",
    ("tracks", 1): "260057602acaa041",
    ("tracks", 2): "d17bcc9bbe891a90",
    ("tracks", 3): "c54ec3cdce67551f",
    ("tracks", 4): "64614b14491f28f8",
    ("tracks", 5): "603259f29e634422",
}


def digest(episodes: list[Episode]) -> str:
    """A hash of pictures, byte by byte, and of boxes, but for roundings, in which machines differ."""
    all_of_them = hashlib.sha256()
    for episode in episodes:
        pictures = [(episode.query_frame, episode.target_box)]
        pictures += [(exemplar.frame, exemplar.box) for exemplar in episode.support]
        for frame, box in pictures:
            rounded = box and [f"{number:.6f}" for number in box]
            all_of_them.update(repr((episode.identity, frame.name, rounded)).encode() + frame.image().tobytes())
    return all_of_them.hexdigest()[:16]


@pytest.mark.parametrize(("scenes", "level"), itertools.product(("one_look", "parts", "tracks"), range(1, 6)))
def test_episodes_are_the_same_to_the_byte(scenes: Any, level: int) -> None:
    options = [shape | {"scenes": scenes, "level": level} for shape in SHAPES]
    if scenes == "one_look":
        options += [options[0] | other for other in OTHERS]
    datasets = [SyntheticDataset(**arguments) for arguments in options]
    episodes = [dataset[index] for dataset in datasets for index in INDICES]
    assert digest(episodes) == EXPECTED[scenes, level]
