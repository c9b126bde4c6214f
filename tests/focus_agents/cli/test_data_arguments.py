"""Which episodes a training is given: kinds of scenes, a bounded pool, numbers of supports that are drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus_agents.cli import grpo, harness, sft
from focus_agents.cli.data_arguments import DataArguments, TrainingDataArguments
from focus_agents.cli.errors import user_errors
from focus_agents.integrations.harness import served, write_request
from focus_env.datasets import SyntheticDataset
from focus_env.datasets.training import shots_at, with_shots
from tests.contracts import assert_same_episode

WORDS = ["--scenes", "tracks", "--shots", "4", "--shots-drawn", "1", "2", "4", "--num-training-episodes", "3"]


def read(words: list[str], command: str = "sft") -> TrainingDataArguments:
    parse = {"sft": sft.parse_arguments, "grpo": grpo.parse_arguments}[command]
    return parse(words).data


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_both_stages_take_them(command: str) -> None:
    episodes = read(WORDS, command).load_training()
    assert len(episodes) == 3
    assert {shots_at(episodes, step) for step in range(40)} == {1, 2, 4}
    whole = SyntheticDataset(scenes="tracks", shots=2, level=3, image_size=64)
    assert_same_episode(with_shots(episodes, 2, 2), whole[2])


def test_validation_has_all_supports_of_the_whole_split() -> None:
    episodes = read(WORDS).load_validation()
    assert (len(episodes), len(episodes[0].support), shots_at(episodes, 0)) == (1000, 4, None)


def test_without_them_it_is_the_data_set() -> None:
    assert isinstance(read([]).load_training(), SyntheticDataset)


def test_a_pool_of_shuffled_supports() -> None:
    data = read(["--shuffle-supports", "--num-training-episodes", "2"])
    assert len(data.load_training()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scenes", "halves"], "--scenes"),
        (
            ["--scenes", "parts", "--num-objects", "5"],
            "--num-objects: the scenes 'parts' have objects of their own rule",
        ),
        (
            ["--scenes", "tracks", "--distractors", "near"],
            "--distractors: the scenes 'tracks' have objects of their own rule",
        ),
        (["--scenes", "tracks", "--shots", "30"], "shots must be at most 24 with scenes 'tracks', got 30"),
        (["--dataset", "got10k", "--data-root", ".", "--scenes", "parts"], "--scenes: the data set 'got10k' has noth"),
        (["--num-training-episodes", "0"], "--num-training-episodes: expected 1 or more, got 0"),
        (["--num-training-episodes", "2000000"], "--num-training-episodes: expected at most 1000000, as many as the"),
        (["--shots-drawn", "0", "1"], "--shots-drawn: expected 1 or more, got 0"),
        (["--shots-drawn", "2", "2"], "--shots-drawn: expected different numbers of supports, got (2, 2)"),
        (["--shots-drawn", "1", "8"], "--shots-drawn: expected at most 4, the supports of an episode, got 8; raise"),
    ],
)
def test_what_cannot_be(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), user_errors(sft.Args):
        read(words).load_training()
    error = capsys.readouterr().err
    assert message.replace("--", "").replace("-", "_") in error.replace("--", "").replace("-", "_"), error
    assert "Traceback" not in error


@pytest.mark.parametrize(("count", "empty"), [(8, None), (7, "val"), (3, "train")])
def test_eight_pictures_of_an_object_are_enough(
    count: int, empty: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/own_pictures.md says."""
    rng = np.random.default_rng(0)
    for letter in "abcdefgh"[:count]:
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{letter}.png")
        (tmp_path / f"{letter}.txt").write_text("4 2 13 20 mug")
    data = read(["--dataset", "folder", "--data-root", str(tmp_path), "--shots", "1", "--num-training-episodes", "9"])
    loads = {"train": data.load_training, "val": data.load_validation}
    assert all(len(load()) > 0 for split, load in loads.items() if empty is None or (empty, split) == ("val", "train"))
    if empty is None:
        return
    with pytest.raises(SystemExit), user_errors(sft.Args):
        loads[empty]()
    error = " ".join(capsys.readouterr().err.split())
    assert f"split '{empty}' has no episode; an episode needs one picture more of the same object than --shots" in error


CHOSEN: dict[str, Any] = {
    "identity": "label", "split": "test", "protocol": "focus", "episodes_per_track": 7, "min_gap": 2, "absent": "keep",
    "on_bad": "skip", "max_pixels": 900, "min_pixels": 400, "scenes": "parts", "level": 1, "num_objects": 3,
    "distractors": "near", "absent_fraction": 0.5, "shuffle_supports": True, "image_size": 96, "data_seed": 5,
}  # fmt: skip
"""A value other than the default for each flag but for those of paths."""


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Pictures of two objects with their boxes as JSON lines."""
    lines = []
    for number in range(10):
        Image.fromarray(np.full((40, 50, 3), 20 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        boxes = [{"label": f"mug {number % 2}", "box": [number, 2, number + 9, 20]}]
        lines.append(json.dumps({"image": f"{number}.png", "objects": boxes}))
    (tmp_path / "boxes.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_every_flag_of_the_episodes_is_walked() -> None:
    flags = {field.name for field in dataclasses.fields(DataArguments)}
    assert flags - set(CHOSEN) == {"dataset", "data_root", "image_root"}


@pytest.mark.parametrize("dataset", ["synthetic", "jsonl"])
@pytest.mark.parametrize("changed", [(), *((name,) for name in CHOSEN)], ids=lambda names: "-".join(names) or "plain")
def test_a_harness_serves_the_episodes_that_were_asked_for(
    dataset: str, changed: tuple[str, ...], labelled: Path, tmp_path: Path
) -> None:
    """Whether a value is the flag's default, that of `load_dataset`, or neither."""
    paths = {"data_root": labelled / "boxes.jsonl", "image_root": labelled} if dataset == "jsonl" else {}
    plain: dict[str, Any] = {"split": "all", "identity": "label"} if dataset == "jsonl" else {}
    data = DataArguments(dataset=dataset, **paths, **(plain | {name: CHOSEN[name] for name in changed}))
    if dataset == "jsonl" and changed == ("split",):
        data = dataclasses.replace(data, split="all")
    args = harness.Args(data=data, shots=1)
    folder = tmp_path / "served"
    write_request(
        folder, dataset=harness.dataset_arguments(args), num_episodes=2, shuffle_supports=data.shuffle_supports
    )
    theirs, ours = served(str(folder)).episodes, data.load(shots=1)
    assert len(theirs) == len(ours)
    for index in range(2):
        assert_same_episode(theirs[index], ours[index])
