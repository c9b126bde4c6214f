"""LabelMe's shapes, and where its pictures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.focus_env.annotations.samples import as_json, boxes, labelme, picture, read

pytestmark = pytest.mark.usefixtures("a_picture")


class TestLabelMe:
    """LabelMe's shapes, and where its pictures are."""

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ({"points": [[40, 40], [10, 20]]}, (10, 20, 40, 40)),
            ({"points": [[10, 20], [40, 20], [40, 40], [10, 40]]}, (10, 20, 40, 40)),
            ({"shape_type": "polygon", "points": [[10, 25], [40, 20], [30, 40]]}, (10, 20, 40, 40)),
            ({"shape_type": "circle", "points": [[25, 24], [25, 34]]}, (15, 14, 35, 34)),
            ({"shape_type": "line", "points": [[10, 20], [40, 40]]}, (10, 20, 40, 40)),
        ],
    )
    def test_shapes(self, shape: dict[str, Any], expected: tuple[int, ...], tmp_path: Path) -> None:
        assert boxes(read(as_json(tmp_path / "x.json", labelme(shape=shape)))) == [("mug", expected)]

    @pytest.mark.parametrize(
        ("shape", "reason"),
        [
            ({"shape_type": "point", "points": [[10, 20]]}, "boxes_no_area"),
            ({"points": [[10, 20]]}, "boxes_no_area"),
            ({"points": []}, "boxes_not_finite"),
            ({"points": None}, "boxes_not_finite"),
            ({"points": [[10, 20], [40]]}, "boxes_not_finite"),
            ({"points": [["10", "20"], [40, 40]]}, "boxes_not_finite"),
        ],
    )
    def test_shapes_that_are_none(self, shape: dict[str, Any], reason: str, tmp_path: Path) -> None:
        found = read(as_json(tmp_path / "x.json", labelme(shape=shape)))
        assert dict(found.skipped) == {reason: 1}
        assert "x.json, shapes[0]: " in found.faults[0].message

    def test_what_a_shape_has_beside_it(self, tmp_path: Path) -> None:
        shape = {"group_id": 0, "flags": {"blurred": True, "cut": False}, "score": 0.5, "difficult": True}
        (one,) = read(as_json(tmp_path / "x.json", labelme(shape=shape))).pictures[0].objects
        assert (one.track, one.score) == ("0", 0.5)
        assert dict(one.attributes) == {"blurred": "true", "difficult": "true"}

    @pytest.mark.parametrize("given", ["../images/a.jpg", "..\\images\\a.jpg"])
    def test_pictures_beside_the_folder_of_the_labels(self, given: str, tmp_path: Path) -> None:
        picture(tmp_path / "set/images/a.jpg")
        as_json(tmp_path / "set/labels/a.json", labelme(imagePath=given))
        found = read(tmp_path / "set")
        assert [one.name for one in found.pictures] == ["images/a.jpg"]
