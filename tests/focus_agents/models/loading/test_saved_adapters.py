"""Adapters of PEFT: logits are PEFT's own, and what does not fit is refused by name."""

from __future__ import annotations

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
    has_adapters,
    merge_adapters,
)
from focus_agents.models.loading import (
    check_model,
    load_model,
    load_processor,
    load_template,
    weights_digest,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.references import absolute_reference, on_base
from focus_agents.policies.focus import FocusPolicy
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.checkpoint import save_policy
from tests.focus_agents.models.families import make_model
from tests.focus_agents.models.loading.adapters import (
    ADAPTER_WEIGHTS,
    AS_BEFORE,
    FAMILY,
    LANGUAGE_ONLY,
    change_settings,
    load_base,
    logits,
    rename_tensors,
    write_adapter,
)

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


@pytest.mark.parametrize("shape", SHAPES)
def test_a_policy_that_only_answers_has_them_merged(
    shape: str, base: Path, tmp_path: Path, processor: VLMProcessor
) -> None:
    folder = write_adapter(tmp_path / "adapter", load_base(base), str(base), **SHAPES[shape])
    expected = logits(load_model(str(folder)), processor)
    policy = FocusPolicy.from_pretrained(str(folder))
    assert not has_adapters(policy.model)
    assert not any("lora_" in name for name, _ in policy.model.named_modules())
    torch.testing.assert_close(logits(policy.model, processor), expected, rtol=1e-4, atol=1e-4)
    narrow = FocusPolicy.from_pretrained(str(folder), precision="bf16").model
    assert not any("lora_" in name for name, _ in narrow.named_modules())


def test_adapters_that_cannot_be_merged_answer_as_they_are(base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
    lora_bias = {"lora_bias": True, "target_modules": ["o_proj"]}  # a bias where the weights have none
    folder = write_adapter(tmp_path / "adapter", load_base(base), str(base), **lora_bias)
    policy = FocusPolicy.from_pretrained(str(folder))
    assert has_adapters(policy.model)
    torch.testing.assert_close(
        logits(policy.model, processor), logits(load_model(str(folder)), processor), rtol=0, atol=0
    )


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
        asked, bare = FocusPolicy.from_pretrained(text), FocusPolicy.from_pretrained(str(base))
        assert not torch.equal(logits(asked.model, processor), logits(bare.model, processor))
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
            (f"/cache/hub/models--Qwen--Qwen2-VL-7B/snapshots/{'a' * 40}", "Qwen/Qwen2-VL-7B-Instruct", False),
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


def whole_numbers(folder: Path) -> None:
    stored = load_file(folder / ADAPTER_WEIGHTS)
    save_file({name: values.to(torch.int8) for name, values in stored.items()}, folder / ADAPTER_WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (whole_numbers, "expected floats in adapter_model.safetensors, got whole numbers in "),
        (lambda f: change_settings(f, r=0), "expected a whole number from 1 for r, got 0"),
        (lambda f: change_settings(f, r="4"), 'expected a whole number from 1 for r, got "4"'),
        (lambda f: change_settings(f, lora_alpha=None), "expected a finite number for lora_alpha, got null"),
        (lambda f: change_settings(f, lora_alpha=float("nan")), "expected a finite number for lora_alpha, got NaN"),
        (lambda f: change_settings(f, lora_alpha="8"), 'expected a finite number for lora_alpha, got "8"'),
        (lambda f: change_settings(f, target_modules=[5]), r"list of names for target_modules, got \[5\]"),
        (lambda f: change_settings(f, target_modules=None), "list of names for target_modules, got null"),
        (
            lambda f: change_settings(f, rank_pattern=[1]),
            r"whole numbers from 1 by pattern for rank_pattern, got \[1\]",
        ),
        (lambda f: change_settings(f, alpha_pattern={"q_proj": None}), "finite numbers by pattern for alpha_pattern"),
        (lambda f: change_settings(f, modules_to_save="merger"), 'a list of names for modules_to_save, got "merger"'),
        (lambda f: change_settings(f, exclude_modules=3), "list of names for exclude_modules, got 3"),
        (lambda f: change_settings(f, layers_pattern={}), "a pattern, or a list of them for layers_pattern, got {}"),
        (lambda f: change_settings(f, layers_to_transform="all"), 'whole numbers for layers_to_transform, got "all"'),
        (lambda f: change_settings(f, target_modules="(q_proj"), r"'\(q_proj' is no regular expression"),
        (drop, "1 of its tensors are missing in adapter_model.safetensors, e.g. .*_proj.lora_"),
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


@pytest.mark.parametrize(
    ("family", "text", "reason"),
    [
        (FAMILY, {"intermediate_size": 48}, "size mismatch"),
        ("qwen2_vl", {"intermediate_size": 48}, "size mismatch"),
        (FAMILY, {"num_hidden_layers": 4}, r"14 of its tensors are missing in .*layers\.3"),
    ],
    ids=["narrow", "qwen2_vl", "deeper"],
)
def test_an_adapter_of_another_base(
    family: str, text: dict[str, int], reason: str, adapter: Path, tmp_path: Path, processor: VLMProcessor
) -> None:
    """Of other widths or more layers, or of another family with the same names."""
    place = save_policy(tmp_path / "other", make_model(family, processor, **text), processor)
    for load in (check_model, load_model):
        with pytest.raises(CheckpointError, match=rf"of another base, of '.*base' as it says itself.*{reason}"):
            load(f"{adapter} on {place}")
