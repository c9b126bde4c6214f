"""Check that the small files beside a model's weights can be read; a library's own message would not name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.fields import CONFIG, PREPROCESSOR, Rule, config_fault, field_fault
from focus_agents.models.loading.places import ModelFiles, not_loaded
from focus_agents.models.loading.sources import load_files
from focus_agents.models.loading.untrusted import SECONDS, template_fault
from focus_agents.models.references import LANGUAGE_MODELS
from focus_agents.models.shipped import WEIGHTS

GENERATION_FILE = "generation_config.json"
PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")
TEMPLATE_TEXT = "chat_template.jinja"
TEMPLATE_SECONDS = SECONDS
"""Of computing, for a chat template."""
_TOKENIZER_OBJECTS = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json",
)  # fmt: skip
_VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json",
)  # fmt: skip


def read_config(files: ModelFiles, *, expected: str = LANGUAGE_MODELS) -> Any:
    """Return a model's configuration, whose fields are checked by name.

    Args:
        files: The model's.
        expected: What may be given, for the message where there is none.

    Raises:
        CheckpointError: If there is none, it cannot be read, or no model can be made of it.
    """
    name = "config.json"
    if not files.has(name):
        raise CheckpointError(not_loaded(files.text, f"there is no {name}", expected))
    _check_fields(files, name, CONFIG)
    config = load_files(AutoConfig.from_pretrained, files, reads=name)
    if fault := config_fault(config):
        raise CheckpointError(not_loaded(files.text, _of_file(name, fault)))
    return config


def check_generation(files: ModelFiles) -> None:
    """Check the settings of a model's own generation, which are read with its weights.

    Raises:
        CheckpointError: If there are some, and they cannot be read.
    """
    if files.has(GENERATION_FILE):
        files.read_json(GENERATION_FILE)
        load_files(GenerationConfig.from_pretrained, files, reads=GENERATION_FILE)


def load_tokenizer(files: ModelFiles, folder: str) -> Any:
    """Load a tokenizer.

    Args:
        files: The model's, or those of its adapter.
        folder: Below their top.

    Raises:
        CheckpointError: If a file is missing or is not what it should be.
    """
    _check_tokenizer_files(files, folder)
    reads = "tokenizer.json and tokenizer_config.json"
    try:
        tokenizer: Any = load_files(AutoTokenizer.from_pretrained, files, folder=folder, reads=reads)
    except CheckpointError as error:
        if fault := _vocabulary_fault(files, folder):
            raise CheckpointError(not_loaded(files.text, fault)) from error
        raise
    return tokenizer


def check_template_ends(files: ModelFiles, tokenizer: Any) -> None:
    """Check that a stranger's chat template ends, and writes a prompt and not a book.

    Args:
        files: Whose template it is; this package's own are known.
        tokenizer: Has the template.

    Raises:
        CheckpointError: If it does not.
    """
    if Path(files.place).resolve().is_relative_to(WEIGHTS.parent):
        return
    found = tokenizer.chat_template
    for template in found.values() if isinstance(found, dict) else [found]:
        if not isinstance(template, str):
            continue
        if fault := template_fault(template, dict(tokenizer.special_tokens_map), seconds=TEMPLATE_SECONDS):
            reason = (
                f"its chat template cannot be used: {fault}; take {TEMPLATE_TEXT} or tokenizer_config.json from where "
                "the weights are from"
            )
            raise CheckpointError(not_loaded(files.text, reason))


def check_picture_files(files: ModelFiles, folder: str) -> None:
    """Check the settings of an image processor by name.

    Raises:
        CheckpointError: If there are none, or no picture could be processed by them.
    """
    there = [name for name in (_in(folder, name) for name in PICTURE_FILES) if files.has(name)]
    if not there:
        raise CheckpointError(
            not_loaded(files.text, f"expected {PICTURE_FILES[0]}, found none; take it from where the weights are from")
        )
    for name in there:
        _check_fields(files, name, PREPROCESSOR)


def read_text(files: ModelFiles, name: str) -> str:
    """Return what a file of words holds.

    Raises:
        CheckpointError: If it cannot be read as UTF-8.
    """
    try:
        return files.path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = f"{name}: expected a text in UTF-8, got {error}; take the model's own file"
        raise CheckpointError(not_loaded(files.text, reason)) from error


def _check_fields(files: ModelFiles, name: str, rules: Mapping[str, Rule]) -> None:
    if fault := field_fault(files.read_json(name), rules):
        raise CheckpointError(not_loaded(files.text, _of_file(name, fault)))


def _of_file(name: str, fault: str) -> str:
    return f"{name}: {fault}; take the model's own {name}"


def _check_tokenizer_files(files: ModelFiles, folder: str) -> None:
    for name in _TOKENIZER_OBJECTS:
        if files.has(_in(folder, name)):
            files.read_json(_in(folder, name))
    if files.has(_in(folder, TEMPLATE_TEXT)):
        read_text(files, _in(folder, TEMPLATE_TEXT))
    if not any(files.has(_in(folder, name)) for name in _VOCABULARIES):
        reason = f"expected {_VOCABULARIES[0]}, found none; take it from where the weights are from"
        raise CheckpointError(not_loaded(files.text, reason))
    own = _in(folder, _VOCABULARIES[0])
    if files.has(own) and not _starts_as_object(files.path(own)):
        files.read_json(own)  # says what it is in place of an object


def _starts_as_object(file: Path) -> bool:
    """Return whether a file may hold a JSON object; of a vocabulary's megabytes the library alone reads all."""
    with file.open("rb") as stream:
        return stream.read(256).lstrip().startswith(b"{")


def _vocabulary_fault(files: ModelFiles, folder: str) -> str | None:
    """Return the library's complaint about a tokenizer's one file; None: it can read it."""
    name = _in(folder, _VOCABULARIES[0])
    if not files.has(name):
        return None
    files.read_json(name)
    try:
        Tokenizer.from_file(str(files.path(name)))
    except Exception as error:  # the library's only class of errors
        return f"{name}: expected a tokenizer, got {error}; take the model's own file"
    return None


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
