"""Read and write a model as one text: ``NAME[@REVISION][:ADAPTER][ on BASE]``.

    Qwen/Qwen2-VL-7B-Instruct@1a2b3c          a model of the hub, at a commit, branch or tag
    runs/my-sft/checkpoints/final             a folder
    somebody/adapters:four-shots              one of several adapters, by the folder that it lies in
    ./adapter on models/qwen2-vl              an adapter, and the base in place of the one that it names

The text travels to every process that loads the model. A folder of such a name is taken as it is written.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from focus_agents.errors import CheckpointError
from focus_agents.models.shipped import BEST_MODEL, SHIPPED_MODELS, SMALL, TINY, WEIGHTS, model_name
from focus_env.files import find_folder

ON = " on "
"""Stands between an adapter and its base."""
_NAMES = (*BEST_MODEL, *SHIPPED_MODELS, TINY, SMALL)
_NUM_TOLD = 3
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_LONGEST_HUB_NAME = 96
LANGUAGE_MODELS = (
    f"one of {', '.join(_NAMES[:_NUM_TOLD])} and {len(_NAMES) - _NUM_TOLD} more (docs/models.md), a folder with a "
    "saved model, or a hub name such as 'Qwen/Qwen2-VL-7B-Instruct'"
)
"""The words by which messages name what they expected where there is no model."""


@dataclass(frozen=True)
class ModelReference:
    """A model as it was written, in its parts.

    Attributes:
        place: A folder, a name on the hub, or a model that comes with the package.
        revision: Commit, branch or tag on the hub; None: the hub's newest.
        adapter: The folder of one of several adapters, below `place`; None: there is one, or none.
        base: The model below an adapter, in the same writing; None: the one that the adapter names.
    """

    place: str
    revision: str | None = None
    adapter: str | None = None
    base: str | None = None

    def __str__(self) -> str:
        """Return the text that `parse_reference` reads."""
        revision = "" if self.revision is None else f"@{self.revision}"
        adapter = "" if self.adapter is None else f":{self.adapter}"
        base = "" if self.base is None else f"{ON}{self.base}"
        return f"{self.place}{revision}{adapter}{base}"

    @property
    def is_folder(self) -> bool:
        """Whether the place is a folder of this machine."""
        return self.place in SHIPPED_MODELS or _is_folder(self.place)

    def with_absolute_paths(self) -> ModelReference:
        """Return the same with folders by their absolute paths, since other processes may work elsewhere."""
        base = None if self.base is None else str(parse_reference(self.base).with_absolute_paths())
        place = self.place
        if place not in (*SHIPPED_MODELS, *BEST_MODEL, TINY, SMALL) and _is_folder(place):
            place = os.path.realpath(os.path.expanduser(place))
        return dataclasses.replace(self, place=place, base=base)


def parse_reference(name_or_path: str | Path) -> ModelReference:
    """Read a model's text.

    Args:
        name_or_path: See the module's docstring.

    Raises:
        CheckpointError: If it is no text, a part of it is empty, or a folder is given a revision.
    """
    text = model_name(name_or_path)
    if _is_folder(text):
        return ModelReference(text)
    left, is_on, base = text.rpartition(ON)
    if not is_on:
        left, base = base, ""
    adapter = revision = None
    place = left
    if not _is_folder(place) and ":" in place:
        place, _, adapter = place.rpartition(":")
    if not _is_folder(place) and "@" in place:
        place, _, revision = place.partition("@")
    if not place or "" in (adapter, revision) or (is_on and not base):
        raise CheckpointError(f"model {text!r}: expected NAME[@REVISION][:ADAPTER][{ON}BASE], got an empty part")
    if revision is not None and _is_folder(place):
        raise CheckpointError(
            f"model {text!r}: expected no revision, since {place} is a folder; leave out @{revision}, which is for "
            "names on the hub"
        )
    return ModelReference(place, revision, adapter, base or None)


def on_base(name_or_path: str | Path, base: str | Path | None) -> str:
    """Return a model's text with a base in place of the one that its adapter names.

    Args:
        name_or_path: The adapter.
        base: The base; None: as it was.

    Raises:
        CheckpointError: If two bases are given.
    """
    if base is None:
        return model_name(name_or_path)
    reference = parse_reference(name_or_path)
    if reference.base is not None:
        raise CheckpointError(
            f"model {str(name_or_path)!r}: expected one base, got {reference.base!r} and {str(base)!r}; leave one out"
        )
    return str(dataclasses.replace(reference, base=model_name(base)))


def absolute_reference(name_or_path: str | Path) -> str:
    """Return a model's text with folders by their absolute paths."""
    return str(parse_reference(name_or_path).with_absolute_paths())


def _is_folder(text: str) -> bool:
    try:
        return find_folder(WEIGHTS / text if text in SHIPPED_MODELS else Path(os.path.expanduser(text))).is_dir()
    except (OSError, ValueError, RuntimeError):  # a name longer than the system takes
        return False


def model_folder(name_or_path: str) -> str:
    """Return a model's folder, with the package or elsewhere, or else its name, which the hub may know."""
    name = BEST_MODEL.get(name_or_path, name_or_path)
    folder = find_folder(WEIGHTS / name if name in SHIPPED_MODELS else Path(os.path.expanduser(name_or_path)))
    if not folder.is_dir():
        return name_or_path
    # A folder here that is called like a model stays a folder.
    return f"./{folder}" if str(folder) in (TINY, SMALL) else str(folder)


def looks_local(place: str) -> bool:
    """Return whether a text can only be a folder's: the hub's names are `owner/name`."""
    return not is_hub_name(place)


def is_hub_name(text: str) -> bool:
    """Return whether a model may be called so on the hub: `owner/name` in letters, digits, and few signs."""
    is_shaped = _HUB_NAME.fullmatch(text) is not None and len(text) <= _LONGEST_HUB_NAME
    return is_shaped and not any(sign in text for sign in ("--", "..")) and not text.endswith((".git", ".", "-"))


def no_folder(text: str, expected: str = LANGUAGE_MODELS) -> str:
    """Return the message for a model that can only be a folder, and is none."""
    return f"model {text!r}: there is no such folder; expected {expected}"


def check_place(text: str) -> None:
    """Check that a model that can only be a folder is one; nothing large is imported for that.

    Args:
        text: As for `focus_agents.models.loading.load_model`.

    Raises:
        CheckpointError: If there is no such folder.
    """
    place = parse_reference(model_name(text)).place
    if place not in (TINY, SMALL) and not Path(model_folder(place)).is_dir() and looks_local(place):
        raise CheckpointError(no_folder(text))
