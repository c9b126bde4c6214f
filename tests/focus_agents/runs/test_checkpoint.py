"""Saved policies: whole, or as they were before."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import focus_env
from focus_agents.errors import CheckpointError
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import load_training_state, save_policy, save_training_state
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import get_template


class FakeModel:
    """Writes a line instead of weights, and may fail half-way."""

    def __init__(self, content: str, *, error: BaseException | None = None) -> None:
        self.content = content
        self.error = error

    def save_pretrained(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "weights").write_text(self.content)
        if self.error is not None:
            raise self.error


class FakeProcessor:
    """As `FakeModel`, in the role of a processor."""

    def __init__(self, *, error: BaseException | None = None) -> None:
        self.error = error

    def save_pretrained(self, directory: Path) -> None:
        (directory / "tokenizer").write_text("words")
        if self.error is not None:
            raise self.error


def save(directory: Path, model: Any, processor: Any = None) -> Path:
    fake: Any = FakeProcessor() if processor is None else processor
    return save_policy(directory, model, fake)


def files(folder: Path) -> dict[str, str]:
    """Everything under a folder, hidden files too."""
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else "" for p in folder.rglob("*")}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt("stopped"), RuntimeError("killed")])
@pytest.mark.parametrize("who", ["model", "processor"])
@pytest.mark.parametrize("has_older", [True, False])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: BaseException, who: str, has_older: bool) -> None:
    if has_older:
        save(tmp_path / "final", FakeModel("old"))
    before = files(tmp_path)
    model = FakeModel("new", error=error if who == "model" else None)
    processor = FakeProcessor(error=error if who == "processor" else None)
    with pytest.raises(type(error), match=str(error)):
        save(tmp_path / "final", model, processor)
    assert files(tmp_path) == before


def test_a_whole_one_replaces_the_older(tmp_path: Path) -> None:
    save(tmp_path / "final", FakeModel("old"))
    (tmp_path / "final" / "adapter_model.safetensors").write_text("of the old one")
    assert save(tmp_path / "final", FakeModel("new")) == tmp_path / "final"
    assert sorted(files(tmp_path)) == ["final", "final/focus.json", "final/tokenizer", "final/weights"]
    assert (tmp_path / "final" / "weights").read_text() == "new"


def test_missing_parents_are_made(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b" / "final", FakeModel("new"))
    assert (tmp_path / "a" / "b" / "final" / "weights").exists()


def test_a_relative_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("final"), FakeModel("new"))
    assert sorted(files(tmp_path)) == ["final", "final/focus.json", "final/tokenizer", "final/weights"]


def test_others_may_read_it(tmp_path: Path) -> None:
    """The scratch folder is private, what comes out of it is as any other folder."""
    (tmp_path / "plain").mkdir()
    save(tmp_path / "final", FakeModel("new"))
    assert (tmp_path / "final").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_versions_are_kept(tmp_path: Path) -> None:
    save(tmp_path / "final", FakeModel("new"))
    assert json.loads((tmp_path / "final" / "focus.json").read_text()) == {
        "versions": {
            "focus": focus_env.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    }


@pytest.mark.parametrize("name", ["default", "compact", "iploc"])
def test_the_prompt_is_kept(tmp_path: Path, name: str) -> None:
    """Plain words, so that a file says the same to other versions and other programs."""
    template = dataclasses.replace(get_template(name), frame=CoordinateFrame.NORM_100)
    fake: Any = FakeProcessor()
    save_policy(tmp_path / "final", FakeModel("new"), fake, template=template)
    stored = json.loads((tmp_path / "final" / "focus.json").read_text())
    assert set(stored) == {"versions", "prompt"}
    assert stored["prompt"] == {"template": name, "frame": "norm_100"}


def test_the_prompt_is_that_of_the_newer_policy(tmp_path: Path) -> None:
    fake: Any = FakeProcessor()
    save_policy(tmp_path / "final", FakeModel("old"), fake, template=get_template("compact"))
    save_policy(tmp_path / "final", FakeModel("new"), fake)
    assert "prompt" not in json.loads((tmp_path / "final" / "focus.json").read_text())


def test_the_real_thing_is_in_transformers_format(tmp_path: Path, model: Any, processor: VLMProcessor) -> None:
    folder = save_policy(tmp_path / "final", model, processor)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "focus.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


class TestTrainingState:
    """What a training goes on from."""

    def model(self, width: int = 3, num_steps: int = 1) -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
        """Two parameters that have taken optimizer steps."""
        generator = torch.Generator().manual_seed(0)
        parameters = {
            "a": torch.nn.Parameter(torch.randn(2, width, generator=generator)),
            "b": torch.nn.Parameter(torch.randn(4, generator=generator)),
        }
        optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
        for _ in range(num_steps):
            self.step(parameters, optimizer)
        return parameters, optimizer

    def step(self, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        sum(p.square().sum() for p in parameters.values()).backward()
        optimizer.step()

    def test_it_goes_on_exactly(self, tmp_path: Path) -> None:
        parameters, optimizer = self.model()
        save_training_state(tmp_path, parameters, optimizer, {"step": 1, "best": 0.5})
        self.step(parameters, optimizer)
        others, other_optimizer = self.model(num_steps=0)
        assert load_training_state(tmp_path, others, other_optimizer) == {"step": 1, "best": 0.5}
        self.step(others, other_optimizer)
        assert all(torch.equal(parameter, others[name]) for name, parameter in parameters.items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda p: p.update(c=torch.nn.Parameter(torch.zeros(1))), r"with c of shape \(1,\), got None"),
            (lambda p: p.pop("b"), r"with b of shape None, got \(4,\)"),
        ],
    )
    def test_other_parameters_are_refused(self, tmp_path: Path, change: Any, message: str) -> None:
        save_training_state(tmp_path, *self.model(), {})
        parameters, optimizer = self.model()
        change(parameters)
        with pytest.raises(CheckpointError, match=message):
            load_training_state(tmp_path, parameters, optimizer)

    def test_other_shapes_are_refused_before_anything_is_loaded(self, tmp_path: Path) -> None:
        save_training_state(tmp_path, *self.model(), {})
        parameters, optimizer = self.model(width=5)
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        with pytest.raises(CheckpointError, match=r"a of shape \(2, 5\), got \(2, 3\); it belongs to another"):
            load_training_state(tmp_path, parameters, optimizer)
        assert all(torch.equal(parameter, before[name]) for name, parameter in parameters.items())

    @pytest.mark.parametrize("name", ["parameters.safetensors", "optimizer.pt", "progress.json"])
    @pytest.mark.parametrize("damage", ["missing", "cut"])
    def test_damaged_files_are_named(self, tmp_path: Path, name: str, damage: str) -> None:
        save_training_state(tmp_path, *self.model(), {"step": 1})
        file = tmp_path / name
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(CheckpointError, match="could not be read"):
            load_training_state(tmp_path, *self.model())

    def test_code_in_a_state_is_not_run(self, tmp_path: Path) -> None:
        save_training_state(tmp_path, *self.model(), {})
        torch.save({"state": _Attack(tmp_path / "attacked")}, tmp_path / "optimizer.pt")
        with pytest.raises(CheckpointError, match="could not be read"):
            load_training_state(tmp_path, *self.model())
        assert not (tmp_path / "attacked").exists()


class _Attack:
    """Makes a file where a pickle of it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)
