"""A broken file of a model is named at the start, with what was expected, and before weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import check_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Damage = Callable[[Path], object]


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A small model, to be damaged."""
    return Path(shutil.copytree(base, tmp_path / "model"))


def write(name: str, content: str | bytes) -> Damage:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def change(name: str, path: str, value: Any) -> Damage:
    """Set a field, by its path with dots, of a JSON file."""

    def changed(folder: Path) -> None:
        settings = json.loads((folder / name).read_text())
        *parents, last = path.split(".")
        place = settings
        for parent in parents:
            place = place[parent]
        place[last] = value
        (folder / name).write_text(json.dumps(settings))

    return changed


def config(path: str, value: Any) -> Damage:
    return change("config.json", path, value)


def pictures(path: str, value: Any) -> Damage:
    return change("preprocessor_config.json", path, value)


def index_of(shard: str) -> Damage:
    return write(INDEX, json.dumps({"weight_map": {"w": shard}}))


def trailing(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"more")


def overlapping(folder: Path) -> None:
    """Two tensors at one place."""
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


FILES: dict[str, tuple[Damage, str]] = {
    "tokenizer.json of a list": (write("tokenizer.json", "[]"), "tokenizer.json: expected an object in braces, got li"),
    "an empty tokenizer.json": (write("tokenizer.json", ""), "tokenizer.json cannot be read as JSON .* own file"),
    "a cut tokenizer.json": (write("tokenizer.json", '{"model": '), "tokenizer.json cannot be read as JSON"),
    "tokenizer.json of nothing": (write("tokenizer.json", "{}"), "tokenizer.json: expected a tokenizer, got"),
    "no tokenizer.json": (lambda f: (f / "tokenizer.json").unlink(), "expected tokenizer.json, found none"),
    "tokenizer_config.json of a list": (write("tokenizer_config.json", "[]"), "tokenizer_config.json: expected an obj"),
    "tokenizer_config.json not in UTF-8": (write("tokenizer_config.json", b"\xff"), "tokenizer_config.json cannot be"),
    "preprocessor_config.json of a list": (write("preprocessor_config.json", "[1]"), "preprocessor_config.json: expec"),
    "an empty preprocessor_config.json": (write("preprocessor_config.json", ""), "preprocessor_config.json cannot be"),
    "no preprocessor_config.json": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "expected preprocessor_config.json, found none; take it from",
    ),
    "generation_config.json of a list": (write("generation_config.json", "[]"), "generation_config.json: expected an"),
    "a chat template not in UTF-8": (
        write("chat_template.jinja", "{{ 'é' }}".encode("latin-1")),
        "chat_template.jinja: expected a text in UTF-8, got 'utf-8' codec",
    ),
    "an empty chat template": (write("chat_template.jinja", ""), "chat template: expected .* once for a picture"),
    "no object as quantization": (
        config("quantization_config", [1]),
        r"config.json: quantization_config: expected an object in braces, got \[1\]; take the model's own config.json",
    ),
    "an unknown type": (config("dtype", "float7"), 'config.json: dtype: expected the name of a floating .* got "float'),
    "an older field of it": (config("torch_dtype", "int8"), 'config.json: torch_dtype: expected .* got "int8"'),
    "bytes behind the weights": (trailing, r"model.safetensors has 4 bytes behind the [\d,]+ that its header tells of"),
    "weights on one another": (overlapping, r"model.safetensors is no file of safetensors \("),
    "an index that leaves the folder": (index_of("../x.safetensors"), "own folder, got '../x.safetensors'; take"),
    "an index of a place": (index_of("/etc/x.safetensors"), "own folder, got '/etc/x.safetensors'"),
    "an index of pickles": (index_of("x.bin"), "expected files of safetensors .*, got 'x.bin'"),
    "an index of no files": (write(INDEX, '{"weight_map": {}}'), "expected the files of the weights under 'weight_map"),
    "an empty index": (write(INDEX, ""), "model.safetensors.index.json cannot be read as JSON"),
    "tokens beyond the vocabulary": (config("text_config.vocab_size", 99), "config.json with at most 99 tokens, got"),
    "no heads": (config("text_config.num_attention_heads", 0), "config.json: text_config.num_attention_heads: expecte"),
    "heads that do not divide": (config("text_config.num_attention_heads", 7), "expected a divisor of hidden_size, 64"),
    "key heads that do not divide": (config("text_config.num_key_value_heads", 3), "divisor of num_attention_heads, 4"),
    "heads of the tower": (config("vision_config.num_heads", 5), "vision_config.num_heads: expected a divisor of hidd"),
    "sections beyond a head": (
        config("text_config.rope_parameters.mrope_section", [2, 3, 4]),
        r"mrope_section: expected three whole numbers that add up to 8, .* got \[2, 3, 4\]",
    ),
    "two sections": (config("text_config.rope_parameters.mrope_section", [4, 4]), r"mrope_section: .* got \[4, 4\]"),
    "a negative width": (config("text_config.hidden_size", -64), "text_config.hidden_size: expected a whole .* got -6"),
    "a width in words": (config("text_config.hidden_size", "64"), 'hidden_size: expected a whole number .* got "64"'),
    "a million layers": (config("text_config.num_hidden_layers", 10**6), "num_hidden_layers: expected .* to 1,024"),
    "patches of no pixels": (config("vision_config.patch_size", 0), "vision_config.patch_size: expected .* got 0"),
    "an infinite base": (config("text_config.rms_norm_eps", float("nan")), "rms_norm_eps: expected a finite .* got Na"),
    "no activation": (config("text_config.hidden_act", "jump"), "config.json: expected one that a qwen2_5_vl can be m"),
    "far larger than its weights": (
        config("text_config.intermediate_size", 10**6),
        r"config.json describes a model of [\d,]+ parameters, and its weights have [\d,]+ bytes",
    ),
    "no deviation": (pictures("image_std", [0.5, 0, 0.5]), r"preprocessor_config.json: image_std: .* above 0, got \[0"),
    "a deviation of two channels": (pictures("image_std", [0.5, 0.5]), "image_std: expected three finite numbers"),
    "an infinite mean": (pictures("image_mean", [float("inf"), 0, 0]), "image_mean: expected three finite numbers, go"),
    "no scale": (pictures("rescale_factor", 0), "rescale_factor: expected a finite number above 0, got 0"),
    "no patch": (pictures("patch_size", 0), "preprocessor_config.json: patch_size: expected a whole number from 1"),
    "a negative size": (pictures("size.shortest_edge", -4), "size.shortest_edge: expected a whole number from 1 .* -4"),
    "least beyond most": (pictures("size.shortest_edge", 10**6), "shortest_edge: expected at most longest_edge, 16384"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_what_is_said_before_weights_are_read(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, message = FILES[what]
    damage(folder)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    with pytest.raises(CheckpointError, match=message):
        check_model(str(folder))


def test_a_whole_folder_is_taken(folder: Path) -> None:
    stored = load_file(folder / WEIGHTS)
    save_file({name: values.to(torch.float16) for name, values in stored.items()}, folder / WEIGHTS)
    check_model(str(folder))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "not end within 1 s of comput",
        ),
        ("{% for a in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", "more than 1,000,000 characters of a short conv"),
        ("{{ 'a' * 10 ** 10 }}", "more than 1 GiB of memory"),
        ("{{ 'a' | center(10 ** 10) }}", "more than 1 GiB of memory"),
        (
            "{% set n = namespace(a='aa') %}{% for b in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
            "1 GiB|1 s of",
        ),
        ("{{ 10 ** (10 ** 10) }}", "not end within 1 s of computing|more than 1 GiB"),
        ("{% generation %}{{ 'a' * 10 ** 7 }}{% endgeneration %}", "more than 1,000,000 characters"),
        (
            "{% for a in range(10**12) %}{% endfor %}",
            "it does not take the conversation .*OverflowError: Range too big",
        ),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "it does not take the conversation .*RecursionError"),
    ],
)
def test_a_chat_template_without_an_end(
    template: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("focus_agents.models.loading.part_files.TEMPLATE_SECONDS", 1)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match=f"chat template.*{message}"):
        check_model(str(folder))
