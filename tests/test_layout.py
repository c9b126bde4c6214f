"""The tests' folders are the packages', no test file is imported by another, and no file is too long to be read."""

from __future__ import annotations

import re

import pytest

from tests.places import ROOT

FOLDERS = ("focus_env", "focus_agents", "experiments", "benchmarks", "tests")
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
IMPORT_OF_TESTS = re.compile(r"\b(?:from|import)\s+tests[\w.]*(?:\.test_|\s+import\s+(?:\([^)]*|[^\n(]*)\btest_)")


@pytest.mark.parametrize(
    "text",
    [
        "from tests.a.test_b import c",
        "import tests.test_b as b",
        "from tests.a import test_b",
        "from tests.a import (\n    c,\n    test_b,\n)",
    ],
)
def test_an_import_of_tests_is_seen(text: str) -> None:
    assert IMPORT_OF_TESTS.search(text)


def test_no_test_file_is_imported() -> None:
    """What several need lies in modules without `test_` in front, and fixtures in a conftest.py."""
    texts = {path: path.read_text() for path in TEST_FILES if path.name != "test_layout.py"}
    found = {
        path.relative_to(ROOT): match[0] for path, text in texts.items() if (match := IMPORT_OF_TESTS.search(text))
    }
    assert found == {}


def test_each_folder_of_tests_is_a_folder_of_the_project() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in TEST_FILES}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder).is_dir()] == []


def test_no_file_is_longer_than_it_can_be_read() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 350} == {}
