"""What the environment's tests share."""

from __future__ import annotations

import pytest

from tests.focus_env.pictures import as_file, detailed_picture


@pytest.fixture(scope="module")
def detailed() -> bytes:
    return as_file(detailed_picture(), quality=90)
