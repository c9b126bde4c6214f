"""What the tests of annotations share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.focus_env.annotations.samples import picture


@pytest.fixture
def a_picture(tmp_path: Path) -> Path:
    """The picture a.jpg of 64 x 48."""
    return picture(tmp_path / "a.jpg")
