"""CSV, JSON lines, and a folder with text files."""

from __future__ import annotations

from pathlib import Path

import pytest

from focus_env.errors import DatasetError
from tests.focus_env.annotations.samples import MUG, as_text, boxes, picture, read

pytestmark = pytest.mark.usefixtures("a_picture")


class TestCsv:
    """Headings of other tools, and lines that are none."""

    @pytest.mark.parametrize(
        "text",
        [
            "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,64,48,mug,10,20,40,40\n",
            "image_name;label;x_min;y_min;x_max;y_max\na.jpg;mug;10;20;40;40\n",
            "image\tx\ty\tw\th\tlabel\na.jpg\t10\t20\t30\t20\tmug\n",
            "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
            "mug,10,20,30,20,a.jpg,64,48\n",
            "a.jpg,10,20,40,40,mug\n",
            '\ufeff"image","x1","y1","x2","y2","label"\r\n"a.jpg","10","20","40","40","mug"\r\n\r\n',
            "Image,X1,Y1,X2,Y2,Label\n./a.jpg, 10 ,20,40,40, mug\n",
        ],
    )
    def test_headings(self, text: str, tmp_path: Path) -> None:
        found = read(as_text(tmp_path / "x.csv", text))
        assert (boxes(found), found.faults, found.notes) == ([MUG], (), ())

    def test_columns_beside(self, tmp_path: Path) -> None:
        text = 'image,x1,y1,x2,y2,colour,attributes,absent\na.jpg,10,20,40,40,red,"{""a"": true}",\na.jpg,,,,,,,true\n'
        found = read(as_text(tmp_path / "x.csv", text))
        assert boxes(found) == [("object", (10, 20, 40, 40)), ("object", None)]
        assert dict(found.pictures[0].objects[0].attributes) == {"a": "true", "colour": "red"}

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (",10,20,40,40,mug", "entries_bad"),
            ("a.jpg,10,20,40", "boxes_no_label"),
            ("a.jpg,,,,,mug", "boxes_not_finite"),
            ("a.jpg,10,20,40,40,", "boxes_no_label"),
        ],
    )
    def test_lines_that_are_none(self, line: str, reason: str, tmp_path: Path) -> None:
        text = f"image,x1,y1,x2,y2,label\n{line}\na.jpg,10,20,40,40,mug\n"
        found = read(as_text(tmp_path / "x.csv", text))
        assert (dict(found.skipped), boxes(found)) == ({reason: 1}, [MUG])
        assert "x.csv, line 2: expected" in found.faults[0].message

    @pytest.mark.parametrize("text", ["", "\n\n", "a,b,c\n1,2,3\n", "image,x1,y1\n"])
    def test_files_that_are_none(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"x\.csv.*: expected a heading"):
            read(as_text(tmp_path / "x.csv", text))


@pytest.mark.parametrize("line", ["7", "{", '{"image": "a.jpg", "objects": 7}', '{"image": "a.jpg", "objects": [7]}'])
def test_json_lines_that_are_none(line: str, tmp_path: Path) -> None:
    good = '{"image": "a.jpg", "objects": [{"label": "mug", "box": [10, 20, 40, 40]}, {"label": "pen", "box": null}]}'
    found = read(as_text(tmp_path / "x.jsonl", f"\n{line}\n{good}\n"))
    assert (dict(found.skipped), boxes(found)) == ({"entries_bad": 1}, [MUG, ("pen", None)])
    assert "x.jsonl, line 2" in found.faults[0].message


class TestFolder:
    """A folder of pictures with a text file beside each."""

    def test_lines(self, tmp_path: Path) -> None:
        root = tmp_path / "mine"
        for name in ("cup/1.jpg", "cup/2.jpg", "cup/3.png", "pen/b/1.jpg", "unlabelled.jpg"):
            picture(root / name)
        as_text(root / "cup/1.txt", "# drawn by hand\n10, 20, 40, 40\n0 0 9 9 old  pot\n")
        as_text(root / "cup/2.txt", "")
        as_text(root / "cup/3.png.txt", "absent pen\n")
        as_text(root / "pen/b/1.txt", "10 20 40 40\n")
        found = read(root)
        assert {one.name: boxes(type(found)((one,))) for one in found.pictures} == {
            "cup/1.jpg": [("cup", (10, 20, 40, 40)), ("old  pot", (0, 0, 9, 9))],
            "cup/2.jpg": [("cup", None)],
            "cup/3.png": [("pen", None)],
            "pen/b/1.jpg": [("pen", (10, 20, 40, 40))],
        }
        assert (found.faults, found.notes) == ((), ())

    @pytest.mark.parametrize("line", ["0 0.5 0.5 0.2 0.4", "0.1 0.2 0.3 0.4"])
    def test_shares_are_named(self, line: str, tmp_path: Path) -> None:
        as_text(tmp_path / "a.txt", f"{line}\n")
        found = read(tmp_path, format="folder")
        assert set(found.skipped) <= {"boxes_shares", "boxes_no_area", "boxes_reversed"}
        assert found.num_boxes == 0

    def test_two_pictures_of_one_name(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        as_text(tmp_path / "a.txt", "10 20 40 40\n")
        with pytest.raises(DatasetError, match="expected pictures with a text file beside each"):
            read(tmp_path, format="folder")
