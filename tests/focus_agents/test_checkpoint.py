"""Saved policies: whole, or as they were before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import focus_env
from focus_agents.checkpoint import save_policy
from focus_agents.processing import VLMProcessor


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
    (tmp_path / "final" / "stray").write_text("of the old one")
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


def test_the_real_thing_is_in_transformers_format(tmp_path: Path, model: Any, processor: VLMProcessor) -> None:
    folder = save_policy(tmp_path / "final", model, processor)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "focus.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
