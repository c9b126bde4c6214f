"""Adapters of PEFT: logits are PEFT's own, and what does not fit is refused by name."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import (
    add_adapters,
    base_model,
    has_adapters,
    keep_reference,
    merge_adapters,
    reference_adapter,
)
from focus_agents.models.loading import (
    check_form,
    check_model,
    has_frozen_vision,
    load_model,
    load_processor,
    load_template,
    load_trainable_model,
    weights_digest,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.references import absolute_reference, on_base
from focus_agents.policies.focus import FocusPolicy
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.checkpoint import save_policy
from focus_env.prompts import get_template
from tests.focus_agents.models.families import make_batch, make_model, model_inputs
from tests.focus_agents.models.loading.adapters import (
    ADAPTER_WEIGHTS,
    AS_BEFORE,
    LANGUAGE_ONLY,
    change_settings,
    rename_tensors,
    write_adapter,
)

FAMILY = "qwen2_5_vl"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor) -> Path:
    return save_policy(tmp_path_factory.mktemp("bases") / "base", make_model(FAMILY, processor), processor)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """An adapter on the language model's seven projections, as FOCUS's."""
    return write_adapter(tmp_path_factory.mktemp("adapters") / "adapter", load_base(base), str(base))


@pytest.fixture
def adapter(published: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(published, tmp_path / "adapter"))


def load_base(base: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)


def logits(model: Any, processor: VLMProcessor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**model_inputs(make_batch(processor))).logits


SHAPES: dict[str, dict[str, Any]] = {
    "projections": {},
    "regular expression": {"target_modules": LANGUAGE_ONLY},
    "two projections": {"target_modules": ["q_proj", "v_proj"]},
    "all linear": {"target_modules": "all-linear"},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.v_proj": 32}},
    "a merger": {"modules_to_save": ["merger"]},
    "a head": {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
    "tower": {"target_modules": r".*visual.*(qkv|proj)|.*q_proj"},
    "bias": {"bias": "lora_only"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_peft(shape: str, base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
    folder = write_adapter(tmp_path / "adapter", load_base(base), str(base), **SHAPES[shape])
    expected = logits(PeftModel.from_pretrained(load_base(base), str(folder)), processor)
    assert (expected - logits(load_base(base), processor)).abs().max() > 0.01
    check_model(str(folder))
    loaded = load_model(str(folder))
    torch.testing.assert_close(logits(loaded, processor), expected, rtol=0, atol=0)
    torch.testing.assert_close(logits(merge_adapters(loaded), processor), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", ["projections", "regular expression", "tower", "ranks", "dora", "old pattern"])
def test_names_of_older_releases(shape: str, base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
    """The same adapter with the names that transformers gave its modules before 4.52."""
    options = SHAPES.get(shape, {"target_modules": r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"})
    if shape == "ranks":
        options = options | {"alpha_pattern": {r"model\.language_model\.layers\.0\.self_attn\.v_proj": 32}}
    folder = write_adapter(tmp_path / "adapter", load_base(base), str(base), **options)
    expected = logits(load_model(str(folder)), processor)
    rename_tensors(folder, AS_BEFORE)
    if shape == "old pattern":
        change_settings(folder, target_modules=r"model\.layers\.\d+\.self_attn\.(q|v)_proj")
    if shape == "ranks":
        change_settings(folder, alpha_pattern={r"model\.layers\.0\.self_attn\.v_proj": 32})
    check_model(str(folder))
    torch.testing.assert_close(logits(load_model(str(folder)), processor), expected, rtol=0, atol=0)


class TestPlaces:
    """Where an adapter and its base are found."""

    def test_all_that_takes_a_model(self, published: Path, base: Path, processor: VLMProcessor) -> None:
        text = str(published)
        assert load_processor(text).family.name == FAMILY
        assert load_template(text).frame == load_template(str(base)).frame
        policy = FocusPolicy.from_pretrained(text)
        assert has_adapters(policy.model)
        spec = PolicySpec(text=f"vlm:{text}")
        spec.check()
        assert spec.model_digest() not in (None, PolicySpec(text=f"vlm:{base}").model_digest())
        assert weights_digest(text) == weights_digest(f"{text} on {base}")

    def test_a_relative_base(
        self, adapter: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: VLMProcessor
    ) -> None:
        """From the folder where one works, or else from the adapter's own."""
        expected = logits(load_model(str(adapter)), processor)
        shutil.copytree(base, tmp_path / "models/base")
        change_settings(adapter, base_model_name_or_path="models/base")
        monkeypatch.chdir(tmp_path)
        assert torch.equal(logits(load_model("adapter"), processor), expected)
        monkeypatch.chdir(base)
        change_settings(adapter, base_model_name_or_path="../models/base")
        assert torch.equal(logits(load_model(str(adapter)), processor), expected)

    @pytest.mark.parametrize("recorded", ["/no/such/base", "~/no/base", "base", "a/b/c", "", None])
    def test_a_base_that_is_not_there(self, recorded: str | None, adapter: Path, base: Path) -> None:
        change_settings(adapter, base_model_name_or_path=recorded)
        for load in (load_model, load_processor, check_model):
            with pytest.raises(CheckpointError, match=r"(is no folder here|names no base model); .*`base_model`"):
                load(str(adapter))
        assert has_adapters(load_model(on_base(adapter, base)))

    def test_a_base_on_the_hub_that_was_not_downloaded(self, adapter: Path) -> None:
        change_settings(adapter, base_model_name_or_path="nobody/no-base", revision="main")
        with pytest.raises(CheckpointError, match=r"its base cannot be had: .*nobody/no-base at main was not"):
            check_model(str(adapter))

    @pytest.mark.parametrize(
        ("recorded", "given", "is_same"),
        [
            ("Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2-VL-2B-Instruct", False),
            ("Qwen/Qwen2-VL-7B-Instruct", "mirror/qwen2-vl-7b-instruct", True),
            ("unsloth/Qwen2-VL-7B-Instruct-bnb-4bit", "Qwen/Qwen2-VL-7B-Instruct", True),
            (f"/root/hub/models--Qwen--Qwen2-VL-7B/snapshots/{'a' * 40}", "Qwen/Qwen2-VL-7B-Instruct", False),
        ],
    )
    def test_a_base_of_another_name(self, recorded: str, given: str, is_same: bool, adapter: Path) -> None:
        change_settings(adapter, base_model_name_or_path=recorded)
        message = "was not downloaded" if is_same else "expected its base .*, got .*; name that model"
        with pytest.raises(CheckpointError, match=message):
            check_model(f"{adapter} on {given}")

    def test_several_in_one_folder(self, published: Path, tmp_path: Path) -> None:
        for name in ("one-shot", "runs/four-shots"):
            shutil.copytree(published, tmp_path / "many" / name)
        many = str(tmp_path / "many")
        with pytest.raises(CheckpointError, match=r"expected one adapter, got one-shot, runs/four-shots; .*:one-shot"):
            load_model(many)
        assert has_adapters(load_model(f"{many}:runs/four-shots"))
        with pytest.raises(CheckpointError, match=r"expected an adapter 'none' in .*; there are one-shot, runs/"):
            load_processor(f"{many}:none")
        shutil.rmtree(tmp_path / "many/one-shot")
        assert has_adapters(load_model(many))

    def test_an_adapter_is_no_base(self, adapter: Path, published: Path, base: Path) -> None:
        with pytest.raises(CheckpointError, match=r"expected whole weights as its base, .*focus export"):
            load_model(f"{adapter} on {published}")
        change_settings(adapter, base_model_name_or_path=str(adapter))
        with pytest.raises(CheckpointError, match="expected whole weights as its base"):
            load_model(str(adapter))
        with pytest.raises(CheckpointError, match=r"expected an adapter on .*, got no adapter_config.json"):
            load_model(f"{base} on {base}")

    def test_beside_its_base(self, published: Path, base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
        folder = shutil.copytree(base, tmp_path / "both")
        for file in published.iterdir():
            shutil.copy(file, folder)
        expected = logits(load_model(str(published)), processor)
        assert torch.equal(logits(load_model(str(folder)), processor), expected)

    def test_folders_become_absolute(self, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "odd on name@x:y").mkdir()
        assert absolute_reference("odd on name@x:y") == str(tmp_path / "odd on name@x:y")
        assert absolute_reference("./adapter:a on Qwen/x@main") == f"{adapter}:a on Qwen/x@main"
        assert absolute_reference("owner/name@v1:four") == "owner/name@v1:four"
        for text in ("owner/name@", "owner/name:", "a/b on ", " on a/b", "@x"):
            with pytest.raises(CheckpointError, match=r"got an empty part|expected the name"):
                absolute_reference(text)
        with pytest.raises(CheckpointError, match=r"expected no revision, since ./adapter is a folder"):
            absolute_reference("./adapter@main")


def drop(folder: Path) -> None:
    stored = load_file(folder / ADAPTER_WEIGHTS)
    del stored[sorted(stored)[3]]
    save_file(stored, folder / ADAPTER_WEIGHTS)


def add(folder: Path) -> None:
    stored = load_file(folder / ADAPTER_WEIGHTS)
    stored["base_model.model.model.language_model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 64)
    save_file(stored, folder / ADAPTER_WEIGHTS)


def pickled(folder: Path) -> None:
    (folder / ADAPTER_WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))


def cut(folder: Path) -> None:
    (folder / ADAPTER_WEIGHTS).write_bytes((folder / ADAPTER_WEIGHTS).read_bytes()[:3000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, "1 of its tensors are missing in adapter_model.safetensors, e.g. .*q_proj"),
        (add, r"1 of its tensors find no place, e.g. .*layers\.9"),
        (pickled, "got adapter_model.bin, a pickle"),
        (lambda f: (f / ADAPTER_WEIGHTS).unlink(), "expected adapter_model.safetensors beside"),
        (cut, "adapter_model.safetensors cannot be read"),
        (lambda f: rename_tensors(f, {".q_proj.": ".query."}), "find no place, e.g. .*query"),
        (lambda f: rename_tensors(f, {"language_model.layers.0": "language_model.layers.7"}), "find no place"),
        (lambda f: change_settings(f, r=8), "of another base, .*size mismatch"),
        (lambda f: change_settings(f, target_modules=["c_attn"]), "of another base, .*c_attn"),
        (lambda f: change_settings(f, peft_type="PROMPT_TUNING"), 'expected peft_type LORA .*, got "PROMPT_TUNING"'),
        (lambda f: change_settings(f, peft_type=None), "expected peft_type LORA .*, got null"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "expected an object in braces, got list"),
        (lambda f: (f / "adapter_config.json").write_text("null"), "expected an object in braces, got null"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
    ],
)
def test_what_is_not_whole_is_refused_before_weights_are_read(
    damage: Callable[[Path], object], message: str, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(adapter)
    with pytest.raises(CheckpointError, match=message):
        load_model(str(adapter))
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)  # nothing is read
    with pytest.raises(CheckpointError, match=message):
        check_model(str(adapter))


@pytest.mark.parametrize("other", ["narrow", "qwen2_vl"])
def test_an_adapter_of_another_base(other: str, adapter: Path, tmp_path: Path, processor: VLMProcessor) -> None:
    """Of other widths, or of another family with the same names."""
    model = make_model("qwen2_vl" if other == "qwen2_vl" else FAMILY, processor, intermediate_size=48)
    place = save_policy(tmp_path / "other", model, processor)
    for load in (check_model, load_model):
        with pytest.raises(CheckpointError, match=r"of another base, of '.*base' as it says itself.*size mismatch"):
            load(f"{adapter} on {place}")


class TestTraining:
    """Going on with an adapter."""

    def test_the_adapter_is_what_is_trained(self, published: Path, base: Path) -> None:
        model = load_trainable_model(str(published), precision="bf16", freeze_vision=True)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert len(trained) == len(load_file(published / ADAPTER_WEIGHTS))
        assert all(".lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
        assert next(p for n, p in model.named_parameters() if "base_layer" in n).dtype == torch.bfloat16
        assert has_frozen_vision(model)
        assert model.training

    def test_of_a_tower_too(self, base: Path, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "adapter", load_base(base), str(base), **SHAPES["tower"])
        assert has_frozen_vision(load_trainable_model(str(folder), freeze_vision=True))
        assert not has_frozen_vision(load_trainable_model(str(folder)))

    def test_new_adapters_on_an_old_one(self, published: Path, processor: VLMProcessor) -> None:
        model = load_trainable_model(str(published), lora_rank=2)
        expected = logits(load_model(str(published)), processor)
        torch.testing.assert_close(logits(model, processor), expected, rtol=1e-3, atol=1e-3)
        with model.disable_adapter():
            torch.testing.assert_close(logits(model, processor), expected, rtol=1e-3, atol=1e-3)

    def test_the_reference_stays_what_it_was(self, published: Path, processor: VLMProcessor) -> None:
        model = load_trainable_model(str(published), freeze_vision=True)
        started = logits(model, processor)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        keep_reference(model)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        changed = logits(model, processor)
        assert (changed - started).abs().max() > 0.01
        with reference_adapter(model):
            assert torch.equal(logits(model, processor), started)
        assert torch.equal(logits(model, processor), changed)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


class TestSaving:
    """What lies in checkpoints/final."""

    @pytest.mark.parametrize("form", ["adapter", "merged", "both"])
    def test_forms(self, form: Any, base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
        model = load_trainable_model(str(base), lora_rank=2, precision="fp32")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
        expected = logits(model, processor)
        template = get_template("compact")
        final = save_policy(tmp_path / "final", model, processor, template=template, form=form)
        assert (final / "model.safetensors").is_file() == (form != "adapter")
        texts = {"adapter": [str(final)], "merged": [str(final)], "both": [str(final), f"{final}:adapter"]}[form]
        for text in texts:
            torch.testing.assert_close(logits(load_model(text), processor), expected, rtol=1e-3, atol=1e-3)
            assert load_template(text).name == "compact"
        if form != "merged":
            folder = final if form == "adapter" else final / "adapter"
            peft = PeftModel.from_pretrained(load_base(base), str(folder))
            torch.testing.assert_close(logits(peft, processor), expected, rtol=0, atol=0)
            told = json.loads((folder / "focus.json").read_text())["base"]
            assert told == {"model": str(base), "weights": weights_digest(str(base))}

    def test_the_base_has_changed_since(self, base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
        own = shutil.copytree(base, tmp_path / "own")
        model = load_trainable_model(str(own), lora_rank=2)
        final = save_policy(tmp_path / "final", model, processor, form="adapter")
        check_model(str(final))
        weights = load_file(own / "model.safetensors")
        weights[next(iter(weights))].view(-1)[0] += 1
        save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
        for load in (check_model, load_model):
            with pytest.raises(CheckpointError, match=r"the weights of its base .*own are others than those it was"):
                load(str(final))

    @pytest.mark.parametrize(
        ("model", "rank", "message"),
        [
            ("tiny", 4, "save: expected merged, got adapter: the weights of tiny are made anew"),
            ("focus-small-sft", None, "without `lora_rank` all weights are trained"),
            ("{adapter}", 4, "new adapters lie on .* merged"),
        ],
    )
    def test_what_cannot_be_saved(self, model: str, rank: int | None, message: str, published: Path) -> None:
        with pytest.raises(ValueError, match=message):
            check_form("adapter", model.format(adapter=published), lora_rank=rank)
        check_form("merged", model.format(adapter=published), lora_rank=rank)
        check_form("both", str(published), lora_rank=None)

    def test_a_base_of_the_package_goes_by_its_name(self, tmp_path: Path) -> None:
        model = load_trainable_model("focus-small", lora_rank=2)
        folder = save_policy(tmp_path / "final", model, load_processor("focus-small"), form="adapter")
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "focus-small-grpo"
        assert has_adapters(load_model(str(folder)))
        assert base_model(load_model(str(folder))).config.model_type == "qwen3_vl"


def test_adapters_can_be_added_after_a_merger(published: Path) -> None:
    assert has_adapters(add_adapters(merge_adapters(load_model(str(published))), rank=2))
