"""The report of a run in a real browser, from disk and offline: a desktop and a phone, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from focus_agents.reports.run_page.page import render_page
from focus_agents.reports.run_page.pictures import PictureBook
from focus_agents.reports.run_page.records import read_run
from tests.browser import CHROMIUM, Page, chromium
from tests.watched_runs import EPISODES, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, such as of `apt-get install chromium`")

SHOWN_ROWS = "[...document.querySelectorAll('#groups tr[data-status]')].filter(row => row.offsetParent)"
SHOWN_CARDS = "[...document.querySelectorAll('#groups .card')].filter(card => card.offsetParent)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / name, is_finished=name == "two") for name in ("one", "two")]
    books = [PictureBook(run.path, {"training": EPISODES, "validation": EPISODES}) for run in runs]
    for name, number in (("one", 1), ("both", 2)):
        page = render_page([read_run(run.path) for run in runs[:number]], books[:number])
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["one", "both"])
def test_it_shows_everything_without_a_complaint(page: Page, folder: Path, name: str, width: int) -> None:
    page.open(folder / f"{name}.html", width=width, dark=width == 390)
    assert page.value("document.images.length") > 100
    broken = "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0, () => false)))"
    assert all(page.value(broken))
    assert page.value("document.documentElement.scrollWidth") <= width
    wide = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.wide, svg') && e.scrollWidth > innerWidth)"
    )
    assert page.value(f"{wide}.length") == 0
    assert page.value("document.querySelectorAll('.curve polyline').length") >= 2
    drawn = page.value(
        "[...document.querySelectorAll('.picture rect.answer')].filter(r => r.getBBox().width > 1).length"
    )
    assert drawn > 50
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 27)") == (width == 390)
    assert page.errors == []


def test_filters_by_status_iou_and_iteration(page: Page, folder: Path) -> None:
    page.open(folder / "one.html", width=1280)
    everything = page.value(f"{SHOWN_ROWS}.length")
    assert everything == page.value("document.querySelectorAll('#groups tr[data-status]').length") > 20
    change = "dispatchEvent(new Event('input', {bubbles: true}))"
    page.value(
        "for (const box of document.querySelectorAll('#groups [data-filter=status]'))"
        f" if (box.value === 'ok') {{ box.checked = false; box.{change} }}"
    )
    statuses = page.value(f"{SHOWN_ROWS}.map(row => row.dataset.status)")
    assert 0 < len(statuses) < everything
    assert "ok" not in statuses
    assert page.value("[...document.querySelectorAll('#groups rect.answer')].every(r => r.style.display === 'none')")
    page.value(
        "for (const box of document.querySelectorAll('#groups [data-filter=status]')) box.checked = true;"
        f" const low = document.querySelector('#groups [data-filter=from]'); low.value = '0.9'; low.{change}"
    )
    ious = page.value(f"{SHOWN_ROWS}.map(row => parseFloat(row.dataset.iou))")
    assert 0 < len(ious) < everything
    assert min(ious) >= 0.9
    page.value(
        "document.querySelector('#groups [data-filter=from]').value = '0';"
        f" const one = document.querySelector('#groups [data-filter=position]'); one.value = '40'; one.{change}"
    )
    assert set(page.value(f"{SHOWN_CARDS}.map(card => card.dataset.time)")) == {"40"}
    assert page.value("document.querySelector('#groups output').textContent").startswith("24 answers in 4 of ")
    assert page.errors == []


def test_the_worst_come_first_until_another_order_is_asked_for(page: Page, folder: Path) -> None:
    page.open(folder / "one.html", width=1280)
    order = "[...document.querySelectorAll('#validation .card')].map(card => parseFloat(card.dataset.worst))"
    assert page.value(order) == sorted(page.value(order))
    page.value(
        "const order = document.querySelector('#validation [data-filter=order]'); order.value = 'best';"
        " order.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert page.value(order) == sorted(page.value(order), reverse=True)
