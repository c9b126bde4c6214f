"""What is exported loads without this package, and what is pushed lies on the hub with a card."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from focus_agents.cli import export, push
from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import merge_adapters
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.models.pictures import PictureBudget, recorded_budget
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.focus import FocusPolicy
from focus_agents.reports.model_card import CardFacts, write_card
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.export import export_policy
from focus_agents.runs.folder import RunDirectory
from focus_env.prompts import get_template
from tests.answers import scored
from tests.focus_agents.models.cases import make_case
from tests.focus_agents.models.families import make_model
from tests.focus_agents.models.loading.adapters import logits, write_adapter
from tests.focus_agents.models.messages import ask
from tests.hub_server import TOKEN, Hub, serving_hub

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor) -> Path:
    folder = save_policy(tmp_path_factory.mktemp("bases") / "base", make_model("qwen2_5_vl", processor), processor)
    (folder / "video_preprocessor_config.json").write_text('{"video_processor_type": "Qwen2VLVideoProcessor"}')
    (folder / "chat_template.json").write_text('{"chat_template": "of an older transformers"}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "adapter", load_model(str(base)), str(base))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda place: place.write_text("mine"), "got a file"),
        (lambda place: (place.mkdir(), (place / "thesis.txt").write_text("mine")), "got one that holds thesis.txt and"),
        (lambda place: place.symlink_to("nowhere"), "got a file"),
    ],
    ids=["file", "folder", "dead-link"],
)
def test_what_is_no_policy_is_not_replaced(make: Any, got: str, base: Path, tmp_path: Path) -> None:
    place = tmp_path / "exported"
    make(place)
    with pytest.raises(
        CheckpointError, match=f"expected a new folder, an empty one, or that of an older policy, {got}"
    ):
        export_policy(str(base), place)
    assert place.is_symlink() or "mine" in [f.read_text() for f in (place, place / "thesis.txt") if f.is_file()]


def test_an_empty_folder_and_an_older_export_are_replaced(base: Path, tmp_path: Path) -> None:
    place = tmp_path / "exported"
    place.mkdir()
    for _ in range(2):
        assert export_policy(str(base), place) == place
        assert (place / WEIGHTS).is_file()


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_transformers_alone_loads_it(
    dtype: Any, base: Path, adapter: Path, tmp_path: Path, processor: VLMProcessor
) -> None:
    expected = logits(load_model(str(adapter)), processor)
    assert (expected - logits(load_model(str(base)), processor)).abs().max() > 0.01
    folder = export_policy(str(adapter), tmp_path / "exported", dtype=dtype)
    loaded, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    own = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    assert {parameter.dtype for parameter in loaded.parameters()} == {own}
    with safe_open(folder / WEIGHTS, framework="pt") as stored:
        assert not any("lora" in name or "base_layer" in name for name in stored.keys())  # noqa: SIM118
    merged = merge_adapters(load_model(str(adapter))).state_dict()
    assert all(torch.equal(values, merged[name].to(own)) for name, values in loaded.state_dict().items())
    if dtype == "auto":
        torch.testing.assert_close(logits(loaded, processor), expected, rtol=1e-3, atol=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert tokenizer.chat_template == processor.tokenizer.chat_template
    assert type(AutoImageProcessor.from_pretrained(folder)) is type(processor.image_processor)
    assert (folder / "video_preprocessor_config.json").is_file()  # what nothing here writes is the base's
    assert not (folder / "chat_template.json").exists()  # would contradict the template that is written
    assert not (folder / "adapter_config.json").exists()


def test_transformers_own_processor_counts_tokens_as_the_base_says(tmp_path: Path, processor: VLMProcessor) -> None:
    """Gemma 3 has 256 tokens a picture unless its processor's settings say otherwise; trained policies keep them."""
    case = make_case("gemma3", processor)
    save_policy(tmp_path / "base", case.model, case.processor)
    num_tokens = int((case.prompts[0].input_ids == case.processor.image_token_id).sum()) // len(case.prompts[0].grids)
    settings = {
        "processor_class": "Gemma3Processor",
        "image_seq_length": num_tokens,
        "auto_map": {"AutoProcessor": "a.B"},
    }
    (tmp_path / "base/processor_config.json").write_text(json.dumps(settings))
    file = tmp_path / "base/tokenizer_config.json"
    tokens = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"extra_special_tokens": tokens}))
    save_policy(tmp_path / "trained", case.model, load_processor(str(tmp_path / "base")))
    for name in ("trained", "exported"):
        folder = tmp_path / name
        if name == "exported":
            export_policy(str(tmp_path / "trained"), folder)
        theirs = AutoProcessor.from_pretrained(folder)
        inputs = theirs(images=[np.zeros((20, 20, 3), np.uint8)], text="<start_of_image>", return_tensors="np")
        assert (inputs["input_ids"] == case.processor.image_token_id).sum() == num_tokens != 256
        assert "auto_map" not in json.loads((folder / "processor_config.json").read_text())


def test_an_adapter_alone_for_peft(adapter: Path, base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
    folder = export_policy(str(adapter), tmp_path / "exported", form="adapter")
    assert not (folder / WEIGHTS).exists()
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), str(folder))
    assert torch.equal(logits(plain, processor), logits(load_model(str(adapter)), processor))


@pytest.mark.parametrize(
    ("form", "pictures"),
    [("merged", PictureBudget(9, 16)), ("adapter", PictureBudget(None, 9)), ("merged", PictureBudget())],
)
def test_how_large_pictures_were_shown_goes_along(
    form: Any, pictures: PictureBudget, adapter: Path, tmp_path: Path, processor: VLMProcessor
) -> None:
    """So that what is exported answers as the policy was measured."""
    trained = tmp_path / "trained"
    save_policy(trained, load_model(str(adapter)), processor, pictures=pictures, form="adapter")
    folder = export_policy(str(trained), tmp_path / "exported", form=form)
    assert recorded_budget(folder) == pictures
    policies = [FocusPolicy.from_pretrained(str(place)) for place in (trained, folder)]
    image = np.zeros((200, 200, 3), dtype=np.uint8)
    counts = [
        int(policy.processor.encode(ask(image, image)).input_ids.tolist().count(policy.processor.image_token_id))
        for policy in policies
    ]
    assert counts[0] == counts[1]
    assert pictures.validation is None or counts[0] <= 2 * pictures.validation


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("{base}", {"form": "adapter"}, "expected an adapter to write, got whole weights"),
        ("tiny", {}, "expected trained weights to export"),
    ],
)
def test_what_cannot_be_exported(model: str, options: Any, message: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        export_policy(model.format(base=base), tmp_path / "exported", **options)


def test_not_over_itself(base: Path) -> None:
    with pytest.raises(CheckpointError, match="expected another folder than the model's own"):
        export_policy(str(base), base)


@pytest.fixture
def run(tmp_path: Path, adapter: Path, processor: VLMProcessor) -> RunDirectory:
    """A run that has trained on a base, with the answers of its validations."""
    config = {"command": "sft", "model": str(adapter), "dataset": "got10k", "shots": 4, "seed": 7, "data_seed": 3}
    run = RunDirectory.create(tmp_path / "my-run", {**config, "output_dir": "/secret/place"})
    save_policy(run.checkpoints / "final", load_model(str(adapter)), processor, template=get_template("default"))
    run.write_answers("before", [scored(0.1), scored(0.2, index=1)])
    run.write_answers("after", [scored(0.6), scored(0.8, index=1)])
    return run


def command(module: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"focus {words[0]}", *words[1:]])
    module.main()


def header(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card(run: RunDirectory, tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = run.checkpoints / "final"
    command(export, monkeypatch, "export", "--model", str(final), "--to", str(tmp_path / "exported"))
    card = (tmp_path / "exported/README.md").read_text()
    assert header(card)["library_name"] == "transformers"
    assert "base_model" not in header(card)  # the hub takes names of its own only
    assert "Weights from adapter, trained by focus-localization" in card
    assert "| after training | 2 | 70.0 (60.0 to 80.0) | 100.0 (100.0 to 100.0) |" in card
    assert "dataset got10k" in card
    assert "shots 4" in card
    assert "seed 7, data_seed 3" in card
    assert "/secret/place" not in card
    assert '"model": "adapter"' in card
    assert str(tmp_path.parent) not in card
    assert load_template(str(tmp_path / "exported")).name == "default"
    command(export, monkeypatch, "export", "--model", str(adapter), "--to", str(tmp_path / "a"), "--form", "adapter")
    card = (tmp_path / "a/README.md").read_text()
    assert (header(card)["library_name"], header(card)["license"]) == ("peft", "mit")
    assert header(card)["base_model_relation"] == "adapter"


@pytest.mark.parametrize(
    ("start", "named"),
    [
        ("runs/early/checkpoints/final", "early"),
        ("focus-small-sft", "focus-small-sft"),
        ("org/name@1a2b", "org/name@1a2b"),
    ],
)
def test_the_card_of_a_run_that_went_on_names_its_start(start: str, named: str) -> None:
    """And not the model that the run would have started from without."""
    starts = [{"host": "my-machine", "command_line": "focus grpo --output-dir /secret"}]
    run = {"command": "grpo", "model": "focus-small-base", "init_from": start, "lr": 0.1, "starts": starts}
    card = write_card(CardFacts(name="x", run=run))
    assert f"By `focus grpo`. It started from {named}." in card
    assert "focus-small-base" not in card
    assert "my-machine" not in card
    assert "/secret" not in card
    assert '"lr": 0.1' in card


def test_a_card_of_an_export_is_pushed_under_the_new_name(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was known of the run; a card that somebody wrote stays as it is."""
    place = tmp_path / "exported"
    command(export, monkeypatch, "export", "--model", str(run.checkpoints / "final"), "--to", str(place))
    words = ("push", "--model", str(place), "--to", "me/mine", "--dry-run")
    command(push, monkeypatch, *words)
    shown = capsys.readouterr().out
    assert "# mine\n" in shown
    assert 'from_pretrained("me/mine")' in shown
    assert "--policy vlm:me/mine\n" in shown
    assert "| after training | 2 | 70.0" in shown
    assert "vlm:exported" not in shown
    (place / "README.md").write_text("# A policy of mine\n")
    command(push, monkeypatch, *words)
    assert capsys.readouterr().out.endswith("# A policy of mine\n\n")


class TestPush:
    """A local server plays the hub."""

    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
        with serving_hub(monkeypatch, tmp_path / "cache") as hub:
            yield hub

    def test_a_dry_run_sends_nothing(
        self, hub: Hub, adapter: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command(push, monkeypatch, "push", "--model", str(adapter), "--to", "me/mine", "--dry-run")
        shown, warned = capsys.readouterr()
        assert f"warning: the adapter names its base by a folder of this machine, {base}, where nobody" in warned
        assert "me/mine, private:" in shown
        assert "adapter_model.safetensors" in shown
        assert "library_name" in shown
        assert hub.log == []

    @pytest.mark.parametrize("is_public", [False, True])
    def test_it_lies_there_and_loads(
        self,
        is_public: bool,
        hub: Hub,
        adapter: Path,
        processor: VLMProcessor,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        words = ["--model", str(adapter), "--to", "me/mine", *(["--public"] if is_public else [])]
        command(push, monkeypatch, "push", *words)
        assert [created["visibility"] for created in hub.created] == ["public" if is_public else "private"]
        model = hub.models["me/mine"]
        files = model.commits[model.newest]
        assert files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
        assert header(files["README.md"].decode())["license"] == "mit"
        assert ("public" if is_public else "private") in capsys.readouterr().out
        expected = logits(load_model(str(adapter)), processor)
        assert torch.equal(logits(load_model("me/mine"), processor), expected)
        command(push, monkeypatch, "push", *words)  # again, into what is there

    @pytest.mark.parametrize(
        ("token", "message"),
        [
            (None, "expected a token of the hub, found none; log in by `hf auth login`, or set HF_TOKEN"),
            ("hf_wrong", "the hub at .* refuses .*; its token may not write there: log in by `hf auth login`"),
        ],
    )
    def test_without_a_token_that_may(
        self,
        token: str | None,
        message: str,
        hub: Hub,
        adapter: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(SystemExit) as stop:
            command(push, monkeypatch, "push", "--model", str(adapter), "--to", "me/mine")
        assert stop.value.code == 1
        text = " ".join(capsys.readouterr().err.split())
        assert re.search(message, text), text
        assert hub.models == {}

    @pytest.mark.parametrize("name", ["mine", "a/b/c", "me/", "me/mi ne"])
    def test_names(
        self, name: str, hub: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            command(push, monkeypatch, "push", "--model", str(adapter), "--to", name)
        assert "--to: expected OWNER/NAME" in capsys.readouterr().err

    def test_no_network(
        self, hub: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(SystemExit):
            command(push, monkeypatch, "push", "--model", str(adapter), "--to", "me/mine")
        assert "the hub at http://127.0.0.1:9 cannot be reached" in " ".join(capsys.readouterr().err.split())
