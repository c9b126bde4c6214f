"""Templates by what a user writes: a name, a file, a module's, or the fields themselves in JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from focus_env.prompts.house import HOUSE
from focus_env.prompts.native import NATIVE, NATIVE_NAME
from focus_env.prompts.own import SUFFIXES, import_template, make_template, read_template, template_fields
from focus_env.prompts.published import PUBLISHED
from focus_env.prompts.template import PromptTemplate

TEMPLATES: Mapping[str, PromptTemplate] = MappingProxyType(
    {template.name: template for template in (*HOUSE, *PUBLISHED, *NATIVE)}
)
"""The templates of this package.

``"default"``: full sentences, for pretrained models. ``"compact"``: very few words, for small models trained from
scratch, which learn the format from answers. ``"questions"``: in the words that the small base model was taught single
objects in. ``"iploc"``: the baseline that names the object, see `IPLocTemplate`. ``"thinking"``: full sentences, for
models that think before they answer; raise the limit of tokens, since an answer that is cut in its thoughts has none.
The others are those of `published` and `native`. For another frame or absent targets use `dataclasses.replace`.
"""


def get_template(template: PromptTemplate | str) -> PromptTemplate:
    """Return a template by what a user writes; a template is given back as it is.

    Args:
        template: A name of `TEMPLATES`; a YAML, JSON or TOML file; `package.module:NAME`, whose code is run; or the
            fields of one in JSON, as from `spelled_out`.

    Raises:
        ValueError: If there is none, or it is malformed.
        MissingDependencyError: If it is YAML, and PyYAML is not installed.
    """
    if isinstance(template, PromptTemplate):
        return template
    if template in TEMPLATES:
        return TEMPLATES[template]
    if template.lstrip().startswith("{"):
        try:
            fields = json.loads(template)
        except ValueError as error:
            raise ValueError(f"template {template:.80}: expected its fields in JSON, got {error}") from error
        return make_template(fields, "in JSON", TEMPLATES)
    if Path(template).suffix in SUFFIXES:
        return read_template(template, TEMPLATES)
    if ":" in template:
        return import_template(template, TEMPLATES)
    if template == NATIVE_NAME:
        raise ValueError(
            f"template {NATIVE_NAME!r}: expected a model that is loaded here, whose family has one; name it, one of "
            f"{', '.join(native.name for native in NATIVE)}"
        )
    near = difflib.get_close_matches(template.replace("-", "_").replace(".", "_"), TEMPLATES, n=1)
    raise ValueError(
        f"unknown prompt template {template!r}; known are {', '.join(TEMPLATES)}, {NATIVE_NAME}, a file that ends with "
        f"{', '.join(SUFFIXES)}, and package.module:NAME" + (f"; did you mean {near[0]!r}?" if near else "")
    )


def allowing_absent(template: PromptTemplate) -> PromptTemplate:
    """Return a template that tells what to answer where the object is not there.

    Raises:
        ValueError: If it has no words for that.
    """
    if template.allow_absent:
        return template
    if not template.absent_text:
        raise ValueError(
            f"allow_absent: expected a template with words for an object that is not there, got {template.name!r}, "
            "which has none; leave it out, or choose another `template`"
        )
    return dataclasses.replace(template, allow_absent=True)


def spelled_out(template: str | None) -> str | None:
    """Return a template of one's own as its fields in JSON, whose words no file or module changes any more.

    Names of this package and None stay as they are.

    Raises:
        ValueError: If there is no such template.
        MissingDependencyError: If it is YAML, and PyYAML is not installed.
    """
    if template is None or template in TEMPLATES or template == NATIVE_NAME:
        return template
    return json.dumps(template_fields(get_template(template)), ensure_ascii=False)


def describe_template(template: PromptTemplate) -> dict[str, Any]:
    """Return what a saved policy says of its prompt: name and frame, and all fields if no shipped template has them.

    A template whose class has code of its own has its name and its class.
    """
    described: dict[str, Any] = {"template": template.name, "frame": str(template.frame)}
    if is_shipped(template):
        return described
    try:
        return described | {"fields": template_fields(template)}
    except ValueError:
        return described | {"class": f"{type(template).__module__}.{type(template).__qualname__}"}


def described_template(described: Mapping[str, Any]) -> PromptTemplate:
    """Return the template of a description; nothing is imported or read from elsewhere.

    Args:
        described: As from `describe_template`; without a template, full sentences.

    Raises:
        ValueError: If it is malformed, or names a template that is not of this package.
        TypeError: Likewise.
    """
    if (fields := described.get("fields")) is not None:
        return make_template(fields, "of the policy", TEMPLATES)
    name = described.get("template", "default")
    if name not in TEMPLATES:
        own = f", of the class {described['class']}" if "class" in described else ""
        raise ValueError(f"unknown prompt template {name!r}{own}; known are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def is_shipped(template: PromptTemplate) -> bool:
    """Return whether a template is one of this package, but perhaps for its frame."""
    shipped = TEMPLATES.get(template.name)
    if shipped is None or type(shipped) is not type(template):
        return False
    try:
        return template_fields(template) | _ANY_FRAME == template_fields(shipped) | _ANY_FRAME
    except ValueError:
        return False


_ANY_FRAME = {"frame": ""}
