"""The report of a run: what it holds, what it escapes, what it leaves out, and that it stays small."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.errors import CheckpointError
from focus_agents.reports.markup import Html, escape, tag
from focus_agents.reports.run_page import page as page_module
from focus_agents.reports.run_page.cards import Shelf, colour_of, outline
from focus_agents.reports.run_page.choice import choose_iterations, spread
from focus_agents.reports.run_page.curves import best_place, draw_panel, metrics_of, number, read_curve
from focus_agents.reports.run_page.page import render_page
from focus_agents.reports.run_page.pictures import MOST_BYTES, PictureBook, data_uri, encode_picture
from focus_agents.reports.run_page.records import read_run
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.validations import keep_validation
from focus_env.types import Box
from tests.watched_runs import EPISODES, HOSTILE, validation, write_run

VOID = {"img", "input", "meta", "br", "link"}


class Outline(html.parser.HTMLParser):
    """What a browser makes of a page, roughly: its elements, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, name: str, attributes: Any) -> None:
        self.found.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    return outline


def page_of(*runs: RunDirectory, with_pictures: bool = True) -> str:
    given = {"training": EPISODES, "validation": EPISODES} if with_pictures else {}
    return render_page([read_run(run.path) for run in runs], [PictureBook(run.path, given) for run in runs])


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return write_run(tmp_path / "<b>run & 'co'", is_finished=True)


def test_nothing_from_outside_becomes_markup(run: RunDirectory) -> None:
    page = page_of(run)
    found = read(page)
    assert [name for name, _ in found.found].count("script") == 1
    assert not any(key.startswith("on") for _, attributes in found.found for key in attributes)
    assert HOSTILE.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\ud800", "?") in "".join(found.text)
    assert "\x00" not in page
    page.encode("utf-8")


def test_the_file_needs_no_other(run: RunDirectory) -> None:
    for name, attributes in read(page_of(run)).found:
        for key in ("src", "href", "data"):
            if (target := attributes.get(key)) is not None:
                assert target.startswith(("data:", "#")), (name, target)
    assert "http" not in page_of(run).replace("http-equiv", "")


def test_each_picture_is_there_once(run: RunDirectory) -> None:
    images = [attributes for name, attributes in read(page_of(run)).found if name == "img"]
    sources = [one["src"] for one in images if "src" in one]
    assert len(sources) == len(set(sources)) > 20
    assert {one["data-of"] for one in images if "data-of" in one} <= {one["id"] for one in images if "id" in one}
    assert sum("data-of" in one for one in images) > 20


def test_what_is_shown_is_said(run: RunDirectory) -> None:
    text = " ".join(read(page_of(run)).text)
    for words in (
        "above half; try", "iteration 7, silent groups", "whole image", "copies support 1", "no_box", "started with",
        "finished, iteration 40 of 100", "Mean IoU of greedy answers to the validation episodes", "Healthy: rises.",
        "num_iterations",
    ):  # fmt: skip
        assert words in text, words


def test_without_data_sets_kept_pictures_are_shown(run: RunDirectory) -> None:
    first = page_of(run)
    strip = first.count("<img")
    assert page_of(run, with_pictures=False).count("<img") == strip
    for file in (run.path / "samples" / "pictures").iterdir():
        file.unlink()
    assert 'class="nothing"' in page_of(run, with_pictures=False)


def test_a_run_of_an_older_release(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "old", {"num_steps": 10, "lr": 1e-3})
    for step in range(1, 11):
        run.log({"step": step, "lm_loss": 1 / step, "grad_norm": None})
    (run.path / "samples" / "rollouts.jsonl").write_text('{"iteration": 1}\n')
    page = page_of(run)
    assert "lm_loss" in page
    assert "not finished, step 10 of 10" in page
    assert 'id="groups"' not in page


def test_a_run_that_was_stopped_says_so_and_claims_no_change(tmp_path: Path) -> None:
    """Before its second validation: what was not measured is no number, and the episodes of the stop are there."""
    run = write_run(tmp_path / "run", num_iterations=24, interval=100)
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(
        json.dumps({**config, "starts": [{"stopped_by": "SIGINT", "go_on": "focus grpo --resume a"}]})
    )
    (run.path / "checkpoints/iteration_000024").mkdir(parents=True)
    table = page_of(run).partition("</table>")[0]
    assert ">not finished, stopped by SIGINT after iteration 24 of 100<" in table
    assert ">0.25 → –<" in table
    page = page_of(run)
    assert "run can be gone on with by <code>focus grpo --resume a</code>" in page
    assert "start 0.25, end –" in page
    panel = page.partition('data-metric="validation_miou"')[2].partition("</figure>")[0]
    assert ">iteration 24<" in panel, "the axis of what was measured once reaches to where the run is"
    assert len(re.findall(r"IoU \d\.\d\d → –", page)) == 12
    keep_validation(run.path, "iteration", 24, validation(1)[:8])
    page = page_of(run)
    num_shown = page.count('<b>iteration 24</b> <span class="whole">')
    assert num_shown >= 6, "those from the front, and of the others those that have lost"
    assert len(re.findall(r"IoU \d\.\d\d → \d\.\d\d", page)) == num_shown
    assert len(re.findall(r"IoU \d\.\d\d → –", page)) == 12 - num_shown


@pytest.mark.parametrize(
    ("lines", "saved", "expected"),
    [
        (range(13), 10, ("after step 12 of 30<", "<p>run can be gone on with from step 10.</p>")),
        (range(13), None, ("after step 12 of 30<", "run has no checkpoint to go on from: start it again as before")),
        (range(1), None, ("at the start<", "run has no checkpoint to go on from: start it again as before")),
    ],
)
def test_where_a_stopped_run_goes_on(
    lines: range, saved: int | None, expected: tuple[str, str], tmp_path: Path
) -> None:
    arguments = {"command": "sft", "num_steps": 30, "starts": [{"stopped_by": "SIGINT"}, {"stopped_by": "SIGTERM"}]}
    run = RunDirectory.create(tmp_path / "run", arguments)
    for step in lines:
        run.log({"step": step, "lm_loss": 1.0})
    if saved is not None:
        (run.checkpoints / f"step_{saved:06d}").mkdir(parents=True)
    page = page_of(run)
    assert f">not finished, stopped by SIGTERM {expected[0]}" in page
    assert expected[1] in page
    (run.path / "config.json").write_text(json.dumps({**arguments, "starts": [{"stopped_by": "SIGINT"}, {}]}))
    front = page_of(run).partition("<section")[0]
    assert "stopped by" not in front, "it was started again"
    assert "gone on with" not in front


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "warnings.jsonl", "validation/before.jsonl"])
def test_a_damaged_file_is_named_and_the_rest_shown(run: RunDirectory, name: str) -> None:
    (run.path / name).write_text("{]\n{]\n")
    page = page_of(run)
    assert "could not be read: " in page
    assert name.rpartition("/")[2] in page
    assert 'id="groups"' in page


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a run's folder with config\.json"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match=r"runs: expected 1 to 8 of them side by side, got 0"):
        render_page([], [])


def test_several_runs_side_by_side(run: RunDirectory, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", num_iterations=20)
    config = json.loads((other.path / "config.json").read_text())
    (other.path / "config.json").write_text(json.dumps(config | {"lr": 0.125}))
    found = read(page_of(run, other))
    text = " ".join(found.text)
    assert "2 runs side by side" in text
    assert "Settings that differ" in text
    assert "0.125" in text
    curve = next(a for name, a in found.found if a.get("data-metric") == "reward")
    assert curve["class"] == "curve"
    assert {"line run0", "line run1"} <= {attributes.get("class") for _, attributes in found.found}


def test_it_stays_below_twenty_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of noise, 24 answers of 2,000 characters to each question, 1,000 iterations of 40 metrics."""
    run = write_run(tmp_path / "large", num_iterations=40, num_groups=1)
    part = next((run.path / "samples").glob("rollouts-*"))
    part.unlink()
    record = read_run(run.path)
    noise = [f"data:image/png;base64,{n:06d}{'x' * (MOST_BYTES * 4 // 3)}" for n in range(1000)]
    names = iter(noise)
    answer = {
        "number": 1,
        "text": "&" * 2000,
        "status": "ok",
        "box": [0, 0, 9, 9],
        "iou": 1.0,
        "credit": 1.0,
        "reward": 1.0,
    }
    answer |= {"terms": {f"term {n}": 0.123456 for n in range(8)}, "advantage": 0.5}
    support = {"box": [0, 0, 9, 9], "image_wh": [64, 64]}
    groups = [
        {"iteration": n, "episode_index": 100 * n + m, "image_wh": [64, 64], "supports": [support] * 8}
        | {"answers": [answer] * 24, "mean_reward": 0.5, "episode": "e" * 100, "group_size": 24}
        for n in range(8)
        for m in range(6)
    ]  # fmt: skip
    lines = [{"iteration": n} | {f"reward/{m}": np.sin(n * m) for m in range(40)} for n in range(1000)]
    book = PictureBook(run.path)
    monkeypatch.setattr(book, "uri", lambda *key: next(names))
    large = dataclasses.replace(record, lines=lines, groups=groups)
    page = render_page([large], [book])
    assert 12e6 < len(page.encode()) < 20e6
    assert "left out for its size" in page


@pytest.mark.parametrize(
    ("values", "shown"),
    [([1, 2, 3], [1, 2, 3]), (list(range(10, 1010, 10)), [10, 170, 340, 510, 670, 830, 1000]), ([], [])],
)
def test_iterations_are_spread_with_both_ends(values: list[int], shown: list[int]) -> None:
    assert choose_iterations(values, values[-1] if values else None) == shown
    assert choose_iterations(values, 5000)[-1] == 5000
    assert len(spread(list(range(10**6)), 12)) == 12


@pytest.mark.parametrize(
    ("metric", "values", "place"),
    [
        ("validation_miou", [0.1, 0.9, 0.5], 1), ("lm_loss", [3.0, 1.0, 2.0], 1), ("reward/iou", [0.0, 0.1], 1),
        ("entropy", [1.0, 0.5], None), ("reward", [0.5, 0.5], None), ("truncated_rate", [0.1, 0.0, 0.2], 1),
        ("of another release", [0.0, 1.0], None), ("loss", [0.0, 1.0], None),
    ],
)  # fmt: skip
def test_the_best_value_by_what_is_healthy(metric: str, values: list[float], place: int | None) -> None:
    assert best_place(metric, np.array(values)) == place


@pytest.mark.parametrize("values", [[0.0], [0.0] * 5, [1e-9, 2e-9], [-3.0, 1e6, 2.0], [5.0] * 1000, [*range(5000)]])
def test_any_values_make_a_drawing(values: list[float]) -> None:
    lines: list[dict[str, Any]] = [{"iteration": n, "reward": value} for n, value in enumerate(values)]
    lines += [{"iteration": len(values), "reward": None}, {"iteration": len(values) + 1}]
    panel = draw_panel("reward", [read_curve(lines, "iteration", "reward")], ["run"])
    found = read(panel)
    points = [attributes["points"] for _, attributes in found.found if "points" in attributes]
    assert points
    assert "nan" not in panel
    assert all(len(str(one).split()) <= 400 for one in points)
    assert f"start {number(values[0])}, end {number(values[-1])}" in "".join(found.text)


def test_the_first_metrics_are_those_that_say_most() -> None:
    lines = [{"iteration": 1, "seconds": 1, "miou": 0, "reward": 1, "validation_miou": 0, "z": 1}]
    assert metrics_of(lines, "iteration") == ["validation_miou", "reward", "miou", "seconds", "z"]


def test_a_box_of_the_whole_picture_is_inside_of_it() -> None:
    drawn = read(outline([0, 0, 100, 50], (100, 50), "answer", style="stroke:red")).found[0][1]
    assert (drawn["x"], drawn["y"], drawn["width"], drawn["height"]) == ("0.60", "0.30", "98.80", "49.40")
    assert outline(None, (1, 1), "truth") == ""
    assert outline(Box(0, 0, 0, 0), (10, 10), "truth") == ""


def test_colours_of_ious_differ_and_none_is_the_truths() -> None:
    colours = [colour_of(value / 10) for value in range(11)]
    assert len(set(colours)) == 11
    assert colour_of(-1) == colours[0]
    assert colour_of(2) == colours[-1] == "#2563eb"


@pytest.mark.parametrize("wh", [(64, 48), (1280, 720), (3000, 40), (1, 1)])
def test_pictures_are_small_whatever_they_show(wh: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(256, size=(wh[1], wh[0], 3), dtype=np.uint8)
    kind, data = encode_picture(noise)
    assert len(data) <= MOST_BYTES
    assert data.startswith(b"\x89PNG" if kind == ".png" else b"\xff\xd8")


def test_pictures_that_cannot_be_had_are_asked_for_once(tmp_path: Path) -> None:
    asked = []

    class Broken:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            raise OSError("gone")

    book = PictureBook(tmp_path, {"training": Broken()})
    assert [book.uri("training", 0, place) for place in range(3)] == [None] * 3
    assert asked == [0]


def test_pictures_that_are_not_shown_any_more_go(tmp_path: Path) -> None:
    book = PictureBook(tmp_path, {"validation": EPISODES})
    book.uri("validation", 3, 0)
    again = PictureBook(tmp_path)
    assert again.uri("validation", 3, 0) == book.uri("validation", 3, 0)
    (tmp_path / "samples" / "pictures" / "validation-9-0.png").touch()
    again.forget_unused()
    left = sorted(file.name for file in (tmp_path / "samples" / "pictures").iterdir())
    assert left == ["validation-3-0.png", "validation-3.json"]


def test_a_shelf_gives_each_picture_once_and_knows_its_end() -> None:
    shelf, uri = Shelf(60), data_uri(b"1", "image/png")
    assert 'src="data:' in shelf.image(uri, "a")
    assert shelf.image(uri, "b") == '<img data-of="p0" alt="b">'
    assert "left out for its size" in shelf.image(data_uri(b"2" * 30, "image/png"), "c")
    assert shelf.num_left_out == 1


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "<&>", Html("<br>"), title='"') == '<p title="&quot;">&lt;&amp;&gt;<br></p>'
    assert escape("\x07\ud800") == "\N{REPLACEMENT CHARACTER}?"
    assert tag("input", checked=True, disabled=False, value=None) == "<input checked>"


def test_the_files_beside_the_modules_are_found() -> None:
    assert "applyFilters" in page_module._resource("page.js")
