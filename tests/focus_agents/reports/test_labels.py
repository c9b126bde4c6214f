"""What runs are called beside one another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import CheckpointError
from focus_agents.reports.labels import find_runs, label_runs


def make(path: Path, **config: Any) -> Path:
    (path / "checkpoints").mkdir(parents=True)
    (path / "metrics.jsonl").touch()
    if config:
        (path / "config.json").write_text(json.dumps({"name": path.name, "output_dir": str(path.parent), **config}))
    return path


def labels(*runs: Path) -> dict[str, list[str]]:
    return {label: [run.name for run in found] for label, found in label_runs(runs).items()}


def test_seeds_share_a_name_and_settings_tell_apart(tmp_path: Path) -> None:
    runs = [
        make(tmp_path / f"{name}-{seed}", command="grpo", lr=lr, seed=seed, kl_coeff=0.0)
        for name, lr in (("low", 1e-4), ("high", 3e-4))
        for seed in (0, 1)
    ]
    assert labels(*runs) == {
        "lr 0.0001 (low, seeds 0, 1)": ["low-0", "low-1"], "lr 0.0003 (high, seeds 0, 1)": ["high-0", "high-1"],
    }  # fmt: skip


def test_two_runs_with_default_names_are_two_entries(tmp_path: Path) -> None:
    """The last part of their names is the time of day, and no seed."""
    names = ("grpo-20261129-110000", "grpo-20261129-110500")
    same = [make(tmp_path / name, command="grpo", seed=0, lr=1e-4) for name in names]
    assert labels(*same) == {name: [name] for name in names}
    without = [make(tmp_path / "old" / name) for name in names]
    assert labels(*without) == {name: [name] for name in names}


def test_a_seed_may_start_from_the_model_of_its_seed(tmp_path: Path) -> None:
    runs = [make(tmp_path / f"a-{n}", command="grpo", seed=n, model=f"runs/sft-{n}/checkpoints/final") for n in (0, 1)]
    assert labels(*runs) == {"a, seeds 0, 1": ["a-0", "a-1"]}


def test_kinds_are_named_and_where_a_run_is_is_not(tmp_path: Path) -> None:
    runs = [
        make(tmp_path / "x", command="sft", seed=0, beta=0.0, num_workers=4),
        make(tmp_path / "y", command="sft", seed=0, beta=2.0, dashboard=False),
        make(tmp_path / "z", group_size=8, seed=0),  # of an earlier release
    ]
    assert labels(*runs) == {"sft, beta 0 (x)": ["x"], "sft, beta 2 (y)": ["y"], "grpo (z)": ["z"]}


def test_names_of_several_folders_have_the_folder(tmp_path: Path) -> None:
    runs = [make(tmp_path / place / "a", command="sft", seed=0) for place in ("one", "two")]
    assert label_runs(runs) == {"one/a": [runs[0]], "two/a": [runs[1]]}


def test_a_folder_of_runs_stands_for_them(tmp_path: Path) -> None:
    runs = [make(tmp_path / "study" / name, command="sft", seed=0) for name in ("a", "b")]
    assert find_runs([tmp_path / "study"]) == runs
    assert find_runs([runs[0]]) == runs[:1]
    with pytest.raises(ValueError, match=r"runs: expected different folders, got .* twice"):
        find_runs([tmp_path / "study", runs[0]])
    with pytest.raises(CheckpointError, match=r"expected folders with metrics\.jsonl, or folders of such, got .*none"):
        find_runs([tmp_path / "none"])


@pytest.mark.parametrize("odd", [5, ["grpo"], {"a": 1}, None, True])
def test_a_command_that_is_no_text_is_guessed(odd: Any, tmp_path: Path) -> None:
    runs = [make(tmp_path / "x", command=odd, group_size=8), make(tmp_path / "y", command="sft", lr=1.0)]
    assert labels(*runs) == {"grpo (x)": ["x"], "sft (y)": ["y"]}


def test_a_long_setting_is_cut_to_what_differs(tmp_path: Path) -> None:
    terms = "iou:1,format:0.5,whole_image:0.5,copy:0.5,my_package.module:the_{0}_term:0.25,iou_at(0.5):1"
    runs = [make(tmp_path / name, command="grpo", reward=terms.format(name)) for name in ("first", "other")]
    for name, label in zip(("first", "other"), labels(*runs), strict=True):
        assert name in label.removesuffix(f" ({name})")
        assert len(label) <= 80


@pytest.mark.parametrize("count", [1, 2, 5])
def test_labels_are_short_and_different_whatever_runs_are_called(count: int, tmp_path: Path) -> None:
    runs = [make(tmp_path / f"{'x' * 100}{place}{'y' * 120}") for place in range(count)]
    found = labels(*runs)
    assert len(found) == count
    assert all(len(label) <= 80 for label in found)
    many = [
        make(tmp_path / f"{place}/run", command="grpo", reward=",".join(f"m:{place}{n}" for n in range(900)), lr=place)
        for place in range(3)
    ]
    assert len(label_runs(many)) == 3
    assert all(len(label) <= 80 for label in label_runs(many))
