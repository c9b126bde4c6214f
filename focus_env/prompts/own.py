"""Your own templates: from a file, a module, or the fields of a template.

    name: mine                          # default: the file's name
    base: default                       # whose sentences stand where none is given here; default: nobody's
    instruction: "Find the object. Boxes are {answer_format}."
    support_text: "It is at {box}."
    query_text: "Where is it?"
    frame: norm_1000                    # default: the model's own unit

Any field of `PromptTemplate` but `image_to_input_wh` may stand there; `names` or `object_name` make an `IPLocTemplate`.
JSON and TOML are read as well. Files hold data and run nothing; a module is the user's own code.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import reprlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from focus_env.boxes import CoordinateFrame
from focus_env.errors import MissingDependencyError
from focus_env.importing import import_object
from focus_env.prompts.named import IPLocTemplate, Names
from focus_env.prompts.round_trip import misread
from focus_env.prompts.template import PromptTemplate
from focus_env.regular_files import open_regular
from focus_env.text_files import yaml_fault

SUFFIXES = (".yaml", ".yml", ".json", ".toml")
_LARGEST_FILE = 1_000_000
_NOT_DATA = "image_to_input_wh"  # a function that the model's processor gives
_NEEDED = ("instruction", "support_text", "query_text")
_ALWAYS = (*_NEEDED, "names", "frame", "keeps_frame")  # written even where they are the defaults
_BASE = "base"


def template_fields(template: PromptTemplate) -> dict[str, Any]:
    """Return a template as plain data, for JSON: what it must have, and what differs from the defaults.

    Raises:
        ValueError: If its class has code of its own, which no data can hold.
    """
    if type(template) not in (PromptTemplate, IPLocTemplate):
        raise ValueError(
            f"template {template.name!r}: expected a PromptTemplate or an IPLocTemplate, whose fields can be written "
            f"as data, got a {type(template).__name__}; word it by the fields of one of these"
        )
    written: dict[str, Any] = {}
    for field in dataclasses.fields(template):
        value = getattr(template, field.name)
        if field.name != _NOT_DATA and (value != field.default or field.name in _ALWAYS):
            written[field.name] = list(value) if isinstance(value, tuple) else value
    return {name: str(value) if isinstance(value, CoordinateFrame) else value for name, value in written.items()}


def make_template(fields: object, source: str, shipped: Mapping[str, PromptTemplate]) -> PromptTemplate:
    """Return the template that plain data describes.

    Args:
        fields: By name, as from `template_fields` or a file.
        source: What the data is, for messages; the template's name if it gives none.
        shipped: The templates that `base` may name.

    Raises:
        ValueError: If a field is unknown, missing or of another type, or the template is none.
    """
    if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
        raise ValueError(f"template {source}: expected fields such as instruction, support_text and query_text by name")
    given = dict(fields)
    base = given.pop(_BASE, None)
    if base is not None and (not isinstance(base, str) or base not in shipped):
        raise ValueError(f"template {source}: {_BASE} must be one of {', '.join(shipped)}, got {reprlib.repr(base)}")
    start = {} if base is None else {f.name: getattr(shipped[base], f.name) for f in dataclasses.fields(shipped[base])}
    kind = IPLocTemplate if {"names", "object_name", "asks_by_category"} & {*given, *start} else PromptTemplate
    known = [field.name for field in dataclasses.fields(kind) if field.name != _NOT_DATA]
    for name, value in given.items():
        _check(name, value, source, [*known, _BASE])
    if base is None and (missing := [name for name in _NEEDED if name not in given]):
        raise ValueError(f"template {source}: {missing[0]} is missing; give it, if empty, or a {_BASE}")
    if "frame" in given:
        given = {"keeps_frame": True, **given, "frame": CoordinateFrame(given["frame"])}
    if "optional_tokens" in given:
        given["optional_tokens"] = tuple(given["optional_tokens"])
    given.setdefault("name", Path(source).stem)
    try:
        template = kind(**start | given)
        _check_units(template)
        return template
    except ValueError as error:
        reason = str(error).removeprefix(f"template {given['name']!r}: ")
        raise ValueError(f"template {source}: {reason}") from error


def read_template(path: str | Path, shipped: Mapping[str, PromptTemplate]) -> PromptTemplate:
    """Read a template from a YAML, JSON or TOML file.

    Args:
        path: Ends with one of `SUFFIXES`.
        shipped: The templates that `base` may name.

    Raises:
        ValueError: If there is no such file, or it holds no template.
        MissingDependencyError: If it is YAML, and PyYAML is not installed.
    """
    file = Path(os.path.expanduser(path))
    try:
        with open_regular(file) as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"template {path}: expected a file, got: {error.strerror}; correct the path") from error
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"template {path}: expected a few sentences, got more than {_LARGEST_FILE:,} bytes")
    try:
        text = content.decode("utf-8-sig")
        fields = _PARSERS[file.suffix](text)
    except (ValueError, RecursionError) as error:  # the errors of all three formats are ValueErrors
        kind = file.suffix[1:].upper()
        raise ValueError(f"template {path}: expected fields such as instruction in {kind}, got {error}") from error
    return make_template(fields, str(path), shipped)


def import_template(path: str, shipped: Mapping[str, PromptTemplate]) -> PromptTemplate:
    """Import a template of one's own; this runs the module's code, so the path must come from the user alone.

    Args:
        path: `package.module:NAME` of a `PromptTemplate`, or of a mapping of its fields.
        shipped: The templates that `base` may name.

    Raises:
        ValueError: If there is no such module or name, or it is no template that can be written as data.
    """
    found = import_object(path)
    if isinstance(found, Mapping):
        return make_template({"name": path.partition(":")[2], **found}, path, shipped)
    if not isinstance(found, PromptTemplate):
        raise ValueError(
            f"template {path}: expected a PromptTemplate or a mapping of its fields, got {type(found).__name__}"
        )
    template_fields(found)
    _check_units(found)
    return found


def _check_units(template: PromptTemplate) -> None:
    """See that right answers are read back in each unit that may stand in for the template's own.

    Raises:
        ValueError: If one is not.
    """
    if template.keeps_frame:
        return
    for frame in CoordinateFrame:
        try:
            template.form.box.check_frame(frame)
        except ValueError:
            continue  # refused where it is asked for
        if (fault := misread(template.form, frame, thinking=template.thinking)) is not None:
            raise ValueError(f"template {template.name!r}: {fault}")


def _check(name: str, value: object, source: str, known: list[str]) -> None:
    """See that a field is one, and has the right type."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"template {source}: unknown field {name!r}; known are {', '.join(known)}{hint}")
    if name in ("allow_absent", "thinking", "keeps_frame", "asks_by_category"):
        expected, is_right = "true or false", isinstance(value, bool)
    elif name == "optional_tokens":
        is_right = isinstance(value, list | tuple) and all(isinstance(token, str) and token for token in value)
        expected = "a list of texts"
    elif name == "names":
        expected, is_right = f"one of {', '.join(get_args(Names))}", value in get_args(Names)
    elif name == "frame":
        expected, is_right = f"one of {', '.join(CoordinateFrame)}", value in list(CoordinateFrame)
    else:
        expected, is_right = "a text", isinstance(value, str) and (name != "name" or value.strip() != "")
    if not is_right:
        raise ValueError(f"template {source}: {name} must be {expected}, got {reprlib.repr(value)}")


def _read_yaml(text: str) -> object:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "a template in YAML needs PyYAML, which is not installed; run: pip install pyyaml, or write the template "
            "as JSON or TOML"
        ) from error
    try:
        # Composed first: loading keeps the last of two equal fields in silence, and may grow by references.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        _refuse_doubles([key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)])
        if any(isinstance(value, yaml.MappingNode) for _, value in pairs):
            raise ValueError("fields within a field")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(yaml_fault(error)) from error


def _read_json(text: str) -> object:
    def as_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_doubles([name for name, _ in pairs])
        return dict(pairs)

    return json.loads(text, object_pairs_hook=as_fields)


def _refuse_doubles(names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the field {twice[0]!r} twice")


_PARSERS: Mapping[str, Callable[[str], object]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".json": _read_json,
    ".toml": tomllib.loads,
}
