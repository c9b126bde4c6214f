"""Find models: with the package, in a folder, or on the hub; and explain where there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.models import small, tiny
from focus_agents.models.loading.hub import HubModel, find_on_hub
from focus_agents.models.references import LANGUAGE_MODELS, looks_local, model_folder, no_folder
from focus_agents.models.shipped import SMALL, TINY

NEW_MODELS: Mapping[str, ModuleType] = {TINY: tiny, SMALL: small}
"""Built here, with weights that a seed makes."""

POLICY_FILE = "focus.json"
"""The file with which a saved policy's folder describes more than the model itself."""

VISION_MODELS = (
    "a folder with its weights and the settings of its image processor, or a hub name (with HF_HUB_OFFLINE=1: one that "
    "was downloaded before)"
)
"""The words by which messages name what they expected where there is no model."""
DEPTH = 3
"""So many folders down adapters are looked for."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model, in a folder or on the hub at one commit.

    Attributes:
        text: Names the model in messages.
        place: The folder or the hub's name, as the loaders of transformers take it.
        hub: What the hub says of it; None: the place is a folder.
    """

    text: str
    place: str
    hub: HubModel | None = None

    @property
    def revision(self) -> str | None:
        """The commit on the hub; None for a folder."""
        return None if self.hub is None else self.hub.commit

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files at the model's top, sorted; of the hub offline, those that are on this machine."""
        if self.hub is not None:
            return tuple(name for name in self.hub.files if "/" not in name)
        return tuple(sorted(path.name for path in Path(self.place).iterdir() if path.is_file()))

    def folders_with(self, name: str) -> list[str]:
        """Return the folders below the model's top that hold a file, sorted; "" is the top."""
        if self.hub is not None:
            found = [PurePosixPath(file).parent for file in self.hub.files if PurePosixPath(file).name == name]
        else:
            top = Path(self.place)
            paths = (path for level in range(DEPTH + 1) for path in top.glob("*/" * level + name))
            found = [PurePosixPath(path.relative_to(top).as_posix()).parent for path in paths]
        return sorted("" if str(folder) == "." else str(folder) for folder in found)

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return (Path(self.place) / name).is_file() if self.hub is None else name in self.hub.files

    def path(self, name: str) -> Path:
        """Return the path of a file on this machine; one of the hub is downloaded.

        Raises:
            CheckpointError: If it cannot be had.
        """
        return Path(self.place) / name if self.hub is None else self.hub.fetch(name)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object that a JSON file holds.

        Raises:
            CheckpointError: If there is no such file, it is no JSON, or it holds something else, such as a list.
        """
        try:
            found = json.loads(self.path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                not_loaded(self.text, f"{name} cannot be read as JSON ({error}); take the model's own file")
            ) from error
        if not isinstance(found, dict):
            kind = "null" if found is None else type(found).__name__
            raise CheckpointError(
                not_loaded(self.text, f"{name}: expected an object in braces, got {kind}; take the model's own file")
            )
        return found


def find_files(
    place: str, revision: str | None = None, *, text: str | None = None, expected: str = LANGUAGE_MODELS
) -> ModelFiles:
    """Find the files of a model; what looks like a folder is not asked of the hub.

    Args:
        place: One of `NEW_MODELS` (its tokenizer and image processor), a model of the package, a folder, or a hub name.
        revision: On the hub.
        text: Names the model in messages; None: the place does.
        expected: What may be given, for messages.

    Raises:
        CheckpointError: If there is no such model, or the hub does not give it.
    """
    text = place if text is None else text
    if place in NEW_MODELS:
        return ModelFiles(text, str(NEW_MODELS[place].ASSETS))
    folder = model_folder(place)
    if Path(folder).is_dir():
        return ModelFiles(text, folder)
    if looks_local(place):
        raise CheckpointError(no_folder(text, expected))
    try:
        return ModelFiles(text, place, find_on_hub(place, revision))
    except CheckpointError as error:
        raise CheckpointError(not_loaded(text, error, expected)) from error


def not_loaded(name_or_path: str, error: Exception | str, expected: str = "") -> str:
    """Return the message for a model that could not be loaded.

    Args:
        name_or_path: Names the model.
        error: The reason.
        expected: What may be given, where no model was found; "": one was.
    """
    reason = str(error).strip() or type(error).__name__  # all that a plain assertion says
    return f"model {name_or_path!r} could not be loaded: {reason}" + (f"; expected {expected}" if expected else "")
