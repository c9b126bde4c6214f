"""CVAT's shapes and tracks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.focus_env.annotations.samples import MUG, as_text, boxes, picture, read

pytestmark = pytest.mark.usefixtures("a_picture")


VIDEO = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>5</id><name>kitchen</name><size>3</size><mode>interpolation</mode>
    <labels><label><name>mug</name><attributes></attributes></label><label><name>pen</name></label></labels>
    <original_size><width>64</width><height>48</height></original_size></task></meta>
  <track id="0" label="mug" source="manual">
    <box frame="0" keyframe="1" outside="0" occluded="1" xtl="10.00" ytl="20.00" xbr="40.00" ybr="40.00" z_order="0">
      <attribute name="colour">red</attribute></box>
    <box frame="1" keyframe="1" outside="1" occluded="0" xtl="10.00" ytl="20.00" xbr="40.00" ybr="40.00" z_order="0"/>
    <polygon frame="2" keyframe="1" outside="0" occluded="0" points="10.00,20.00;40.00,25.00;20.00,40.00" z_order="0"/>
    <points frame="2" keyframe="1" outside="0" occluded="0" points="10.00,20.00" z_order="0"/>
  </track>
</annotations>
"""


def test_a_video_of_cvat(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"images/frame_{number:06d}.PNG")
    found = read(as_text(tmp_path / "annotations.xml", VIDEO), needs_pictures=True)
    assert [one.name for one in found.pictures] == [f"images/frame_{number:06d}.PNG" for number in range(3)]
    assert boxes(found) == [MUG, ("mug", None), MUG]
    assert found.labels == ("mug", "pen")
    assert {(one.track, shown.clip) for shown in found.pictures for one in shown.objects} == {("0", "kitchen")}
    assert dict(found.pictures[0].objects[0].attributes) == {"colour": "red", "occluded": "true"}
    assert "annotations.xml, line 12: <points> has no box" in found.faults[0].message


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ('<box label="mug" xtl="20" ytl="20" xbr="40" ybr="30" rotation="90.0"/>', (25, 15, 35, 35)),
        ('<ellipse label="mug" cx="25" cy="30" rx="15" ry="10"/>', (10, 20, 40, 40)),
        ('<mask label="mug" rle="1" left="10" top="20" width="30" height="20"/>', (10, 20, 40, 40)),
        ('<polyline label="mug" points="10,20;40,40"/>', (10, 20, 40, 40)),
    ],
)
def test_shapes_of_cvat(shape: str, expected: tuple[int, ...], tmp_path: Path) -> None:
    image = f'<annotations><image id="0" name="a.jpg" width="64" height="48">{shape}</image></annotations>'
    assert boxes(read(as_text(tmp_path / "x.xml", image))) == [("mug", expected)]
