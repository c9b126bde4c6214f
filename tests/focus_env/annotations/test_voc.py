"""VOC's folders and flags, and XML that would do harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from focus_env.annotations import read_annotations
from focus_env.errors import DatasetError
from tests.focus_env.annotations.samples import MUG, as_text, boxes, picture, read, voc

pytestmark = pytest.mark.usefixtures("a_picture")


class TestVoc:
    """VOC's folders and flags."""

    def test_a_tree(self, tmp_path: Path) -> None:
        root = tmp_path / "VOC2012"
        picture(root / "JPEGImages/a.jpg")
        as_text(root / "Annotations/a.xml", voc())
        as_text(root / "ImageSets/Main/val.txt", "a\n")
        as_text(root / "ImageSets/Main/mug_train.txt", "a  1\n")
        found = read_annotations(root, needs_pictures=True)
        assert boxes(found) == [MUG]
        assert found.pictures[0].split == "val"
        assert dict(found.pictures[0].objects[0].attributes) == {"pose": "Left", "truncated": "true"}

    def test_an_object_without_a_box(self, tmp_path: Path) -> None:
        path = as_text(tmp_path / "x.xml", voc().replace("bndbox", "polygon"))
        assert "x.xml, line 8: expected <bndbox>" in read(path).faults[0].message

    @pytest.mark.parametrize("encoding", ["utf-8", "gb2312", "utf-16", "latin-1"])
    def test_encodings(self, encoding: str, tmp_path: Path) -> None:
        label = {"gb2312": "杯子"}.get(encoding, "café")
        text = f'<?xml version="1.0" encoding="{encoding}"?>\n{voc(name=label)}'
        (tmp_path / "x.xml").write_bytes(text.encode(encoding))
        assert [label for label, _ in boxes(read(tmp_path / "x.xml"))] == [label]

    def test_a_size_of_nought_says_nothing(self, tmp_path: Path) -> None:
        assert boxes(read(as_text(tmp_path / "x.xml", voc(wh=(0, 0))))) == [MUG]


BOMB = "<!DOCTYPE a [" + "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x"}">' for n in range(12)) + "]>"
THEFT = '<!DOCTYPE a [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(("start", "inside"), [(BOMB, "&e11;"), (THEFT, "&secret;"), (THEFT, "mug")])
def test_xml_that_would_do_harm_is_refused(start: str, inside: str, tmp_path: Path) -> None:
    path = as_text(tmp_path / "x.xml", start + voc(name=inside))
    with pytest.raises(DatasetError, match=r"x\.xml, line 1: expected XML without entities of its own"):
        read(path, format="voc")


def test_xml_that_is_deep_is_refused(tmp_path: Path) -> None:
    path = as_text(tmp_path / "x.xml", "<a>" * 10**5 + "</a>" * 10**5)
    with pytest.raises(DatasetError, match=r"x\.xml, line 1: expected at most 100 elements within each other"):
        read(path, format="cvat")
