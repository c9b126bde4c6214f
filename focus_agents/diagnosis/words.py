"""The prompt as a model reads it: its tokens by what they are, and whether each box stands in them as it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from focus_agents.diagnosis.findings import Section
from focus_agents.diagnosis.question import BoxInText, Kind, Piece
from focus_agents.reports.markup import Html, join, tag

STYLES: Mapping[Kind, str] = {
    Kind.TEXT: "", Kind.SUPPORT: "black on dark_orange", Kind.QUERY: "white on purple", Kind.BOX: "green",
    Kind.DIGITS: "bold black on green", Kind.ANSWER: "bold white on magenta", Kind.END: "white on red",
}  # fmt: skip
"""In a terminal."""
COLOURS: Mapping[Kind, str] = {
    Kind.TEXT: "transparent", Kind.SUPPORT: "#ffd591", Kind.QUERY: "#d9c6f5", Kind.BOX: "#d3f2dd",
    Kind.DIGITS: "#7fdc9c", Kind.ANSWER: "#ffb3dc", Kind.END: "#ffb1a8",
}  # fmt: skip
"""On the page."""


def check_boxes(section: Section, boxes: Sequence[BoxInText]) -> None:
    """See that each support's box stands in its prompt as the template wrote it, and is where the episode has it."""
    section.facts["boxes"] = [
        {
            "number": box.number, "written": box.written, "tokens": list(box.tokens), "start": box.start,
            "read_back": None if box.box is None else list(box.box), "true": list(box.true_box), "error": box.error,
        }
        for box in boxes
    ]  # fmt: skip
    for box in boxes:
        tokens = "|".join(box.tokens).replace("\n", "\\n")
        where = f"box {box.number}, tokens {box.start} to {box.start + len(box.tokens) - 1}"
        error = box.error
        if box.written not in box.text:
            section.fault(
                f"{where}: expected {box.written!r}, got {box.text!r} ({tokens}); the chat template or the tokenizer "
                "changes what is written"
            )
        elif error is None:
            section.fault(f"{where}: {box.text!r} cannot be read back as a box; mend the template's `box_text`")
        elif error > box.most_error and not _is_thin(box):
            section.fault(
                f"{where}: {box.written!r} lies {error:.1f} units beside the episode's box; the unit of the `frame` "
                "and the size at which the model sees the picture do not fit"
            )
        else:
            merged = _merged(box)
            section.ok(f"{where}: {tokens} reads {box.written!r}, the episode's box{merged}")


def _is_thin(box: BoxInText) -> bool:
    """Return whether a side is shorter than the unit, so that it is written as a whole one around its middle."""
    true, (x, y) = box.true_box, box.unit_wh
    return (true.x2 - true.x1 < x or true.y2 - true.y1 < y) and (box.error or 0.0) <= 1


def _merged(box: BoxInText) -> str:
    """Say in words which of its tokens hold more than the box; "" if none does."""
    start = box.text.find(box.written)
    before, behind = box.text[:start], box.text[start + len(box.written) :]
    parts = [f"{box.tokens[0]!r} also holds {before!r}"] if before else []
    parts += [f"{box.tokens[-1]!r} also holds {behind!r}"] if behind else []
    return f" (merged: {', '.join(parts)})" if parts else ""


def picture_label(piece: Piece) -> str:
    """Return what stands for a run of image tokens, as in "<support 1: 49 image tokens>"."""
    name = "query" if piece.kind is Kind.QUERY else f"support {piece.number}"
    return f"<{name}: {piece.num_tokens:,} image tokens>"


def in_terminal(pieces: Sequence[Piece]) -> Text:
    """Return a prompt for a terminal: in colours, with marks that show without them.

    Boxes stand in `{ }` with their digits in `( )`, the right answer behind ` => `, each end in `| |`.
    """
    text = Text()
    for index, piece in enumerate(pieces):
        inside = {Kind.BOX, Kind.DIGITS}
        before = pieces[index - 1] if index else None
        behind = pieces[index + 1] if index + 1 < len(pieces) else None
        opens = piece.kind in inside and not (before and before.kind in inside and before.number == piece.number)
        closes = piece.kind in inside and not (behind and behind.kind in inside and behind.number == piece.number)
        style = STYLES[piece.kind]
        if piece.kind in (Kind.SUPPORT, Kind.QUERY):
            text.append(picture_label(piece), style=style)
            continue
        text.append("{" if opens else " => " if piece.kind is Kind.ANSWER else "")
        text.append(
            {Kind.DIGITS: "({})", Kind.END: "|{}|"}.get(piece.kind, "{}").replace("{}", piece.text), style=style
        )
        text.append("}" if closes else "")
    return text


def legend() -> Text:
    """Return what the colours and marks of `in_terminal` mean."""
    text = Text("legend: ")
    marks = {
        Kind.SUPPORT: "<support: ...>", Kind.QUERY: "<query: ...>", Kind.BOX: "{support box}", Kind.DIGITS: "(digits)",
        Kind.ANSWER: "=> right answer", Kind.END: "|end|",
    }  # fmt: skip
    for kind, mark in marks.items():
        text.append(mark, style=STYLES[kind])
        text.append("  ")
    return text


def as_page(pieces: Sequence[Piece], notes: Sequence[str], title: str) -> str:
    """Return a prompt as a self-contained page of HTML: colours by kind, positions of tokens under the mouse."""
    spans = []
    for piece in pieces:
        shown = picture_label(piece) if piece.kind in (Kind.SUPPORT, Kind.QUERY) else piece.text
        last = piece.start + piece.num_tokens - 1
        number = f" {piece.number}" if piece.number else ""
        hint = f"{piece.kind}{number}: tokens {piece.start} to {last} ({piece.num_tokens})"
        spans.append(tag("span", shown, title=hint, style=f"background:{COLOURS[piece.kind]}"))
    kinds = [tag("span", str(kind), style=f"background:{COLOURS[kind]}") for kind in Kind if kind is not Kind.TEXT]
    style = (
        "body{font:15px/1.6 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;"
        "background:#fff}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f7f7f7;padding:1rem;"
        "border-radius:6px}span{border-radius:3px;padding:1px 2px}"
    )
    head = join([
        tag("meta", charset="utf-8"), tag("meta", name="viewport", content="width=device-width"),
        tag("title", title), tag("style", Html(style)),
    ])  # fmt: skip
    body = join(
        [
            tag("h1", title),
            tag("p", join(kinds, " ")),
            tag("pre", join(spans)),
            tag("ul", join(tag("li", note) for note in notes)),
        ]
    )
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"
