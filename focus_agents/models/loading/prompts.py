"""The prompt that a model was trained on, as its folder says, or else its family."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.parts import family_of_source, load_family, load_image_processor, readable_source
from focus_agents.models.loading.places import NEW_MODELS, POLICY_FILE
from focus_agents.models.loading.sources import ModelSource
from focus_agents.models.references import model_folder
from focus_agents.models.shipped import SMALL, TINY, model_name
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import NATIVE_NAME, PromptTemplate, describe_template, described_template, get_template

PROMPTS_OF_NEW_MODELS: Mapping[str, dict[str, str]] = {
    TINY: {"template": "compact"},
    SMALL: {"template": "questions", "frame": "norm_100"},
}
"""The prompt that `POLICY_FILE` records for a saved model."""


def policy_file(name_or_path: str, source: ModelSource | None) -> Path | None:
    """Return the file in which a saved policy says of itself what transformers' files do not; None: there is none.

    Args:
        name_or_path: As for `load_model`, as text.
        source: Where it was found; None: there is no model, as far as one can see.
    """
    if source is None:
        file = Path(model_folder(name_or_path)) / POLICY_FILE
        return file if name_or_path not in NEW_MODELS and file.is_file() else None
    if source.place in NEW_MODELS:
        return None
    files, folder = source.files_with(POLICY_FILE)
    path = f"{folder}/{POLICY_FILE}" if folder else POLICY_FILE
    return files.path(path) if files.has(path) else None


def described_entry(file: Path, name: str) -> dict[str, Any]:
    """Return an entry of a saved policy's description; empty where it says nothing of that.

    Args:
        file: The description, a `POLICY_FILE`.
        name: Of the entry.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no JSON, or it or the entry is no object.
    """
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(described, dict):
        raise ValueError(f"expected an object in braces, got {json.dumps(described)[:200]}")
    entry = described.get(name, {})
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object in braces as {name}, got {json.dumps(entry)[:200]}")
    return entry


def load_template(
    name_or_path: str | Path,
    *,
    name: str | None = None,
    frame: CoordinateFrame | None = None,
    max_image_tokens: int | None = None,
) -> PromptTemplate:
    """Return the prompt that a model was trained on, or another in the unit of coordinates that it was trained on.

    Args:
        name_or_path: As for `load_model`. A model that says nothing of its prompt, as those of the hub, is asked in
            full sentences, in its family's own unit.
        name: A template in place of the model's own, as for `get_template`; "native": its family's.
        frame: A unit of coordinates in place of the template's own, or the model's own where the template has none.
        max_image_tokens: As for `load_processor`; the frame `RESIZED_PIXEL` depends on it.

    Raises:
        CheckpointError: If the folder's `POLICY_FILE` cannot be read, or names an unknown template or frame, or no
            family has the type of a model whose unit or image size is asked for.
        ValueError: If there is no template of the given name.
    """
    name_or_path = model_name(name_or_path)
    name = load_family(name_or_path).native_template if name == NATIVE_NAME else name
    given = None if name is None else get_template(name)
    frame = given.frame if frame is None and given is not None and given.keeps_frame else frame
    source = readable_source(name_or_path)
    prompt = PROMPTS_OF_NEW_MODELS.get(name_or_path, {})
    file = policy_file(name_or_path, source)
    try:
        if file is not None:
            prompt = described_entry(file, "prompt")
        template = given or described_template(prompt)
        if frame is None and ("frame" in prompt or template.keeps_frame):
            frame = CoordinateFrame(prompt.get("frame", template.frame))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: expected a saved policy's description in JSON, with a known template and frame ({error})"
        ) from error
    if frame is None and name_or_path not in NEW_MODELS and source is not None:
        frame = family_of_source(source).frame
    # A frame out of a run's stored arguments is a plain text.
    template = dataclasses.replace(template, frame=CoordinateFrame(template.frame if frame is None else frame))
    if template.frame is CoordinateFrame.RESIZED_PIXEL and source is not None:
        family = family_of_source(source)
        rule = family.image_to_input_wh(load_image_processor(source, family, max_image_tokens))
        template = dataclasses.replace(template, image_to_input_wh=rule)
    return template


def trained_template(name_or_path: str | Path) -> PromptTemplate | None:
    """Return the prompt that a saved policy records; None: the model says nothing of its prompt.

    Raises:
        CheckpointError: As for `load_template`.
    """
    file = policy_file(model_name(name_or_path), readable_source(model_name(name_or_path)))
    template = load_template(name_or_path)
    return template if file is not None and json.loads(file.read_text()).get("prompt") else None


def trained_frame(name_or_path: str | Path) -> CoordinateFrame | None:
    """Return the unit of coordinates that a saved policy records; None: the model says nothing of its prompt.

    Raises:
        CheckpointError: As for `load_template`.
    """
    template = trained_template(name_or_path)
    return None if template is None else template.frame


def other_prompt(name_or_path: str | Path, asked: PromptTemplate) -> str | None:
    """Say how a model is asked otherwise than it was trained; None: it is asked so, or says nothing of its prompt.

    Args:
        name_or_path: As for `load_model`.
        asked: The prompt.

    Raises:
        CheckpointError: As for `load_template`.
    """
    trained = trained_template(name_or_path)
    if trained is None:
        return None
    then, now = describe_template(trained), describe_template(asked)
    if then == now:
        return None
    is_told = describe_template(dataclasses.replace(trained, allow_absent=True)) == now
    reworded = " in other words" if (trained.name, trained.frame) == (asked.name, asked.frame) else ""
    settings = "`allow_absent`" if is_told else "`template` and `frame`"
    return (
        f"model {name_or_path}: trained on the template {trained.name!r} with boxes in {trained.frame}, and asked by "
        f"{asked.name!r}{reworded} with boxes in {asked.frame}; leave {settings} out to ask it as it was "
        "trained"
    )
