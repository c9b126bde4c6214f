"""What all readers ask of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from focus_env.datasets.readers.files import inside, read_json
from focus_env.errors import DatasetError


@pytest.mark.parametrize("text", ["[1", "\ufeff[", f"1{'0' * 5000}", "[" * 100_000])
def test_what_is_no_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json: expected JSON, got something else"):
        read_json(tmp_path / "a.json", advice="?")


@pytest.mark.parametrize("name", ["loop", "loop/below", "\ud800", "a/\udfff"])
def test_a_name_that_leads_nowhere_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DatasetError, match=r"list, line 3: expected a path below .*, which leads nowhere"):
        inside(tmp_path, name, where="list, line 3")
