"""What a project's configuration says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from focus_agents.integrations.label_studio.host import Host
from focus_agents.integrations.label_studio.layout import Layout, read_layout
from focus_agents.serving import RefusedError
from tests.focus_agents.integrations.label_studio.client import (
    CONFIG,
    ORIGIN,
    Client,
    drawn,
    task,
)


class TestLayouts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (CONFIG, Layout("img", "photo", {"box": ("mug", "cup")})),
            (
                '<View><RectangleLabels name="b" toName="i" value="$labels"/><Image name="i" value="$image"/></View>',
                Layout("i", "image", {"b": ()}),
            ),
            (
                '<View><!-- two --><Image name="i" value="$u"/><RectangleLabels name="a" toName="i"><View>'
                '<Label value="x"/></View></RectangleLabels><Choices name="c" toName="i"><Choice value="y"/></Choices>'
                '<RectangleLabels name="b" toName="i"><Label value="z"/></RectangleLabels></View>',
                Layout("i", "u", {"a": ("x",), "b": ("z",)}),
            ),
        ],
    )
    def test_what_they_say(self, text: str, expected: Layout) -> None:
        assert read_layout(text) == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "got None"),
            ("", "got a text that is no XML"),
            ("<View>", "got a text that is no XML"),
            ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "got '<!DOCTYPE a"),
            ("<View/>", "got 0 of the one and 0 of the other"),
            ('<View><Image name="i" value="$i"/><RectangleLabels name="b" toName="j"/></View>', "1 of the one and 0"),
            (CONFIG.replace("</View>", '<Image name="k" value="$k"/></View>'), "got 2 of the one and 1 of the other"),
            (CONFIG.replace("$photo", "http://a/b.png"), "which names no task's data"),
            (CONFIG.replace('value="$photo"', 'valueList="$photo"'), "which names no task's data"),
        ],
    )
    def test_what_they_do_not(self, text: object, message: str) -> None:
        with pytest.raises(RefusedError, match=message):
            read_layout(text)

    def test_the_control_of_a_label(self) -> None:
        layout = Layout("i", "u", {"a": ("x",), "b": ()})
        assert [layout.control_of(label) for label in ("x", "other")] == ["a", "b"]
        assert Layout("i", "u", {"a": ("x",)}).control_of("other") is None

    def test_as_the_real_client_reads_them(self, photos: Path, serve: Callable[..., Client]) -> None:
        """The package label-studio-sdk is Label Studio's own: its parser, and its check of predictions."""
        reason = "needs the package label-studio-sdk"
        parser = pytest.importorskip("label_studio_sdk._extensions.label_studio_tools.core.label_config", reason=reason)
        interface = pytest.importorskip("label_studio_sdk.label_interface", reason=reason)
        theirs, ours = parser.parse_config(CONFIG)["box"], read_layout(CONFIG)
        assert theirs["to_name"] == [ours.picture]
        assert theirs["inputs"] == [{"type": "Image", "value": ours.key, "valueType": None}]
        assert [*theirs["labels"]] == [*ours.controls["box"]]
        client = serve(Host(ORIGIN, data_root=photos))
        found = client.predict(task(1, "0.png", drawn((8, 8))), task(2, "1.png"))["results"][1]
        check = interface.LabelInterface(CONFIG)
        assert check.validate_prediction(found, return_errors=True) == []
        found["result"][0]["value"]["rectanglelabels"] = ["plate"]
        assert check.validate_prediction(found, return_errors=True) != []
