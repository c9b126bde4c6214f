"""Label Studio's regions, and the addresses of its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from focus_env.annotations import format_of, read_annotations
from tests.focus_env.annotations.samples import as_json, boxes, picture, read, region, task

pytestmark = pytest.mark.usefixtures("a_picture")


class TestLabelStudio:
    """Label Studio's regions, and the addresses of its pictures."""

    @pytest.mark.parametrize(
        ("one", "expected"),
        [
            (region(), (16, 12, 48, 36)),
            (region(x=0, y=0, width=100, height=100), (0, 0, 64, 48)),
            (region(x=50, y=25, width=25, height=25, rotation=90), (20, 12, 32, 28)),
            (region() | {"type": "polygonlabels", "value": {"points": [[25, 50], [50, 25], [75, 75]],
                         "polygonlabels": ["mug"]}}, (16, 12, 48, 36)),
            (region() | {"type": "ellipselabels", "value": {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25,
                         "rotation": 0, "ellipselabels": ["mug"]}}, (16, 12, 48, 36)),
        ],
    )  # fmt: skip
    def test_regions(self, one: dict[str, Any], expected: tuple[int, ...], tmp_path: Path) -> None:
        assert boxes(read(as_json(tmp_path / "x.json", task(one)))) == [("mug", expected)]

    @pytest.mark.parametrize(
        "address",
        [
            "/data/local-files/?d=sub%20folder/b.jpg",
            "sub folder/b.jpg",
            "/data/upload/3/b.jpg",
            "/data/upload/3/1a2b3c4d-b.jpg",
            "https://example.com/pictures/b.jpg?token=1",
            "s3://bucket/b.jpg",
        ],
    )
    def test_addresses(self, address: str, tmp_path: Path) -> None:
        picture(tmp_path / "sub folder/b.jpg")
        picture(tmp_path / "images/b.jpg")
        found = read_annotations(as_json(tmp_path / "x.json", task(image=address)), needs_pictures=True)
        assert found.pictures[0].name == ("sub folder/b.jpg" if "sub" in address else "images/b.jpg")

    def test_labels_and_attributes_in_results_of_their_own(self, tmp_path: Path) -> None:
        plain = region() | {"type": "rectangle"}
        del plain["value"]["rectanglelabels"]
        beside = {"id": plain["id"], "from_name": "colour", "to_name": "img", "type": "choices"}
        named = beside | {"type": "labels", "value": plain["value"] | {"labels": ["mug"]}}
        chosen = beside | {"value": plain["value"] | {"choices": ["red"]}}
        number = beside | {"from_name": "track_id", "type": "number", "value": {"number": 7}}
        (one,) = read(as_json(tmp_path / "x.json", task(plain, named, chosen, number))).pictures[0].objects
        assert (one.label, dict(one.attributes), one.track) == ("mug", {"colour": "red"}, "7")

    def test_a_result_may_have_an_id_that_is_no_text(self, tmp_path: Path) -> None:
        chosen = {"id": [1], "type": "choices", "from_name": "colour", "value": {"choices": ["red"]}}
        (one,) = read(as_json(tmp_path / "x.json", task(region() | {"id": [1]}, chosen))).pictures[0].objects
        assert dict(one.attributes) == {"colour": "red"}

    def test_which_annotation_counts(self, tmp_path: Path) -> None:
        made = [
            {"id": 1, "was_cancelled": True, "result": [region(x=1)]},
            {"id": 2, "result": [region(x=2)]},
            {"id": 3, "ground_truth": True, "result": [region()]},
        ]
        found = read(as_json(tmp_path / "x.json", task(annotations=made)))
        assert boxes(found) == [("mug", (16, 12, 48, 36))]
        assert "annotation 2 beside another, not read" in found.notes[0].message
        guessed = task(annotations=[], predictions=[{"score": 0.5, "result": [region()]}])
        (one,) = read(as_json(tmp_path / "x.json", guessed)).pictures[0].objects
        assert one.score == 0.5

    def test_the_short_form(self, tmp_path: Path) -> None:
        short = region()["value"] | {"original_width": 64, "original_height": 48}
        path = as_json(tmp_path / "x.json", [{"id": 1, "image": "/data/upload/1/1a2b3c4d-a.jpg", "label": [short]}])
        assert format_of(path).name == "labelstudio"
        assert boxes(read(path)) == [("mug", (16, 12, 48, 36))]

    @pytest.mark.parametrize(
        ("one", "reason"),
        [
            (region(width=None), "boxes_not_finite"),
            (region(width="50"), "boxes_not_finite"),
            (region(rectanglelabels=[]), "boxes_no_label"),
            (region() | {"image_rotation": 90}, "boxes_turned"),
            (region() | {"type": "keypointlabels"}, "boxes_no_area"),
            (region() | {"value": None}, "entries_bad"),
            (7, "entries_bad"),
        ],
    )
    def test_regions_that_are_none(self, one: Any, reason: str, tmp_path: Path) -> None:
        found = read(as_json(tmp_path / "x.json", task(one)))
        assert dict(found.skipped) == {reason: 1}
        assert "x.json, task 0, result 0: " in found.faults[0].message
