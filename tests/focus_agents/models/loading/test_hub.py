"""Models of the hub, against a local server that plays it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from focus_agents.cli.common import ModelArguments
from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import has_adapters
from focus_agents.models.loading import (
    check_model,
    load_config,
    load_model,
    load_processor,
    load_template,
    load_trainable_model,
    weights_digest,
)
from focus_agents.models.loading import hub as hub_module
from focus_agents.models.loading.hub import find_on_hub
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.checkpoint import save_policy
from focus_env.prompts import get_template
from tests.focus_agents.models.families import make_model
from tests.focus_agents.models.loading.adapters import write_adapter
from tests.hub_server import TOKEN, Hub, serving_hub

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
HEADER_BYTES = 100_001
"""What the hub's library asks for to read a header."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "base"
    return save_policy(folder, make_model("qwen2_vl", processor), processor, template=get_template("compact"))


def forget_answers() -> None:
    """As a new process, which asks again."""
    hub_module._find_on_hub.cache_clear()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    forget_answers()
    with serving_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub
    forget_answers()


def test_a_model_with_its_prompt_and_commit(hub: Hub, base: Path) -> None:
    first = hub.add("owner/base", base).newest
    processor = check_model("owner/base")
    (asked,) = (line for line in hub.log if "model.safetensors" in line)
    assert asked.startswith("GET")
    small = sum(file.stat().st_size for file in base.iterdir() if file.name != "model.safetensors")
    assert hub.sent <= small + HEADER_BYTES < small + (base / "model.safetensors").stat().st_size  # no weights
    torch.testing.assert_close(load_model("owner/base").state_dict(), load_model(str(base)).state_dict())
    assert len(processor.tokenizer) == len(load_processor(str(base)).tokenizer)
    assert load_template("owner/base").name == "compact"
    assert weights_digest("owner/base") == first
    assert PolicySpec(text="vlm:owner/base").model_digest() == first[:12]


def test_revisions(hub: Hub, base: Path, tmp_path: Path) -> None:
    model = hub.add("owner/moves", base)
    old = model.newest
    new = model.commit({**model.commits[old], "notes.txt": b"another"})
    assert find_on_hub("owner/moves").commit == new
    assert find_on_hub("owner/moves", old).commit == old
    assert load_config(f"owner/moves@{old}").model_type == "qwen2_vl"
    assert weights_digest(f"owner/moves@{old}") == old
    with pytest.raises(CheckpointError, match=r"owner/moves has no revision 'nowhere'; .*commits/main"):
        check_model("owner/moves@nowhere")


def test_an_adapter_of_the_hub_on_a_base_of_the_hub(hub: Hub, base: Path, tmp_path: Path) -> None:
    commit = hub.add("owner/base", base).newest
    for name in ("one-shot", "four-shots"):
        write_adapter(tmp_path / "adapters" / name, load_model(str(base)), "owner/base", revision=commit)
    hub.add("owner/adapters", tmp_path / "adapters")
    hub.models["owner/base"].commit({"config.json": b"null"})  # the revision that the adapter names is kept
    with pytest.raises(CheckpointError, match="expected one adapter, got four-shots, one-shot"):
        check_model("owner/adapters")
    check_model("owner/adapters:one-shot")
    assert has_adapters(load_model("owner/adapters:one-shot"))
    with pytest.raises(CheckpointError, match="expected an object in braces, got null"):
        check_model("owner/adapters:one-shot on owner/base")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_gated": True}, "owner/base is gated: ask for access on .*/owner/base, then log in by `hf auth login`"),
        ({"is_private": True}, "the hub has no model owner/base, or it is private: correct the name, or log in"),
    ],
)
def test_what_is_not_for_everybody(
    options: dict[str, Any], message: str, hub: Hub, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("owner/base", base, **options)
    for load in (check_model, load_model, load_processor, load_config):
        with pytest.raises(CheckpointError, match=message):
            load("owner/base")
    with pytest.raises(CheckpointError, match=message):
        PolicySpec(text="vlm:owner/base").check()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check_model("owner/base")


def test_what_is_not_there(hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"the hub has no model owner/none, or it is private"):
        check_model("owner/none")
    shards = {name: (base / name).read_bytes() for name in ("config.json", "tokenizer.json", "tokenizer_config.json")}
    shards |= {"preprocessor_config.json": (base / "preprocessor_config.json").read_bytes()}
    shards |= {"chat_template.jinja": (base / "chat_template.jinja").read_bytes()}
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    model = hub.add("owner/half", tmp_path)
    model.commit({**shards, "model.safetensors.index.json": index, "model-00001-of-00002.safetensors": b""})
    with pytest.raises(CheckpointError, match=r"1 of 2 files that .* missing, e.g. model-00002-of-00002.safetensors"):
        check_model("owner/half")
    model.commit({**shards, "pytorch_model.bin": b""})
    forget_answers()
    with pytest.raises(CheckpointError, match=r"got pytorch_model\.bin, a pickle"):
        check_model("owner/half")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        CheckpointError, match=r"the hub at .*:9 cannot be reached \(.*\), and owner/new was not downloaded"
    ):
        check_model("owner/new")


def damage(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({Q_PROJ: torch.zeros(3, 5)}), rf"{Q_PROJ}: expected a tensor of .*, got \[3, 5\]; take"),
        (lambda t: t.pop(Q_PROJ), r"1 weights are missing, e.g. \S+q_proj.weight"),
        (lambda t: t.update({Q_PROJ: t[Q_PROJ].to(torch.int8)}), f"holds {Q_PROJ} in I8, whole numbers"),
    ],
    ids=["shape", "missing", "whole numbers"],
)
def test_tensors_are_looked_at_before_they_are_downloaded(
    change: Any, message: str, is_cached: bool, hub: Hub, base: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    damage(folder, change)
    hub.add("owner/base", folder)
    if is_cached:
        find_on_hub("owner/base").fetch("model.safetensors")
        hub.odd = lambda handler: "model.safetensors" in handler.path and handler.answer(500, b"") is None
    with pytest.raises(CheckpointError, match=message):
        check_model("owner/base")
    assert is_cached or hub.sent < (base / "model.safetensors").stat().st_size


def test_files_of_the_hub_that_hold_no_tensors(hub: Hub, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    hub.add("owner/base", folder)
    with pytest.raises(CheckpointError, match=r"could not be loaded: model.safetensors is no file of safetensors"):
        check_model("owner/base")


def test_more_layers_than_the_weights_of_the_hub_have(hub: Hub, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 100, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    hub.add("owner/base", folder)
    with pytest.raises(CheckpointError, match=r"describes a model of [\d,]+ parameters, and its weights have"):
        check_model("owner/base")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_cache_will_do_for_a_hub_that_is_ill(
    status: int, hub: Hub, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("owner/base", base)
    load_model("owner/base")
    load_processor("owner/base")
    forget_answers()
    hub.odd = lambda handler: handler.answer(status, b"") is None
    waits: list[float] = []  # the library asks again and again, 23 s in all
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    check_model("owner/base")
    assert waits


def test_without_a_network_the_cache_is_enough(hub: Hub, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/base", base)
    load_model("owner/base")
    load_processor("owner/base")
    for name, value in (("ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(constants, name, value)
        check_model("owner/base")
        assert load_template("owner/base").name == "default"  # focus.json was not asked for before


def test_a_run_keeps_the_commit_that_it_was_started_with(hub: Hub, base: Path, tmp_path: Path) -> None:
    model = hub.add("owner/base", base)
    old = model.newest
    write_adapter(tmp_path / "adapters/one", load_model(str(base)), "owner/base")
    adapters = hub.add("owner/adapters", tmp_path / "adapters").newest
    started = ModelArguments(model="owner/base").pinned()
    assert started.model == f"owner/base@{old}"
    on_adapter = ModelArguments(init_from=Path("owner/adapters:one")).pinned()
    assert on_adapter.source == f"owner/adapters@{adapters}:one on owner/base@{old}"
    assert on_adapter.pinned() == on_adapter
    assert ModelArguments(model="focus-small").pinned().model == "focus-small"
    assert started.describe_newer() == on_adapter.describe_newer() == []
    new = model.commit({**model.commits[old], "config.json": b"null"})
    forget_answers()
    assert started.pinned() == started
    (line,) = started.describe_newer()
    assert line.startswith(f"owner/base is at commit {new} on the hub by now; the run goes on with the one")
    assert has_adapters(load_model(on_adapter.source))
    del model.commits[old]
    forget_answers()
    with pytest.raises(CheckpointError, match=f"owner/base has no revision '{old}'"):
        check_model(started.source)


def test_what_is_saved_says_where_it_comes_from(hub: Hub, base: Path, tmp_path: Path) -> None:
    commit = hub.add("owner/base", base).newest
    told = {"model": f"owner/base@{commit}", "weights": commit}
    for form, rank in (("merged", None), ("adapter", 2)):
        model = load_trainable_model("owner/base", lora_rank=rank)
        folder = save_policy(tmp_path / form, model, load_processor("owner/base"), form=form)  # type: ignore[arg-type]
        assert json.loads((folder / "focus.json").read_text())["base"] == told
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("owner/base", commit)
    check_model(str(tmp_path / "adapter"))
