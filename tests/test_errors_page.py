"""docs/errors.md: every named error, and nothing else."""

from __future__ import annotations

import ast
import re

import pytest

from tests.places import ROOT

PAGE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.+ \| .+) \|$", PAGE, re.MULTILINE))


def named_errors() -> set[str]:
    """The classes of both packages that derive from `FocusError`, by whatever way."""
    bases: dict[str, set[str]] = {}
    for package in ("focus_env", "focus_agents"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    found = {"FocusError"}
    while new := {name for name, above in bases.items() if above & found} - found:
        found |= new
    return found


def test_errors_are_found_by_their_bases() -> None:
    assert {"FocusError", "EndpointError", "RewardError", "RefusedError"} <= named_errors()
    assert "NoSuchObjectError" not in named_errors()


def test_every_named_error_has_its_row() -> None:
    assert set(ROWS) == named_errors()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_happened_and_what_to_do(name: str) -> None:
    happened, do = ROWS[name].split(" | ")
    assert len(happened.split()) >= 4
    assert len(do.split()) >= 4
