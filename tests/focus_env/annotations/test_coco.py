"""COCO's lists, as they are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from focus_env.annotations import read_annotations
from tests.focus_env.annotations.samples import MUG, as_json, boxed, boxes, coco, picture, read

pytestmark = pytest.mark.usefixtures("a_picture")


class TestCoco:
    """COCO's lists, as they are found."""

    @pytest.mark.parametrize(
        ("changes", "skipped", "noted", "num_boxes"),
        [
            ({"annotations": boxed(10, 20, 30, 20, category_id=9)}, {"boxes_no_label": 1}, {}, 0),
            ({"annotations": boxed(10, 20, 30, 20, image_id=9)}, {"boxes_no_picture": 1}, {}, 0),
            ({"annotations": boxed(10, 20, 30, 20, image_id=None)}, {"boxes_no_picture": 1}, {}, 0),
            ({"annotations": boxed(10, 20, 30, 20, image_id="1", category_id="3")}, {}, {}, 1),
            ({"annotations": [7, None, *boxed(10, 20, 30, 20)]}, {"entries_bad": 2}, {}, 1),
            ({"annotations": [{**one, "bbox": box} for one in boxed(1) for box in ([1, 2, 3], "1,2,3,4", None)]},
             {"boxes_not_finite": 3}, {"boxes_id": 2}, 0),
            ({"annotations": [*boxed(10, 20, 30, 20), *boxed(0, 0, 30, 20)]}, {}, {"boxes_id": 1}, 2),
            ({"categories": []}, {"boxes_no_label": 1}, {}, 0),
            ({"categories": {}}, {"entries_bad": 1, "boxes_no_label": 1}, {}, 0),
            ({"categories": [{"id": 3, "name": "mug"}, {"id": 3, "name": "pen"}]},
             {"categories_bad": 1, "boxes_no_label": 1}, {}, 0),
            ({"categories": [{"id": 3, "name": ""}]}, {"categories_bad": 1, "boxes_no_label": 1}, {}, 0),
            ({"images": []}, {"boxes_no_picture": 1}, {}, 0),
            ({"images": [7]}, {"entries_bad": 1, "boxes_no_picture": 1}, {}, 0),
            ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg", "width": 9, "height": 9}]},
             {"pictures_id": 1, "boxes_no_picture": 1}, {"pictures_missing": 1}, 0),
            ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "./a.jpg"}]},
             {}, {"pictures_twice": 1}, 1),
            ({"images": [{"id": 1}]}, {"pictures_outside": 1, "boxes_no_picture": 1}, {}, 0),
            ({"images": [{"id": 1, "file_name": "a.jpg", "width": 0, "height": None}]}, {}, {}, 1),
        ],
    )  # fmt: skip
    def test_lists_that_contradict_themselves(
        self, changes: dict[str, Any], skipped: dict[str, int], noted: dict[str, int], num_boxes: int, tmp_path: Path
    ) -> None:
        found = read(as_json(tmp_path / "x.json", coco(**changes)), format="coco")
        assert (dict(found.skipped), dict(found.noted), found.num_boxes) == (skipped, noted, num_boxes)
        assert all("x.json, " in one.message or "x.json: " in one.message for one in (*found.faults, *found.notes))

    def test_of_two_images_of_one_id_neither_is_used(self, tmp_path: Path) -> None:
        images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg", "width": 9, "height": 9}]
        assert read(as_json(tmp_path / "x.json", coco(images=images))).pictures == ()

    def test_two_categories_of_one_name_stay_apart(self, tmp_path: Path) -> None:
        both = [{"id": 3, "name": "mug"}, {"id": 4, "name": "mug "}]
        two = [*boxed(10, 20, 30, 20), *boxed(0, 0, 9, 9, id=2, category_id=4)]
        found = read(as_json(tmp_path / "x.json", coco(categories=both, annotations=two)))
        assert boxes(found) == [MUG, ("mug (4)", (0, 0, 9, 9))]
        assert found.notes[0].message.endswith("the name 'mug' a second time; this one is called 'mug (4)'")

    def test_what_a_box_has_beside_it(self, tmp_path: Path) -> None:
        attributes = {"occluded": True, "rotation": 0.0, "hidden": False, "of": None, "track_id": 5}
        path = as_json(tmp_path / "x.json", coco(annotations=boxed(10, 20, 30, 20, attributes=attributes, iscrowd=1)))
        (one,) = read(path).pictures[0].objects
        assert one.track == "5"
        assert dict(one.attributes) == {"occluded": "true", "rotation": "0.0", "hidden": "false", "iscrowd": "true"}

    def test_a_box_around_polygons_where_there_is_none(self, tmp_path: Path) -> None:
        outline = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[10, 20, 40, 25, 12, 40]]}
        assert boxes(read(as_json(tmp_path / "x.json", coco(annotations=[outline])))) == [MUG]

    def test_absent_as_lvis_says_it(self, tmp_path: Path) -> None:
        image = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48, "neg_category_ids": [3]}
        assert boxes(read(as_json(tmp_path / "x.json", coco(images=[image], annotations=[])))) == [("mug", None)]

    @pytest.mark.parametrize(
        ("file", "place", "split"),
        [
            ("annotations/instances_train2017.json", "images/train2017/a.jpg", "train"),
            ("annotations/instances_val2017.json", "val2017/a.jpg", "val"),
            ("annotations/instances_default.json", "images/default/a.jpg", ""),
            ("train/_annotations.coco.json", "train/a.jpg", "train"),
            ("result.json", "images/a.jpg", ""),
        ],
    )
    def test_where_tools_put_pictures(self, file: str, place: str, split: str, tmp_path: Path) -> None:
        root = tmp_path / "root"
        picture(root / place)
        as_json(root / file, coco())
        for path in (root, root / file):
            found = read_annotations(path, needs_pictures=True)
            assert [(one.path, one.split) for one in found.pictures] == [(root / place, split)]

    def test_of_several_files_those_of_instances_count(self, tmp_path: Path) -> None:
        as_json(tmp_path / "annotations/instances_train.json", coco())
        as_json(tmp_path / "annotations/person_keypoints_train.json", coco(annotations=boxed(0, 0, 9, 9)))
        assert boxes(read(tmp_path, format="coco")) == [MUG]
