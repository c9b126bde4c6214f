"""YOLO's lines and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from focus_env.errors import MissingDependencyError
from tests.focus_env.annotations.samples import as_text, boxes, picture, read

pytestmark = pytest.mark.usefixtures("a_picture")


class TestYolo:
    """YOLO's lines and names."""

    def write(self, folder: Path, lines: str, described: str | None = "names: [mug, pen]\n") -> Path:
        root = folder / "set"
        picture(root / "images/a.jpg", (100, 50))
        as_text(root / "labels/a.txt", lines)
        if described is not None:
            as_text(root / "data.yaml", described)
        return root

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("0 0.5 0.5 0.2 0.4", ("mug", (40, 15, 60, 35), None, "")),
            ("1.0\t0.5,0.5 0.2 0.4", ("pen", (40, 15, 60, 35), None, "")),
            ("0 0.5 0.5 0.2 0.4 0.75", ("mug", (40, 15, 60, 35), 0.75, "")),
            ("0 0.5 0.5 0.2 0.4 0.75 12", ("mug", (40, 15, 60, 35), 0.75, "12")),
            ("0 0.4 0.3 0.6 0.3 0.6 0.7", ("mug", (40, 15, 60, 35), None, "")),
            ("0 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7", ("mug", (40, 15, 60, 35), None, "")),
        ],
    )
    def test_lines(self, line: str, expected: tuple[Any, ...], tmp_path: Path) -> None:
        found = read(self.write(tmp_path, line))
        ((label, box),) = boxes(found)
        (one,) = found.pictures[0].objects
        assert (label, box, one.score, one.track) == expected
        assert (found.faults, found.notes) == ((), ())

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("0 0.5 0.5 0.2", "entries_bad"),
            ("mug 0.5 0.5 0.2 0.4", "entries_bad"),
            ("-1 0.5 0.5 0.2 0.4", "entries_bad"),
            ("0.5 0.5 0.5 0.2 0.4", "entries_bad"),
            ("0 0.5 0.5 nan 0.4", "boxes_not_finite"),
            ("0 0.5 0.5 0.2 0.4 0.1 0.2 0.3", "boxes_not_finite"),
            ("0 0.5 0.5 0 0.4", "boxes_no_area"),
            ("0 0.5 0.5 -0.2 0.4", "boxes_reversed"),
            ("0 1.5 0.5 0.2 0.4", "boxes_outside"),
            ("0 50 25 20 20", "boxes_shares"),
        ],
    )
    def test_lines_that_are_none(self, line: str, reason: str, tmp_path: Path) -> None:
        found = read(self.write(tmp_path, f"\n{line}\n0 0.5 0.5 0.2 0.4\n"))
        assert (dict(found.skipped), found.num_boxes) == ({reason: 1}, 1)
        assert "labels/a.txt, line 2: expected " in found.faults[0].message

    @pytest.mark.parametrize(
        ("described", "expected"),
        [
            ("names: [mug, pen]\n", "pen"),
            ("names:\n- mug\n- 'pen'\n", "pen"),
            ("path: ../set\ntrain: images\nval: images\nnames:\n  0: mug\n  1: pen\n", "pen"),
            ("names: {0: mug, 1: 7}\nnc: 2\n", "7"),
            ("names: [mug, mug]\n", "mug (1)"),
            ("names: [mug]\n", "1"),
            (None, "1"),
        ],
    )
    def test_names(self, described: str | None, expected: str, tmp_path: Path) -> None:
        found = read(self.write(tmp_path, "1 0.5 0.5 0.2 0.4\n", described), format="yolo")
        assert [one.label for one in found.pictures[0].objects] == [expected]
        assert bool(found.notes) == (expected in ("1", "mug (1)"))

    def test_names_without_yaml(self, tmp_path: Path) -> None:
        root = self.write(tmp_path, "1 0.5 0.5 0.2 0.4\n", None)
        as_text(root / "classes.txt", "mug\npen\n")
        assert boxes(read(root)) == [("pen", (40, 15, 60, 35))]

    def test_points_behind_a_box(self, tmp_path: Path) -> None:
        root = self.write(tmp_path, "0 0.5 0.5 0.2 0.4 0.1 0.1 2\n", "names: [mug]\nkpt_shape: [1, 3]\n")
        assert boxes(read(root)) == [("mug", (40, 15, 60, 35))]

    def test_pictures_without_labels_and_labels_without_pictures(self, tmp_path: Path) -> None:
        root = self.write(tmp_path, "0 0.5 0.5 0.2 0.4\n")
        picture(root / "images/empty.jpg")
        as_text(root / "labels/gone.txt", "0 0.5 0.5 0.2 0.4\n")
        found = read(root)
        assert {one.name: len(one.objects) for one in found.pictures} == {"images/a.jpg": 1, "images/empty.jpg": 0}
        assert "labels/gone.txt: expected a picture gone" in found.faults[0].message

    @pytest.mark.parametrize("described", ["names: [", "names: !!python/object/apply:os.getcwd []", "&a [*a]"])
    def test_yaml_that_is_none(self, described: str, tmp_path: Path) -> None:
        found = read(self.write(tmp_path, "0 0.5 0.5 0.2 0.4\n", described), format="yolo")
        assert [one.label for one in found.pictures[0].objects] == ["0"]

    def test_without_pyyaml_it_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "yaml", None)
        with pytest.raises(MissingDependencyError, match="pip install pyyaml"):
            read(self.write(tmp_path, ""))
