"""README's picture shows what the command answers, and nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from focus_env.boxes import box_iou
from focus_env.types import Box
from tests.photographs import FOLDER, FOUND, LEAST_IOU, PICTURE, ROWS, answer, draw

pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)

SHOWN = {name: Box(*box) for name, box in json.loads(FOUND.read_text(encoding="utf-8")).items()}


@pytest.mark.parametrize("name", SHOWN)
def test_the_command_answers_as_shown(name: str) -> None:
    found = answer(ROWS[name])
    assert found == pytest.approx(SHOWN[name], abs=1.0)
    assert box_iou(found, ROWS[name].target) >= LEAST_IOU


def test_the_picture_is_drawn_from_these_boxes() -> None:
    drawn, kept = draw(SHOWN), np.asarray(Image.open(PICTURE).convert("RGB"))
    assert kept.shape == drawn.shape
    differs = np.abs(kept.astype(int) - drawn).max(axis=2) > 80  # more than JPEG changes
    assert differs.mean() < 0.0005


def test_each_photograph_has_its_source() -> None:
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    photographs = {path.name for path in FOLDER.iterdir()} - {"NOTICE", FOUND.name}
    assert photographs == {file for row in ROWS.values() for file in (row.support, row.query)}
    assert [name for name in photographs if f"    {name} " not in notice] == []
