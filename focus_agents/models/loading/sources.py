"""Read a model's text: whole weights, or an adapter and the base below it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.hub import find_on_hub
from focus_agents.models.loading.places import (
    NEW_MODELS,
    ModelFiles,
    find_files,
    not_loaded,
)
from focus_agents.models.references import LANGUAGE_MODELS, ModelReference, looks_local, parse_reference
from focus_agents.models.shipped import BEST_MODEL, SHIPPED_MODELS

T = TypeVar("T")

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})/?$")
"""The path of a model in somebody's cache of the hub, which many published adapters name as their base."""
_QUANTIZED = re.compile(r"(-unsloth)?(-bnb-4bit|-awq|-gptq(-int\d)?|-fp8)$")
"""Ends of the names of models that are the same before they were quantized."""


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter in PEFT's format.

    Attributes:
        files: Those of the place that it lies in.
        folder: Below that place; "" for its top.
        settings: What its `adapter_config.json` holds.
    """

    files: ModelFiles
    folder: str
    settings: dict[str, Any]

    @property
    def text(self) -> str:
        """Names it in messages."""
        return self.files.text

    def name_of(self, file: str) -> str:
        """Return the path of one of its files below the place."""
        return f"{self.folder}/{file}" if self.folder else file


@dataclass(frozen=True)
class ModelSource:
    """A model that was found.

    Attributes:
        text: As it was written.
        place: Its whole weights, one of `NEW_MODELS` or as `files.place`; with an adapter those of the base.
        files: Of the whole weights.
        adapter: What lies on them; None: nothing.
    """

    text: str
    place: str
    files: ModelFiles
    adapter: SavedAdapter | None = None

    def files_with(self, *names: str) -> tuple[ModelFiles, str]:
        """Return whose files to take where an adapter may have brought its own, with the folder that they lie in.

        Args:
            names: Files that the adapter's folder must hold to be taken.
        """
        adapter = self.adapter
        if adapter is not None and all(adapter.files.has(adapter.name_of(name)) for name in names):
            return adapter.files, adapter.folder
        return self.files, ""


def find_source(name_or_path: str | Path, *, expected: str = LANGUAGE_MODELS) -> ModelSource:
    """Find what a text names; no weights are read.

    Args:
        name_or_path: As `focus_agents.models.references` has it.
        expected: What may be given, for messages.

    Raises:
        CheckpointError: If there is no such model, there are several adapters and none is chosen, or its base is not
            there.
    """
    reference = parse_reference(name_or_path)
    text = str(name_or_path)
    if reference.place in NEW_MODELS:
        if (reference.revision, reference.adapter, reference.base) != (None, None, None):
            raise CheckpointError(f"model {text!r}: expected {reference.place} alone, which is built here")
        return ModelSource(text, reference.place, find_files(reference.place))
    files = find_files(reference.place, reference.revision, text=text, expected=expected)
    folder = _adapter_folder(reference, files)
    if folder is None:
        if reference.base is not None:
            raise CheckpointError(
                f"model {text!r}: expected an adapter on {reference.base}, got no {ADAPTER_CONFIG} in {files.place}; "
                "leave `base_model` out, or name the adapter"
            )
        return ModelSource(text, files.place, files)
    adapter = SavedAdapter(files, folder, files.read_json(f"{folder}/{ADAPTER_CONFIG}" if folder else ADAPTER_CONFIG))
    if not folder and reference.base is None and _has_weights(files):
        return ModelSource(text, files.place, files, adapter)  # PEFT has saved it beside its base
    base, base_files = _find_base(adapter, _base_of(adapter, reference))
    return ModelSource(text, base, base_files, adapter)


def pin(name_or_path: str | Path) -> str:
    """Return a model's text with the commits that names on the hub stand for now, an adapter's base included.

    Args:
        name_or_path: As for `load_model`.

    Raises:
        CheckpointError: As `find_source`.
    """
    reference, source = parse_reference(name_or_path), find_source(name_or_path)
    own = source.files if source.adapter is None else source.adapter.files
    if own.revision is not None:
        reference = dataclasses.replace(reference, revision=own.revision)
    if source.adapter is not None and source.files.hub is not None and source.files is not own:
        reference = dataclasses.replace(reference, base=f"{source.files.place}@{source.files.revision}")
    return str(reference)


def newer_commits(name_or_path: str | Path) -> dict[str, str]:
    """Return the names on the hub in a text that stand for another commit by now, with that commit.

    Args:
        name_or_path: As `pin` gave it.
    """
    reference = parse_reference(name_or_path)
    found = {} if reference.base is None else newer_commits(reference.base)
    if reference.revision is not None:
        with contextlib.suppress(CheckpointError):  # without a network nobody knows
            newest = find_on_hub(reference.place).commit
            if newest is not None and newest != reference.revision:
                found[reference.place] = newest
    return found


def load_part(load: Callable[..., T], name_or_path: str, *, expected: str = LANGUAGE_MODELS, **options: Any) -> T:
    """Call a loader of transformers with a model's folder, or its hub name and commit.

    Args:
        load: The loader, e.g. `AutoConfig.from_pretrained`.
        name_or_path: As for `load_model`; of an adapter the base is meant.
        expected: What may be given, for messages.
        options: Further arguments of the loader.

    Raises:
        CheckpointError: If there is nothing to load, or it cannot be read.
    """
    return load_files(load, find_source(name_or_path, expected=expected).files, **options)


def load_files(
    load: Callable[..., T],
    files: ModelFiles,
    *,
    folder: str = "",
    reads: str = "",
    **options: Any,
) -> T:
    """Call a loader of transformers with files that were found.

    Args:
        load: The loader.
        files: The model's.
        folder: Below the model's top.
        reads: The file that the loader reads, or several; "": the message leaves that to the library.
        options: Further arguments of the loader.

    Raises:
        CheckpointError: If they cannot be read.
    """
    place = files.place
    if files.hub is not None:
        options = {"revision": files.revision, "subfolder": folder, **options}
    elif folder:
        place = str(Path(place) / folder)
    try:
        return load(place, **options)
    except Exception as error:  # what libraries raise at missing, cut or contradictory files is no family
        reason = str(error).strip() or type(error).__name__  # all that a plain assertion says
        if reads:
            reason = (
                f"{reads}: expected what transformers reads, got {type(error).__name__}: {reason}; take the model's own"
            )
        raise CheckpointError(not_loaded(files.text, reason)) from error


def _adapter_folder(reference: ModelReference, files: ModelFiles) -> str | None:
    """Return the folder of the adapter that is meant, below the place; None: there are whole weights."""
    if reference.adapter is None and files.has(ADAPTER_CONFIG):
        return ""
    if reference.adapter is None and files.has("config.json"):
        return None
    found = files.folders_with(ADAPTER_CONFIG)
    if reference.adapter is not None:
        wanted = reference.adapter.strip("/")
        if wanted in found:
            return wanted
        there = f"there are {', '.join(filter(None, found))}" if any(found) else "there is none"
        raise CheckpointError(f"model {files.text!r}: expected an adapter {wanted!r} in {files.place}; {there}")
    if len(found) > 1:
        raise CheckpointError(
            f"model {files.text!r}: expected one adapter, got {', '.join(found)}; choose one by its name, as "
            f"{ModelReference(reference.place, reference.revision, found[0], reference.base)}"
        )
    return found[0] if found else None


def _has_weights(files: ModelFiles) -> bool:
    return files.has("config.json") and any(
        files.has(name) for name in ("model.safetensors", "model.safetensors.index.json")
    )


def _find_base(adapter: SavedAdapter, base: str) -> tuple[str, ModelFiles]:
    """Return the place and the files of the whole weights below an adapter."""
    reference = parse_reference(base)
    if reference.place in NEW_MODELS:
        raise CheckpointError(
            f"adapter {adapter.text!r}: expected a base with weights, got {base!r}, whose weights are new in each run"
        )
    try:
        files = find_files(reference.place, reference.revision)
        is_adapter = reference.adapter is not None or not files.has("config.json")
    except CheckpointError as error:
        raise CheckpointError(f"adapter {adapter.text!r}: its base cannot be had: {error}") from error
    if is_adapter:
        raise CheckpointError(
            f"adapter {adapter.text!r}: expected whole weights as its base, got {base}, which has no config.json or is "
            "an adapter itself; make one model of that by `focus export` first"
        )
    return files.place, files


def _base_of(adapter: SavedAdapter, reference: ModelReference) -> str:
    """Return the text of the base: the one that the user names, or the adapter's own."""
    recorded, revision = adapter.settings.get("base_model_name_or_path"), adapter.settings.get("revision")
    if reference.base is not None:
        _check_named_base(adapter, reference.base, recorded)
        return reference.base
    how = f"name the base by `base_model`, or as '{reference} on BASE', by its folder or its name on the hub"
    if not isinstance(recorded, str) or not recorded:
        raise CheckpointError(f"adapter {adapter.text!r}: its {ADAPTER_CONFIG} names no base model; {how}")
    if recorded in (*NEW_MODELS, *SHIPPED_MODELS, *BEST_MODEL):
        return recorded
    if (folder := recorded_folder(adapter)) is not None:
        return str(folder)
    if match := _CACHED.search(recorded):
        return f"{match[1]}/{match[2]}@{match[3]}"
    if looks_local(recorded):
        raise CheckpointError(
            f"adapter {adapter.text!r}: its base {recorded!r}, as its {ADAPTER_CONFIG} has it, is no folder here; {how}"
        )
    return str(ModelReference(recorded, revision if isinstance(revision, str) else None))


def recorded_folder(adapter: SavedAdapter) -> Path | None:
    """Return the folder of the base that an adapter names, if it is one of this machine."""
    recorded = adapter.settings.get("base_model_name_or_path")
    if not isinstance(recorded, str) or not recorded:
        return None
    places = [Path(os.path.expanduser(recorded))]
    if adapter.files.hub is None and not Path(recorded).is_absolute():
        places.append(Path(adapter.files.place) / adapter.folder / recorded)
    return next((place for place in places if place.is_dir()), None)


def _check_named_base(adapter: SavedAdapter, given: str, recorded: Any) -> None:
    """See that a base named by the user may be the one that the adapter was trained on, as far as names tell."""
    place = parse_reference(given).place
    cached = _CACHED.search(recorded) if isinstance(recorded, str) else None
    if cached is not None:
        recorded = f"{cached[1]}/{cached[2]}"
    if not isinstance(recorded, str) or looks_local(recorded) or looks_local(place) or ModelReference(place).is_folder:
        return  # of a folder's name nobody knows which model it is
    old, new = (_QUANTIZED.sub("", name.lower().partition("/")[2]) for name in (recorded, place))
    if old != new:
        raise CheckpointError(
            f"adapter {adapter.text!r}: expected its base {recorded}, got {given}; name that model, or if it is the "
            f"same under another name, correct base_model_name_or_path in {ADAPTER_CONFIG}"
        )
