"""`focus publish`: a run's model in the place of one that comes with the package."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from focus_agents.cli import publish
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.folder import RunDirectory

NAME = "focus-small-base"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of a model with new weights that has come to its end."""
    run = RunDirectory.create(tmp_path / "run", {"num_steps": 3, "starts": [{"host": "my-machine"}]})
    save_policy(
        run.checkpoints / "final", load_model("small"), load_processor("small"), template=load_template("small")
    )
    (run.path / "summary.json").write_text(json.dumps({"seconds": 120.0}))
    return run


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the model that came with the package before."""
    monkeypatch.setattr(publish, "WEIGHTS", tmp_path / "weights")
    folder = tmp_path / "weights" / NAME
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("the weights of before")
    (folder / "focus.json").write_text('{"versions": {"focus": "0.0.1"}}')
    return folder


def start(monkeypatch: pytest.MonkeyPatch, run: RunDirectory, *words: str) -> None:
    words = ("focus publish", "--run", str(run.path), "--name", NAME, "--commit", "1234abc", *words)
    monkeypatch.setattr("sys.argv", list(words))
    publish.main()


def test_the_model_and_its_card_are_published(
    run: RunDirectory, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch, run, "--num-episodes", "2")
    card = (published / "README.md").read_text()
    assert card in capsys.readouterr().out
    assert "Run at commit 1234abc; 2 minutes" in card
    assert '"num_steps": 3' in card
    assert "my-machine" not in card
    assert "no target was absent in its training" in card
    assert "## Absent objects" not in card
    for label in ("unseen identities, 1 shot", "supports shuffled, 4 shots", "tracks: unseen identities, 4 shots"):
        assert f"\n| {label} | " in card
    assert json.loads((published / "config.json").read_text())["dtype"] == "bfloat16"
    assert [path.name for path in published.parent.iterdir()] == [NAME]


def test_the_card_of_a_model_that_may_say_absent_says_how_well(
    run: RunDirectory, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ABSENT_FRACTION", 0.5)
    template = dataclasses.replace(load_template("small"), allow_absent=True)
    save_policy(run.checkpoints / "final", load_model("small"), load_processor("small"), template=template)
    start(monkeypatch, run, "--num-episodes", "12")
    card = (published / "README.md").read_text()
    assert "## Absent objects" in card
    assert "| scenes | mIoU present | recall | precision | F1@0.5 |\n| --- | --- | --- | --- | --- |\n" in card
    assert re.search(r"\n\| tracks \| 0\.0 \(0\.0 to 0\.0\) \| 0\.0 \(.*\) \|  \| 0\.0 \(.*\) \|\n", card)
    assert "It may say that the object is\nnot there" in card
    assert "no target was absent" not in card


@pytest.mark.parametrize("fault", ["score", "write_card"])
def test_an_error_on_the_way_leaves_what_is_there(
    fault: str, run: RunDirectory, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(fault)

    monkeypatch.setattr(publish, fault, fail)
    with pytest.raises(RuntimeError, match=fault):
        start(monkeypatch, run, "--num-episodes", "2")
    assert {path.name for path in published.iterdir()} == {"model.safetensors", "focus.json"}
    assert (published / "model.safetensors").read_text() == "the weights of before"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_published(
    value: float,
    run: RunDirectory,
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = run.checkpoints / "final" / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[3] = value
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="2"):
        start(monkeypatch, run, "--num-episodes", "2")
    assert "1 of 94 weights hold numbers that are not finite" in capsys.readouterr().err
    assert (published / "model.safetensors").read_text() == "the weights of before"


def test_a_run_that_has_not_come_to_its_end_is_named(
    run: RunDirectory, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "summary.json").unlink()
    with pytest.raises(SystemExit, match="2"):
        start(monkeypatch, run)
    assert "summary.json: expected the summary of a run that has come to its end" in capsys.readouterr().err


def test_no_episodes_no_scores(run: RunDirectory, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="2"):
        start(monkeypatch, run, "--num-episodes", "0")
    assert (published / "model.safetensors").read_text() == "the weights of before"


def test_the_card_of_a_base_has_its_probe_and_its_start() -> None:
    probe = {
        "target": "ground colour",
        "accuracy": {place: [0.1, 0.62] for place in ("numbers", "last_number", "text_end", "region")},
        "commonest": 0.135,
        "num_fit": 1100,
        "num_test": 400,
    }
    args = publish.Args(run=Path("runs/how"), name=NAME, commit="1234abc")
    summary = {"seconds": 480.0, "box_iou": 0.8, "name_accuracy": 0.5}
    config = {"command": "pretrain", "init_from": "/somewhere/base-2/checkpoints/final", "name_weight": 1.0}
    card = publish.write_card(args, config, summary, {"1 shot": (0.1, 0.05, 0.15)}, probe)
    assert "## Linear probe\n\nShare of 400 test episodes" in card
    assert "| layer 1 | 0.62 | 0.62 | 0.62 | 0.62 |\n\n## Limits" in card
    assert "Pretrained further from base-2. Run at commit 1234abc" in card
    assert "/somewhere" not in card
    assert '"name_weight": 1.0' in card
    assert "Linear probe" not in publish.write_card(args, {}, summary, {})
    assert publish.describe_start({"command": "pretrain", "init_from": NAME}) == f"Pretrained further from {NAME}. "
    assert publish.describe_start({"command": "sft", "init_from": "runs/x/checkpoints/final"}) == ""
