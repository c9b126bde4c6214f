"""Curves of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus_agents.errors import CheckpointError
from focus_agents.reports.plotting import as_label, check_format, plot_bands, plot_runs, read_lines, read_series
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.metrics import METRICS


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[Path]]:
    """Two seeds of one arm and one of another; every fifth step has a validation."""
    by_label: dict[str, list[Path]] = {}
    for label, seed, level in (("plain", 0, 1.0), ("plain", 1, 1.1), ("loss", 0, 0.5)):
        run = RunDirectory.create(tmp_path / f"{label}-{seed}", {})
        for step in range(1, 21):
            validation = {"validation_miou": level * step / 40} if step % 5 == 0 else {}
            run.log({"step": step, "lm_loss": None if step == 3 else level / step, **validation})
        by_label.setdefault(label, []).append(run.path)
    return by_label


def test_the_picture_shows_each_label_in_its_colour(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    path = plot_runs(runs, ("lm_loss", "validation_miou"), tmp_path / "curves.png")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] > 2 * pixels.shape[0]
    half = pixels.shape[1] // 2
    for colour in ((31, 119, 180), (255, 127, 14)):  # the first two of matplotlib's cycle
        for panel in (pixels[:, :half], pixels[:, half:]):
            assert (np.abs(panel - colour).sum(-1) < 30).sum() > 20
    one = plot_runs({"plain": runs["plain"]}, ("lm_loss",), tmp_path / "one.png")
    with Image.open(one) as picture:
        assert not (np.abs(np.asarray(picture.convert("RGB")).astype(int) - (255, 127, 14)).sum(-1) < 30).any()


def test_values_are_averaged_to_the_left_where_most_lines_have_them() -> None:
    lines = [{"step": step, "loss": value} for step, value in ((1, 4.0), (2, 2.0), (3, None), (4, 6.0))]
    steps, values = read_series(lines, "loss", 2)
    assert steps.tolist() == [1, 2, 4]
    assert values.tolist() == [4.0, 3.0, 4.0]


def test_rare_values_are_left_as_they_are() -> None:
    lines = [{"iteration": i, **({"validation_miou": i / 10} if i in (2, 6) else {})} for i in range(1, 7)]
    steps, values = read_series(lines, "validation_miou", 25)
    assert (steps.tolist(), values.tolist()) == ([2, 6], [0.2, 0.6])


def test_the_start_can_be_left_out(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    """The later values are a tenth of the first one, and without it they fill the panel."""
    spreads = []
    for start in (0, 10):
        path = plot_runs({"loss": runs["loss"]}, ("lm_loss",), tmp_path / "curve.png", window=1, start=start)
        with Image.open(path) as picture:
            curve = np.abs(np.asarray(picture.convert("RGB")).astype(int) - (31, 119, 180)).sum(-1) < 30
        heights = [np.flatnonzero(column).mean() for column in curve.T if column.any()]
        spreads.append(np.ptp(heights[len(heights) // 2 :]))
    assert spreads[0] < 20 < 60 < spreads[1]


def test_what_runs_have_logged_is_drawn_where_nothing_is_asked_for(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    usual = plot_runs(runs, (), tmp_path / "usual.png").read_bytes()
    assert usual == plot_runs(runs, ("lm_loss", "validation_miou"), tmp_path / "named.png").read_bytes()
    with pytest.raises(ValueError, match="runs: expected at least one run folder, got none"):
        plot_runs({}, (), tmp_path / "none.png")


def test_wrong_names_are_said(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics: expected names from .*METRICS, got \['beauty'\]"):
        plot_runs(runs, ("lm_loss", "beauty"), tmp_path / "curves.png")
    with pytest.raises(ValueError, match="expected one that some run has logged, got 'kl'"):
        plot_runs(runs, ("kl",), tmp_path / "curves.png")
    with pytest.raises(CheckpointError, match=r"expected folders with metrics\.jsonl, got .*nothing"):
        plot_runs({"a": [tmp_path / "nothing"]}, ("kl",), tmp_path / "curves.png")


def test_bands_reach_from_the_lowest_to_the_highest_run(tmp_path: Path) -> None:
    steps = np.arange(50.0)
    runs = [(steps, np.full(50, height)) for height in (0.0, 1.0, 0.8)]
    path = plot_bands({"panel": {"three": runs, "one": [(steps, np.full(50, 2.0))]}}, tmp_path / "bands.png")
    with Image.open(path) as picture:
        column = np.asarray(picture.convert("RGB")).astype(int)[:, 300]
    is_line = [(np.abs(column - colour).sum(-1) < 90).nonzero()[0] for colour in ((31, 119, 180), (255, 127, 14))]
    is_band = (np.abs(column - (210, 228, 240)).sum(-1) < 15).nonzero()[0]
    two, mean = is_line[1].mean(), is_line[0].mean()  # at 2 and at 0.6
    per_unit = (mean - two) / 1.4
    assert is_band.min() == pytest.approx(mean - 0.4 * per_unit, abs=2)
    assert is_band.max() == pytest.approx(mean + 0.6 * per_unit, abs=2)


@pytest.mark.parametrize("label", ["$\\nonsense$", "a $x$ b", "$", "_x", "[/b]"])
def test_a_label_is_shown_as_it_is(label: str, runs: dict[str, list[Path]], tmp_path: Path) -> None:
    """A formula of matplotlib in it is none, and one that begins with an underscore is not left out."""
    plot_runs({label: runs["plain"]}, ("lm_loss",), tmp_path / "label.png")
    plot_bands({label: {label: [(np.arange(3.0), np.arange(3.0))]}}, tmp_path / "bands.png")
    assert as_label(label).removeprefix("\N{ZERO WIDTH SPACE}").replace("\\$", "$") == label
    assert not as_label(label).startswith("_")


def test_lines_that_count_nothing_are_named(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"seed": 1})
    run.log({"lm_loss": 1.0})
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: expected lines with .*step.*, got \['lm_loss'\]"):
        plot_runs({"run": [run.path]}, ("lm_loss",), tmp_path / "curves.png")


def make_run(folder: Path, counter: str, lines: int, **metrics: float) -> Path:
    run = RunDirectory.create(folder, {"name": folder.name})
    for position in range(1, lines + 1):
        run.log({counter: position, **metrics})
    return run.path


@pytest.mark.parametrize(
    ("counter", "metrics", "drawn"),
    [
        (
            "iteration",
            {"reward": 1.0, "miou": 0.5, "zero_variance_rate": 0.4},
            ["reward", "miou", "zero_variance_rate"],
        ),
        ("step", {"lm_loss": 1.0, "support_mass": 0.1, "lr": 0.1}, ["lm_loss", "support_mass"]),
        ("step", {"lm_loss": 1.0, "box_iou": 0.5, "name_accuracy": 0.9}, ["lm_loss", "box_iou", "name_accuracy"]),
    ],
)
@pytest.mark.parametrize("num_lines", [0, 1, 30])
def test_every_kind_of_run_has_its_curves(
    tmp_path: Path, counter: str, metrics: dict[str, float], drawn: list[str], num_lines: int
) -> None:
    """However little a run has logged; a title has the name and its meaning, and an axis the unit."""
    folder = make_run(tmp_path / "run", counter, num_lines, **metrics)
    shown = plot_runs({"the run": [folder]}, (), tmp_path / "curves.svg").read_text()
    texts = [line.strip()[5:-4] for line in shown.splitlines() if line.strip().startswith("<!-- ")]
    if not num_lines:
        assert {"nothing logged yet", "the run: nothing logged yet"} <= set(texts)
        return
    assert [text for text in dict.fromkeys(texts) if text in metrics] == drawn
    assert "the run" in texts
    assert counter in texts
    words = " ".join(texts)
    for name in drawn:
        assert METRICS[name].meaning.split()[0] in words
        assert METRICS[name].unit in texts


def test_a_page_holds_many_panels_and_no_legend_covers_a_curve(tmp_path: Path) -> None:
    names = ("reward", "miou", "format_rate", "zero_variance_rate", "entropy", "parse_rate", "acc_50")
    folder = make_run(tmp_path / "run", "iteration", 30, **dict.fromkeys(names, 0.5))
    sizes = {}
    for number in (1, 3, 7):
        path = plot_runs(
            {f"{'a long name ' * 6}{n}": [folder] for n in range(4)}, names[:number], tmp_path / "curves.png"
        )
        with Image.open(path) as picture:
            sizes[number] = picture.size
    assert [width for width, _ in sizes.values()] == [400, 1200, 1200]
    assert sizes[7][1] == pytest.approx(3 * sizes[3][1], rel=0.35)


def test_a_run_of_an_older_version_has_its_validations_from_the_summary(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "iteration", 3, reward=1.0)
    (folder / "summary.json").write_text(json.dumps({"miou_start": 0.25, "miou_end": 0.75}))
    found = [(line["iteration"], line["validation_miou"]) for line in read_lines(folder) if "validation_miou" in line]
    assert found == [(0, 0.25), (3, 0.75)]
    plot_runs({"old": [folder]}, ("validation_miou",), tmp_path / "curves.png")


def test_the_point_before_training_is_drawn(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    for position, score in ((0, 0.125), (5, 0.375)):
        run.log({"step": position, "validation_miou": score})
    shown = plot_runs({"run": [run.path]}, (), tmp_path / "curves.svg").read_text()
    assert "<!-- 0.125 -->" in shown
    assert "<!-- 0.375 -->" in shown


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_formats(ending: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "step", 2, lm_loss=1.0)
    check_format(tmp_path / f"a.{ending}")
    assert plot_runs({"run": [folder]}, (), tmp_path / f"a.{ending}").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"output: expected a file that ends in one of .*svg.*, got a\.xyz"):
        check_format(Path("a.xyz"))


@pytest.mark.parametrize("odd", ["x", {"a": 1}, [1], True, 10**400, 1e308, None, "missing"])
@pytest.mark.parametrize("place", [0, 5, 9])
@pytest.mark.parametrize("name", ["iteration", "reward", "validation_miou"])
def test_odd_lines_leave_the_others_drawn(name: str, place: int, odd: Any, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"iteration": n, "reward": n, "validation_miou": 0.5} for n in range(10)]
    lines[place][name] = odd
    if odd == "missing":
        del lines[place][name]
    _, values = read_series(lines, "reward", 1)
    assert [*values] == [n for n in range(10) if n != place or name == "validation_miou"]
