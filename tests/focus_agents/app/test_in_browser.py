"""The page in a real browser: boxes drawn with mouse and finger, answers, and files that other tools load."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus_agents.cli.asked_policies import AskedPolicies
from focus_agents.cli.common import PolicyArguments
from focus_agents.finding.video import write_video
from focus_env.datasets import SyntheticDataset
from tests.browser import CHROMIUM, Page, chromium
from tests.focus_agents.app.client import Client, png
from tests.focus_agents.finding.scenes import SIDE, scene

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, such as of `apt-get install chromium`")

PLACES = {"a.png": (8, 8), "b.png": (40, 30), "none.png": None}
DONE = "/pictures in|stopped/.test(document.querySelector('#done').textContent)"
CHIPS = "[...document.querySelectorAll('.thumb')].map(t => [...t.querySelectorAll('.chip')].map(c => c.textContent))"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = []
    for name, corner in PLACES.items():
        files.append(tmp_path / name)
        scene(corner).save(files[-1])
    return files


def address(client: Client) -> str:
    return f"http://127.0.0.1:{client.server.server_port}/#token={client.server.token}"


def open_page(page: Page, client: Client, *, width: int = 1280, **options: Any) -> None:
    page.open("about:blank", width=width)  # two addresses that differ behind the hash are one page
    page.open(address(client), width=width, **options)
    page.wait("document.querySelector('#limits').textContent.startsWith('Up to')")


def add(page: Page, files: list[Path]) -> None:
    before = page.value("document.querySelectorAll('.thumb').length")
    page.choose_files("#files", files)
    page.wait(f"document.querySelectorAll('.thumb').length === {before + len(files)}")


def draw(page: Page, corner: tuple[float, float], end: tuple[float, float], **options: Any) -> None:
    """A box, by corners in pixels of the picture."""
    page.value("document.querySelector('#stage').scrollIntoView({block: 'center'})")
    x, y, width, _ = page.frame("#stage .picture")
    scale = width / 80
    page.drag((x + corner[0] * scale, y + corner[1] * scale), (x + end[0] * scale, y + end[1] * scale), **options)


def boxes(page: Page, kind: str) -> list[list[float]]:
    values = "['x', 'y', 'width', 'height'].map(name => Number(r.getAttribute(name)))"
    found: list[list[float]] = page.value(f"[...document.querySelectorAll('#stage rect.{kind}')].map(r => {values})")
    return found


def find(page: Page) -> None:
    page.click("#find")
    page.wait(DONE, seconds=240)  # a model may have to be loaded


@pytest.mark.parametrize("width", [1280, 390])
def test_from_a_drawn_box_to_a_file_that_pycocotools_loads(
    page: Page, photos: list[Path], width: int, tmp_path: Path, serve: Callable[..., Client]
) -> None:
    client = serve()
    open_page(page, client, width=width, dark=width == 390)
    add(page, photos)
    assert page.value("document.querySelector('#find').disabled")
    draw(page, (8, 8), (24, 24), finger=width == 390)
    ((x, y, wide, high),) = boxes(page, "given")
    assert [x, y, wide, high] == pytest.approx([8, 8, 16, 16], abs=0.5)
    find(page)
    assert page.value(CHIPS) == [["yours"], ["0.50"], ["not there"]]
    assert page.value("document.querySelector('#policy').textContent") == (
        "Answered by bright: made for 1 bright squares."
    )
    page.click("#after")
    assert boxes(page, "answer") == [[40, 30, SIDE, SIDE]]
    assert page.value("document.querySelector('.tag').textContent") == "object 0.50"
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=False)
    page.click("#save")
    file = tmp_path / "found_coco.json"
    for _ in range(200):
        if file.exists():
            break
        page.value("new Promise(done => setTimeout(done, 50))")
    assert page.value("document.documentElement.scrollWidth") <= width
    own = f"http://127.0.0.1:{client.server.server_port}/"
    assert {url for url in page.requested() if not url.startswith(("data:", "blob:"))} > {own, f"{own}find"}
    assert [url for url in page.requested() if not url.startswith((own, f"blob:{own}", "data:"))] == []
    assert page.errors == []
    assert page.value("document.querySelectorAll('#messages li').length") == 0
    loader = pytest.importorskip("pycocotools.coco", reason="needs the package pycocotools")
    coco = loader.COCO(str(file))
    names = {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    found = {names[one["image_id"]]: one["bbox"] for one in coco.loadAnns(coco.getAnnIds())}
    assert found["b.png"] == [40, 30, SIDE, SIDE]
    assert found["a.png"] == pytest.approx([8, 8, SIDE, SIDE], abs=0.5)
    assert sorted(names.values()) == sorted(PLACES)


def test_a_box_is_moved_by_its_corner_deleted_and_an_answer_made_one(
    page: Page, photos: list[Path], serve: Callable[..., Client]
) -> None:
    open_page(page, serve())
    add(page, photos)
    draw(page, (30, 40), (8, 8))  # from any corner
    draw(page, (30, 40), (24, 24))
    ((x, y, wide, high),) = boxes(page, "given")
    assert [x, y, wide, high] == pytest.approx([8, 8, 16, 16], abs=0.5)
    draw(page, (60, 40), (60.2, 40.2))  # a click
    assert len(boxes(page, "given")) == 1
    find(page)
    page.click("#after")
    page.click("#boxes li .slight")
    assert boxes(page, "given") == [[40, 30, SIDE, SIDE]]
    assert page.value(CHIPS) == [["yours"], ["yours"], ["not there"]]
    page.click("#boxes li .slight")
    assert boxes(page, "given") == []
    assert boxes(page, "answer") == [[40, 30, SIDE, SIDE]]
    assert page.errors == []


def test_several_objects_have_names_and_colours(page: Page, photos: list[Path], serve: Callable[..., Client]) -> None:
    client = serve()
    open_page(page, client)
    add(page, photos)
    page.click("#objects input[type=text]")
    page.value("document.activeElement.select()")
    page.call("Input.insertText", text="mug")
    draw(page, (8, 8), (24, 24))
    assert page.value("document.querySelector('#objects small').textContent") == "1 box"
    page.click("#another")
    draw(page, (50, 40), (60, 50))
    find(page)
    assert page.value(CHIPS)[1:] == [["mug 0.50", "object 2 0.50"], ["mug not there", "object 2 not there"]]
    (session,) = client.app._sessions.values()
    assert [one.label for one in session.sought] == ["mug", "object 2"]
    page.value(
        "const score = document.querySelector('#score'); score.value = 0.6; score.dispatchEvent(new Event('input'))"
    )
    assert page.value(CHIPS)[1] == ["mug too unsure", "object 2 too unsure"]
    assert page.value("document.querySelector('#count').textContent") == (
        "0 of 4 answers have a box with a score of at least 0.60."
    )
    assert page.errors == []


def test_dropped_files_and_what_is_refused(page: Page, tmp_path: Path, serve: Callable[..., Client]) -> None:
    client = serve()
    open_page(page, client)
    content = list(png(scene((8, 8))))
    page.value(
        "const files = new DataTransfer();"
        f"files.items.add(new File([new Uint8Array({json.dumps(content)})], 'dropped.png'));"
        "files.items.add(new File(['hello'], 'notes.txt'));"
        "files.items.add(new File([new Uint8Array(3 << 20)], 'holiday.jpg'));"
        "dispatchEvent(new DragEvent('drop', {dataTransfer: files, cancelable: true}))"
    )
    page.wait("document.querySelectorAll('#messages li').length === 2")
    assert page.value("[...document.querySelectorAll('.thumb .name')].map(n => n.textContent)") == ["dropped.png"]
    assert page.value("[...document.querySelectorAll('#messages span')].map(n => n.textContent)") == [
        "notes.txt: expected a picture or a video: cannot identify it as one of JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM",
        "holiday.jpg: expected a file of at most 1.0 MB, got 3.0 MB; scale the picture or cut the video",
    ]
    assert [url for url in page.requested() if url.endswith("/pictures")] == [
        f"http://127.0.0.1:{client.server.server_port}/pictures"
    ] * 2


def test_frames_of_a_video(page: Page, tmp_path: Path, serve: Callable[..., Client]) -> None:
    pytest.importorskip("av", reason="the extra `video` is not installed")
    write_video(tmp_path / "clip.mp4", [np.asarray(scene((4 * n, 20))) for n in range(5)], Fraction(5))
    open_page(page, serve())
    page.choose_files("#files", [tmp_path / "clip.mp4"])
    page.wait("document.querySelectorAll('.thumb').length === 5")
    draw(page, (0, 20), (16, 36))
    find(page)
    scores = [float(chips[0]) for chips in page.value(CHIPS)[1:]]
    assert scores == sorted(scores)  # the square moves to the right
    assert page.value("document.querySelector('.thumb:last-child .name').textContent") == "clip/frame_000004.jpg"


def test_a_model_shows_where_it_looked(page: Page, tmp_path: Path, serve: Callable[..., Client]) -> None:
    """The model that comes with the package, which answers on scenes of its size."""
    episode = SyntheticDataset(split="test", level=3, image_size=64, distractors="any", shots=1)[0]
    (support,) = episode.support
    for name, frame in {"a.png": support.frame, "b.png": episode.query_frame}.items():
        Image.fromarray(frame.image()).save(tmp_path / name)
    open_page(page, serve(policies=AskedPolicies(None, PolicyArguments(), say=lambda line: None)))
    add(page, [tmp_path / "a.png", tmp_path / "b.png"])
    (x1, y1, x2, y2), side = support.box, 80 / 64  # `draw` takes pictures for 80 pixels wide
    draw(page, (x1 * side, y1 * side), (x2 * side, y2 * side))
    find(page)
    assert page.value("document.querySelector('#policy').textContent").startswith(
        "Answered by vlm:focus-small: trained on scenes of 64 x 64 pixels"
    )
    page.click("#after")
    page.click("#boxes li button:nth-of-type(2)")
    page.wait("document.querySelector('#looked').open && document.querySelector('#attention').naturalWidth > 200")
    assert page.errors == []


def test_the_session_ends_when_the_page_is_left(page: Page, photos: list[Path], serve: Callable[..., Client]) -> None:
    client = serve()
    open_page(page, client)
    add(page, photos)
    assert len(client.app._sessions) == 1
    page.open("about:blank", width=1280)
    for _ in range(200):
        if not client.app._sessions:
            break
        page.value("new Promise(done => setTimeout(done, 50))")
    assert client.app._sessions == {}


def test_without_the_token_it_says_what_to_open(page: Page, serve: Callable[..., Client]) -> None:
    client = serve()
    page.open("about:blank", width=1280)
    page.open(address(client).partition("#")[0], width=1280)
    page.wait("document.querySelectorAll('#messages li').length === 1")
    assert "its end, #token=…, is missing" in page.value("document.querySelector('#messages').textContent")
