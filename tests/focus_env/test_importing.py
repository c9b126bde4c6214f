"""A user's own object by its import path."""

from __future__ import annotations

from pathlib import Path

import pytest

from focus_env.importing import import_object


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise SystemExit", "SystemExit"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, raised: str
) -> None:
    (tmp_path / "module_that_fails.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"import path 'module_that_fails:name': importing .* raised {raised}"):
        import_object("module_that_fails:name")
