"""The site: built strictly, readable without a network, with all pages and all public names."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.screenshots import build_site

FETCHED = re.compile(
    r"""(?:<script[^>]*src|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href|<img[^>]*src)=["']?(https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


def test_every_page_is_there(site: Path) -> None:
    pages = {path.stem for path in ROOT.glob("docs/*.md")} | {"index", "log", "contributing", "changelog", "security"}
    assert {path.stem for path in site.glob("*.html")} == pages | {"404"}


@pytest.mark.parametrize("package", ["focus_env", "focus_agents"])
def test_the_reference_has_every_public_name(site: Path, package: str) -> None:
    text = (site / "reference" / f"{package}.html").read_text(encoding="utf-8")
    named = set(re.findall(r'id="([\w.]+)"', text))
    assert {f"{package}.{name}" for name in importlib.import_module(package).__all__} - named == set()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if FETCHED.search(path.read_text(encoding="utf-8"))]
    assert pages == []


def test_links_into_the_repository_are_words(site: Path) -> None:
    text = (site / "how_it_works.html").read_text(encoding="utf-8")
    assert "<code>focus_env/env.py</code>" in text
    assert 'href="../' not in text


def test_lint_builds_so_that_warnings_fail() -> None:
    """With --quiet mkdocs counts no warnings, so --strict fails of none."""
    built = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "mkdocs build" in line]
    assert len(built) == 2
    assert all(line.endswith("mkdocs build --strict") for line in built)
