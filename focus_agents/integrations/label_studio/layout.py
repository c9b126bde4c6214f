"""Read a project's configuration: the control that draws boxes, the picture under it, and the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from focus_agents.serving import RefusedError


@dataclass(frozen=True)
class Layout:
    """The boxes in a project's configuration.

    Attributes:
        picture: The name of its picture.
        key: Of the picture's address in a task's data.
        controls: The controls that draw boxes by name, each with its labels; none: it takes any label.
    """

    picture: str
    key: str
    controls: Mapping[str, tuple[str, ...]]

    def control_of(self, label: str) -> str | None:
        """Return the control that draws boxes of a label; None: there is none."""
        return next((name for name, labels in self.controls.items() if not labels or label in labels), None)


def read_layout(text: object) -> Layout:
    """Read a project's configuration, which is XML.

    Raises:
        RefusedError: If it is none, or has no picture with boxes.
    """
    expected = "label_config: expected a configuration with one Image and RectangleLabels for it"
    if not isinstance(text, str) or "<!" in text.replace("<!--", ""):
        raise RefusedError(f"{expected}, got {text!r:.80}; set it in the project's settings")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise RefusedError(f"{expected}, got a text that is no XML: {error}") from error
    images = {one.get("name", ""): one.get("value", "") for one in root.iter("Image")}
    controls = {
        one.get("name", ""): tuple(own.get("alias") or own.get("value") or "" for own in one.iter("Label"))
        for one in root.iter("RectangleLabels")
        if one.get("toName") in images
    }
    if len(images) != 1 or not controls:
        raise RefusedError(f"{expected}, got {len(images)} of the one and {len(controls)} of the other")
    name, value = next(iter(images.items()))
    if not value.startswith("$") or len(value) < 2:
        raise RefusedError(f"{expected}, got an Image with the value {value!r:.80}, which names no task's data")
    return Layout(name, value[1:], controls)
