"""The site in a real browser, from disk and offline: its search, and its pages at the width of a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Page, chromium
from tests.screenshots import PAGES, SCREENS, SIZES, build_site

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, such as of `apt-get install chromium`")

FOUND = "[...document.querySelectorAll('.md-search-result__link')].map(link => link.href)"
COMMANDS = "[...document.querySelectorAll('.md-content .language-sh pre > code')]"
CUT = f"{COMMANDS}.filter(code => code.scrollWidth > code.clientWidth)"
BROKEN_FLAGS = "[...document.querySelectorAll('.flag')].filter(flag => flag.getClientRects().length > 1)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_the_search_works_from_disk(site: Path, page: Page) -> None:
    page.open(site / "start.html", width=1280)
    page.click(".md-search__input")
    page.wait("document.querySelector('.md-search-result__meta').textContent.includes('Type to start')", seconds=20)
    page.call("Input.insertText", text="attention loss")
    page.call("Input.dispatchKeyEvent", type="keyUp", key="s")
    page.wait(f"{FOUND}.length > 0", seconds=20)
    assert page.value(f"{FOUND}.every(link => link.startsWith('file:'))")
    assert page.errors == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits(site: Path, page: Page, name: str, size: str) -> None:
    width, height = SIZES[size]
    page.open(site / f"{name}.html", width=width, height=height, dark=size == "phone")
    assert page.value("document.scrollingElement.scrollWidth") <= width
    assert page.value(f"{CUT}.length") == 0
    assert page.value("document.querySelectorAll('.flag').length") > 0
    assert page.value(f"{BROKEN_FLAGS}.length") == 0
    scheme = page.value("document.body.dataset.mdColorScheme")
    assert scheme == ("slate" if size == "phone" else "default")
    assert page.errors == []


def test_each_page_has_its_pictures() -> None:
    pictures = {f"{name}_{size}.png" for name in PAGES for size in SIZES}
    assert {path.name for path in SCREENS.iterdir()} == pictures
    assert sum(path.stat().st_size for path in SCREENS.iterdir()) < 1_500_000
