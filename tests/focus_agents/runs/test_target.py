"""An export destroys neither what it reads nor what is no policy's, and is refused before weights are read."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_agents.cli import export
from focus_agents.errors import CheckpointError
from focus_agents.models.loading import load_model, load_processor
from focus_agents.models.loading.sources import find_source
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs import export as exports
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.export import export_policy
from focus_agents.runs.target import check_target
from focus_env.errors import StorageError
from tests.focus_agents.models.families import make_model
from tests.focus_agents.models.loading.adapters import write_adapter

POLICY = json.dumps({"versions": {"focus": "0.1.0"}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor) -> Path:
    """A base, and an adapter on it that names it."""
    top = tmp_path_factory.mktemp("made")
    base = save_policy(top / "base", make_model("qwen2_5_vl", processor), processor)
    write_adapter(top / "adapter", load_model(str(base)), str(base))
    return top


@pytest.fixture
def models(made: Path, tmp_path: Path) -> Path:
    """Their copies, to be lost: whole weights with their adapter below, and a house of two adapters."""
    top = tmp_path / "models"
    shutil.copytree(made / "base", top / "base")
    shutil.copytree(made / "adapter", top / "base/adapter")
    for name in ("one", "two"):
        shutil.copytree(made / "adapter", top / "house" / name)
    for folder in ("base/adapter", "house/one", "house/two"):
        file = top / folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(top / "base")}))
        (top / folder / "focus.json").write_text(POLICY)
    (top / "focus.json").write_text(POLICY)
    (top / "link").symlink_to("base")
    (top / "linked").mkdir()  # as in the hub's cache: links to files elsewhere
    for file in (top / "base").iterdir():
        if file.is_file():
            (top / "linked" / file.name).symlink_to(file)
    return top


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("check_model", "load_model", "load_config"):
        monkeypatch.setattr(exports, name, None)


@pytest.mark.parametrize(
    ("model", "to"),
    [
        ("base", "base"),
        ("base", "."),  # holds it
        ("base", "base/exported"),
        ("base", "base/deep/down"),
        ("base", "link"),
        ("link", "base"),
        ("base", "link/exported"),
        ("base", "house/../base"),
        ("linked", "base"),
        ("base/adapter", "base"),  # as `--save both` lays them out
        ("base/adapter", "base/adapter"),
        ("base/adapter", "base/adapter/x"),
        ("base:adapter", "base"),
        ("house:one", "house/one"),
        ("house:one", "house"),
        ("house:one", "base"),
        ("house/one on {top}/linked", "base"),
    ],
)
def test_what_is_read_is_not_replaced(model: str, to: str, models: Path) -> None:
    before = held(models)
    with pytest.raises(CheckpointError, match="expected another folder than the model's own, or its adapter's or base"):
        export_policy(f"{models}/{model.format(top=models)}", models / to)
    assert held(models) == before


@pytest.mark.parametrize("to", ["new", "house/three", "house/deep/down"])
def test_a_folder_apart(to: str, models: Path) -> None:
    check_target(models / to, find_source(f"{models}/house:one"))
    assert not (models / "house/deep").exists()  # nothing stays of the trial


def add(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")

    return change


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (add("thesis.txt"), "also holds thesis.txt, of no policy"),
        (add("runs/metrics.jsonl"), "also holds runs, of no policy"),
        (lambda f: (f / "empty").mkdir(), "also holds empty, of no policy"),
        (add(".notes"), "also holds .notes, of no policy"),
        (add("adapter/thesis.txt"), "also holds adapter/thesis.txt, of no policy"),
        (add("adapter/adapter/config.json"), "also holds adapter/adapter, of no policy"),
        (add("merges.txt/chapter"), "also holds merges.txt, of no policy"),
        (add("photo-00001-of-00002.safetensors"), "also holds photo-00001-of-00002.safetensors"),
        (lambda f: (f / "focus.json").write_text("not ours"), "whose focus.json has no versions of a policy"),
        (lambda f: (f / "focus.json").write_text('{"url": "http://localhost"}'), "whose focus.json has no versions"),
        (lambda f: ((f / "focus.json").unlink(), add("focus.json/x")(f)), "and no focus.json"),
    ],
)
def test_what_is_no_policys_is_not_replaced(change: Callable[[Path], object], got: str, models: Path) -> None:
    shutil.copytree(models / "base", models / "older")
    change(models / "older")
    before = held(models)
    with pytest.raises(CheckpointError, match=f"expected a new folder, an empty one, or that of an older.*{got}"):
        export_policy(f"{models}/house:one", models / "older")
    assert held(models) == before


def test_policies_of_all_forms_are_replaced(models: Path) -> None:
    older = models / "older"
    shutil.copytree(models / "base", older)
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model", "README.md"):
        (older / name).write_text("older")
    (models / "base/LICENSE").write_text("of the base, and so taken over")
    (older / "LICENSE").write_text("of the base, and so taken over")
    check_target(older, find_source(f"{models}/house:one"))
    check_target(models / "house/two", find_source(f"{models}/house:one"))


@pytest.mark.parametrize("to", ["file/sub", "file/deep/down", "/proc/export", "/dev/full/x", "/proc"])
def test_a_place_that_cannot_be_written(to: str, models: Path) -> None:
    (models / "file").write_text("mine")
    with pytest.raises((StorageError, CheckpointError)):
        export_policy(str(models / "base"), models / to)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_is_not_ones_own(models: Path) -> None:
    (models / "closed").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        export_policy(str(models / "base"), models / "closed/x")


def test_the_command_says_so_before_the_model_is_looked_at(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("focus_agents.models.loading.check_model", None)
    words = ["--model", str(models / "base/adapter"), "--to", str(models / "base")]
    monkeypatch.setattr(sys, "argv", ["focus export", *words])
    before = held(models)
    with pytest.raises(SystemExit) as stop:
        export.main()
    assert (stop.value.code, held(models)) == (2, before)
    assert "expected another folder than the model's own" in capsys.readouterr().err


class TestAPolicyOfARun:
    """Each end of a run writes its policy where one may lie, and asks nobody."""

    @pytest.fixture
    def save(self, tmp_path: Path) -> Callable[[], list[str]]:
        model, processor, told = load_model("small"), load_processor("small"), list[str]()

        def save() -> list[str]:
            told.clear()
            save_policy(tmp_path / "final", model, processor, warn=told.append)
            return list(told)

        return save

    def test_what_a_user_has_laid_beside_it_stays(self, save: Callable[[], Any], tmp_path: Path) -> None:
        final = tmp_path / "final"
        save()
        own = set(held(final))
        (final / "README.md").write_text("my notes")
        (final / "notes/deep").mkdir(parents=True)
        (final / "notes/deep/a.txt").write_text("deep")
        (final / "link.txt").symlink_to("notes/deep/a.txt")
        (final / "adapter").mkdir()
        (final / "adapter/mine.txt").write_text("below")
        for stale in ("model-00001-of-00002.safetensors", "adapter/adapter_model.safetensors"):
            (final / stale).write_text("of an older policy in another form")
        (final / "config.json").write_text("{}")
        assert save() == []
        kept = {"README.md", "notes/deep/a.txt", "link.txt", "adapter/mine.txt"}
        assert set(held(final)) == own | kept
        assert (final / "README.md").read_text() == "my notes"
        assert (final / "link.txt").is_symlink()
        load_model(str(final))

    @pytest.mark.parametrize("is_folder", [True, False])
    def test_what_is_no_policy_is_moved_aside(self, is_folder: bool, save: Callable[[], Any], tmp_path: Path) -> None:
        final, mine = tmp_path / "final", tmp_path / "final-moved-2"
        (tmp_path / "final-moved").write_text("moved before")
        if is_folder:
            final.mkdir()
        (final / "config.json" if is_folder else final).write_text("mine")
        assert save() == [f"{final}: what lay there is of no policy, and is in {mine} now"]
        assert (mine / "config.json" if is_folder else mine).read_text() == "mine"
        load_model(str(final))

    def test_an_empty_folder_and_an_older_policy_are_just_replaced(
        self, save: Callable[[], Any], tmp_path: Path
    ) -> None:
        (tmp_path / "final").mkdir()
        assert save() == save() == []
        assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_file_of_the_base_that_cannot_be_had_leaves_the_older_policy(tmp_path: Path) -> None:
    model, processor = load_model("tiny"), load_processor("tiny")
    folder = save_policy(tmp_path / "policy", model, processor)
    before = held(folder)

    def fail(fresh: Path) -> None:
        raise CheckpointError(f"the network is gone, {fresh.name}")

    with pytest.raises(CheckpointError, match="the network is gone"):
        save_policy(folder, model, processor, complete=fail)
    assert held(folder) == before
