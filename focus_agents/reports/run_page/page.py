"""The page of a run, or of several side by side."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from focus_agents.reports.markup import BASE_STYLE, Html, join, tag
from focus_agents.reports.measured import is_measured
from focus_agents.reports.run_page.cards import Shelf, episode_card, filter_bar, group_card
from focus_agents.reports.run_page.choice import NUM_FIXED, choose_episodes
from focus_agents.reports.run_page.curves import is_open, score
from focus_agents.reports.run_page.panels import curve_sections
from focus_agents.reports.run_page.pictures import PictureBook, data_uri, encode_picture
from focus_agents.reports.run_page.probes import probe_part
from focus_agents.reports.run_page.records import RunRecord, Validation
from focus_agents.runs.summary import describe_fall
from focus_env import images
from focus_env.errors import FocusError
from focus_env.metrics import ScoredAnswer

PICTURE_BYTES = 14_000_000
"""Of all pictures of a page, as the page has them. With all else at its bounds a page stays below 20 MB."""
MOST_RUNS = 8
MOST_VALUE = 400
MOST_SECONDS = 1e9
SHEET_SIDE, SHEET_BYTES = 1600, 400_000


def render_page(
    runs: Sequence[RunRecord], books: Sequence[PictureBook], *, now: datetime.datetime | None = None
) -> str:
    """Return a page as one HTML file that needs no other.

    Args:
        runs: One or several runs.
        books: Their pictures.
        now: What the page says it was written at; default: the time of the call.

    Raises:
        ValueError: If there is no run, or more than `MOST_RUNS`.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise ValueError(f"runs: expected 1 to {MOST_RUNS} of them side by side, got {len(runs)}")
    shelf, written = Shelf(PICTURE_BYTES), now or datetime.datetime.now()
    title = " · ".join(run.name for run in runs)
    learned, speed = curve_sections(runs)
    sections = [
        _warnings(runs),
        learned,
        _validations(runs, books, shelf),
        _groups(runs, books, shelf),
        _sheets(runs, shelf),
        probe_part(runs),
        speed,
        _settings(runs),
        _code(runs),
    ]
    names = ("warnings", "curves", "validation", "groups", "attention", "probe", "speed", "settings", "code")
    sections.insert(0, _header(runs, written, [name for name, part in zip(names, sections, strict=True) if part]))
    style, script = Html(BASE_STYLE + _resource("page.css")), Html(_resource("page.js"))
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} – report"),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    ]
    body = tag("body", tag("main", *sections), tag("script", script))
    return f"<!doctype html>\n{tag('html', tag('head', *head), body, lang='en')}\n"


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _header(runs: Sequence[RunRecord], written: datetime.datetime, parts: Sequence[str]) -> Html:
    rows = [_overview(number, run) for number, run in enumerate(runs)]
    names = dict.fromkeys(name for row in rows for name, _ in row)
    head = tag("tr", *(tag("th", name) for name in names))
    body = [tag("tr", *(tag("td", dict(row).get(name, "–"), data_label=name) for name in names)) for row in rows]
    return join(
        [
            tag("h1", runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"),
            tag("p", f"Written {written:%Y-%m-%d %H:%M:%S}. The file holds all that it shows.", class_="meaning"),
            tag("nav", *(tag("a", name, href=f"#{name}") for name in parts)),
            tag("div", tag("table", head, *body, class_="overview"), class_="wide"),
            *map(_way_on, runs),
        ]
    )


def _overview(place: int, run: RunRecord) -> list[tuple[str, object]]:
    """Return a row of the table on top: where a run is, and how well it does."""
    scores = [
        (line[run.counter], line["validation_miou"]) for line in run.lines if is_measured(line.get("validation_miou"))
    ]
    row: list[tuple[str, object]] = [
        ("run", join([tag("i", class_=f"swatch run{place % 8}"), " ", run.name])),
        ("command", str(run.arguments.get("command", "–"))),
        ("unit of boxes", run.unit or str(run.arguments.get("frame") or "the model's")),
        ("state", _state(run)),
    ]
    if scores:
        best = max(scores, key=lambda score: score[1])
        start, end = score(scores[0][1]), score(scores[-1][1])
        if len(scores) == 1:  # the other one is not known
            start, end = (start, "–") if is_open(scores[0][0], run.last) else ("–", end)
        row.append(("validation mIoU", f"{start} → {end}"))
        row.append(("best", f"{score(best[1])} at {run.counter} {best[0]:.0f}"))
    gain, interval = run.summary.get("miou_gain"), run.summary.get("miou_gain_interval")
    if is_measured(gain) and isinstance(interval, list) and len(interval) == 2:
        row.append(("gain", f"{gain:+.3f} [{score(interval[0])}, {score(interval[1])}]"))
    seconds = run.summary.get("seconds")
    if is_measured(seconds) and abs(seconds) < MOST_SECONDS:
        row.append(("time of training and validation", f"{datetime.timedelta(seconds=round(seconds))}"))
    last = run.lines[-1] if run.lines else {}
    if is_measured(last.get("reward")):
        row.append(("reward", score(last["reward"])))
    row.append(("warnings", str(len(run.warnings))))
    return row


def _state(run: RunRecord) -> str:
    where = f"{run.counter} {run.last}{f' of {run.length}' if run.length else ''}"
    if run.summary:
        return f"finished, {where}"
    if not run.stopped_by:
        return f"not finished, {where}"
    return f"not finished, stopped by {run.stopped_by} {f'after {where}' if run.last else 'at the start'}"


def _way_on(run: RunRecord) -> Html | str:
    """Say how to go on with a run that a signal has stopped; nothing for others."""
    if run.summary or not run.stopped_by:
        return ""
    if run.saved is None:
        return tag("p", f"{run.name} has no checkpoint to go on from: start it again as before.")
    behind = f" from {run.counter} {run.saved}" if run.saved != run.last else ""
    command = [" by ", tag("code", run.go_on)] if run.go_on else ["."]
    return tag("p", f"{run.name} can be gone on with{behind}", *command)


def _warnings(runs: Sequence[RunRecord]) -> Html:
    items = [
        tag(
            "li",
            *([tag("b", run.name), " "] if len(runs) > 1 else []),
            tag("b", _where(warning)),
            " ",
            str(warning.get("message", "")),
        )
        for run in runs
        for warning in run.warnings
    ]
    for run in runs:
        if (fall := describe_fall(run.summary, run.lines, run.arguments, run.path / "checkpoints")) is not None:
            items.append(
                tag("li", *([tag("b", run.name), " "] if len(runs) > 1 else []), tag("b", "outcome"), " ", fall)
            )
    items += [tag("li", f"could not be read: {problem}") for run in runs for problem in run.problems]
    if not items:
        return tag("section", tag("h2", "Warnings"), tag("p", "None."), id="warnings")
    return tag("section", tag("h2", "Warnings"), tag("ul", *items, class_="warnings"), id="warnings")


def _where(warning: Mapping[str, Any]) -> str:
    found = [f"{name} {warning[name]}" for name in ("iteration", "step") if name in warning]
    return ", ".join([*found, str(warning.get("kind", "warning"))])


def _validations(runs: Sequence[RunRecord], books: Sequence[PictureBook], shelf: Shelf) -> Html:
    shown = [(run, book) for run, book in zip(runs, books, strict=True) if run.validations]
    if not shown:
        return Html("")
    first, book = shown[0]
    newest = [_newest(run.validations) for run, _ in shown]
    common = min(map(len, newest))
    before, last = first.validations[0].answers[:common], newest[0][:common]
    places = choose_episodes(before, last)
    cards, statuses = [], Counter[str]()
    for place in places:
        strips = []
        for run, _ in shown:
            answers = [
                (each.label, each.answers[place])
                for each in _some(run.validations, len(shown))
                if place < len(each.answers) and each.answers[place].episode_id == before[place].episode_id
            ]
            if answers:
                strips.append((run.name if len(runs) > 1 else "", answers))
                statuses.update(str(answer.status) for _, answer in answers)
        cards.append(episode_card(place, strips, book, shelf, kind="fixed" if place < NUM_FIXED else "worst"))
    note = (
        f"Greedy answers to the same episodes: the first {min(NUM_FIXED, len(before))}, and of the other "
        f"{max(0, len(before) - NUM_FIXED)} those that have lost most. Green is the target, an answer's colour its IoU."
    )
    order = [("worst", "largest loss first"), ("best", "largest gain first"), ("time", "by number")]
    return tag(
        "section",
        tag("h2", "Validation through time"),
        tag("p", note, class_="meaning"),
        _scale(),
        filter_bar(statuses, label="Validation answers", order=order),
        tag("div", *cards, class_="cards"),
        id="validation",
        class_="filtered",
    )


def _newest(validations: Sequence[Validation]) -> Sequence[ScoredAnswer]:
    """Return the newest answer to each episode; at a stop only the first ones are answered."""
    answers = [*validations[0].answers]
    for validation in validations[1:]:
        answers[: len(validation.answers)] = validation.answers
    return answers


def _some(validations: Sequence[Validation], num_runs: int) -> Sequence[Validation]:
    """Return the first and the last validation of several runs; all of a single one."""
    return validations if num_runs == 1 else [validations[0], *validations[1:][-1:]]


def _groups(runs: Sequence[RunRecord], books: Sequence[PictureBook], shelf: Shelf) -> Html:
    cards, statuses, positions = [], Counter[str](), dict[int, None]()
    for run, book in zip(runs, books, strict=True):
        groups = run.groups if len(runs) == 1 else run.groups[-max(4, 24 // len(runs)) :]
        for group in reversed(groups):  # the newest pictures first, should there be too many
            cards.append(group_card(group, run.name if len(runs) > 1 else "", book, shelf))
            statuses.update(str(answer.get("status")) for answer in group.get("answers") or [])
            positions[int(group["iteration"])] = None
    if not cards:
        return Html("")
    options = [tag("option", "all", value=""), *(tag("option", str(each), value=each) for each in sorted(positions))]
    pick = tag("label", "iteration ", tag("select", *options, data_filter="position"))
    note = (
        f"Answers sampled in training, of {len(positions)} of {sum(run.num_sampled for run in runs)} iterations that "
        "are kept: of each the groups with the lowest mean reward, one of the middle, and the best one."
    )
    order = [("worst", "worst first"), ("best", "best first"), ("time", "by iteration")]
    return tag(
        "section",
        tag("h2", "Sampled groups"),
        tag("p", note, class_="meaning"),
        _scale(),
        filter_bar(statuses, label="Sampled answers", order=order, extra=pick),
        tag("div", *cards, class_="cards"),
        id="groups",
        class_="filtered",
    )


def _scale() -> Html:
    ends = [
        tag("span", "IoU 0"),
        tag("i", class_="scale"),
        tag("span", "1"),
        tag("i", class_="swatch truthful"),
        tag("span", "target"),
    ]
    return tag("p", *ends, class_="legend")


def _sheets(runs: Sequence[RunRecord], shelf: Shelf) -> Html:
    """Return the pictures of attention, and those of runs that keep no others."""
    figures = []
    for run in runs:
        files = sorted((run.path / "samples").glob("attention_*.png"))[:8]
        if not run.validations or not (run.path / "samples" / "pictures").exists():
            files += [file for file in [run.path / "samples" / "validation.png"] if file.exists()]
        for file in files:
            if (uri := _sheet(file)) is not None:
                name = file.stem.replace("attention_", "episode ")
                caption = f"{run.name}, {name}" if len(runs) > 1 else name
                figures.append(tag("figure", shelf.image(uri, name), tag("figcaption", caption)))
    if not figures:
        return Html("")
    note = (
        "Attention of the policy at the end of the run: the supports are lit where the query's answered place looked, "
        "the query where the coordinates of the answer did; each picture by its own largest cell, with the sum below."
    )
    has_attention = any("episode " in figure for figure in figures)
    heading = tag("h2", "Where the model looked" if has_attention else "Validation episodes")
    return tag("section", heading, tag("p", note, class_="meaning") if has_attention else "", *figures, id="attention")


def _sheet(file: Path) -> str | None:
    try:
        kind, data = encode_picture(images.read_picture(file), side=SHEET_SIDE, most_bytes=SHEET_BYTES)
    except (OSError, ValueError, FocusError):
        return None
    return data_uri(data, "image/png" if kind == ".png" else "image/jpeg")


def _settings(runs: Sequence[RunRecord]) -> Html:
    names = dict.fromkeys(name for run in runs for name in run.arguments)
    values = {name: [_value(run.arguments.get(name, "–")) for run in runs] for name in names}
    tables = []
    if len(runs) > 1:
        different = {name: row for name, row in values.items() if len(set(row)) > 1}
        tables.append(tag("h3", "Settings that differ"))
        tables.append(_table(different, runs) if different else tag("p", "None."))
        values = {name: row for name, row in values.items() if len(set(row)) == 1}
    if len(runs) == 1 and (named := {name: row for name, row in values.items() if name in runs[0].given}):
        tables += [tag("h3", "Given on the command line"), _table(named, runs)]
        values = {name: row for name, row in values.items() if name not in named}
    others = " that are the same" if len(runs) > 1 else " by default" if tables else ""
    all_of_them = tag(
        "details", tag("summary", f"{len(values)} settings{others}"), _table(values, runs[:1] if tables else runs)
    )
    return tag("section", tag("h2", "Settings"), *tables, all_of_them, id="settings")


def _code(runs: Sequence[RunRecord]) -> Html:
    parts = []
    for run in runs:
        for place, state in enumerate(run.code):
            when = "started with" if place == 0 else "gone on with"
            commit = state.get("commit") or "no commit known"
            rows = {str(name): [_value(value)] for name, value in state.items() if name != "sources"}
            told = tag("summary", f"{run.name} was {when}: {short_commit(commit)}")
            parts.append(tag("details", told, _table(rows, [run])))
    return tag("section", tag("h2", "Code"), *(parts or [tag("p", "Not recorded.")]), id="code")


def short_commit(commit: object) -> str:
    """Return a commit, or what else stands in its place, in one line."""
    return " ".join(str(commit).split())[:80]


def _table(rows: Mapping[str, Sequence[str]], runs: Sequence[RunRecord]) -> Html:
    head = tag("tr", tag("th", ""), *(tag("th", run.name) for run in runs)) if len(runs) > 1 else ""
    body = [tag("tr", tag("th", name), *(tag("td", value) for value in row[: len(runs)])) for name, row in rows.items()]
    return tag("div", tag("table", head, *body, class_="settings"), class_="wide")


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_VALUE else text[:MOST_VALUE] + "…"
