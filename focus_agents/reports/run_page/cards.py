"""Episodes of a page: pictures with boxes, and what was answered. Each picture's data are in the page once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from focus_agents.reports.markup import Html, join, tag
from focus_agents.reports.run_page.curves import score
from focus_agents.reports.run_page.pictures import PictureBook
from focus_env.metrics import ScoredAnswer
from focus_env.overlap import name_shortcuts, to_shares

MOST_ANSWERS = 16
"""Of a group; the best and the worst ones where there are more."""
MOST_TEXT = 300
_SCALE = ((0.0, (220, 38, 38)), (0.4, (245, 158, 11)), (0.7, (168, 85, 247)), (1.0, (37, 99, 235)))
"""Colours of an IoU; none of them is the truth's green, and they differ in lightness."""


class Shelf:
    """The pictures of a page: the first mention of each carries its data, and later ones refer to it.

    Args:
        most_bytes: Of all data URIs together; what comes after is left out.
    """

    def __init__(self, most_bytes: int) -> None:
        self._left, self._ids = most_bytes, dict[str, str]()
        self.num_left_out = 0

    def image(self, uri: str | None, alt: str) -> Html:
        """Return a picture, or an empty place with its name."""
        if uri is None:
            return tag("span", alt, class_="nothing")
        if uri in self._ids:
            return tag("img", data_of=self._ids[uri], alt=alt)
        if len(uri) > self._left:
            self.num_left_out += 1
            return tag("span", f"{alt}, left out for its size", class_="nothing")
        self._left -= len(uri)
        self._ids[uri] = f"p{len(self._ids)}"
        return tag("img", src=uri, id=self._ids[uri], alt=alt)


def colour_of(iou: float) -> str:
    """Return the colour of an IoU."""
    iou = min(1.0, max(0.0, iou))
    (low, first), (high, second) = next(pair for pair in itertools.pairwise(_SCALE) if iou <= pair[1][0])
    share = (iou - low) / (high - low)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(first, second, strict=True))


def tile(image: Html, image_wh: Sequence[int] | None, boxes: Sequence[Html], *caption: object) -> Html:
    """Return a picture with boxes over it and a caption."""
    width, height = image_wh or (1, 1)
    drawn = tag(
        "svg", *boxes, viewBox=f"0 0 {int(width)} {int(height)}", preserveAspectRatio="none", aria_hidden="true"
    )
    style = f"aspect-ratio:{int(width)}/{int(height)}"
    return tag(
        "figure", tag("div", image, drawn, class_="picture", style=style), tag("figcaption", *caption), class_="tile"
    )


def outline(box: Sequence[float] | None, image_wh: Sequence[int] | None, kind: str, **more: object) -> Html:
    """Return a box `xyxy` in pixels; one that lies on the picture's edge is drawn inside of it."""
    if box is None or image_wh is None:
        return Html("")
    (x1, y1, x2, y2), (width, height) = box, image_wh
    inset_x, inset_y = 0.006 * width, 0.006 * height
    x1, y1 = max(x1, inset_x), max(y1, inset_y)
    x2, y2 = min(x2, width - inset_x), min(y2, height - inset_y)
    if x2 <= x1 or y2 <= y1:
        return Html("")
    place = {"x": f"{x1:.2f}", "y": f"{y1:.2f}", "width": f"{x2 - x1:.2f}", "height": f"{y2 - y1:.2f}"}
    under = tag("rect", **place, class_="under") if kind != "answer" else Html("")
    return join([under, tag("rect", **place, class_=kind, **more)])


def group_card(group: Mapping[str, Any], run: str, book: PictureBook, shelf: Shelf) -> Html:
    """Return a sampled group: supports, the query with all answers, and a table of them."""
    index, supports = int(group["episode_index"]), group.get("supports") or []
    query_wh, answers = group.get("image_wh"), _shown(group.get("answers") or [])
    tiles = _support_tiles("training", index, supports, book, shelf)
    boxes = [outline(group.get("target"), query_wh, "truth")]
    for answer in answers:
        colour = f"stroke:{colour_of(answer.get('credit') or 0)}"
        boxes.append(outline(answer.get("box"), query_wh, "answer", style=colour, data_answer=answer["number"]))
    caption = "query" if group.get("target") is not None else "query, object absent"
    query = shelf.image(book.uri("training", index, len(supports)), f"query of episode {index}")
    tiles.append(tile(query, query_wh, boxes, caption))
    best = max((answer.get("credit") or 0 for answer in answers), default=0)
    advantages = [answer.get("advantage") for answer in answers]
    is_silent = bool(advantages) and all(value == 0 for value in advantages)
    heading = tag(
        "header",
        tag("b", f"iteration {group['iteration']}"),
        tag("span", f"episode {group.get('episode') or index}", class_="name"),
        tag("span", f"mean reward {score(group.get('mean_reward'))}"),
        tag("span", f"best IoU {score(best)}"),
        flag("silent: all earn the same") if is_silent else "",
        tag("span", run) if run else "",
    )
    kept, size = len(group.get("answers") or []), group.get("group_size") or 0
    more = f"{len(answers)} of {size} answers" if len(answers) < size else ""
    if kept < size:
        more += ": of this iteration the best and the worst of each group are kept"
    shares = _support_shares(supports)
    rows = [_answer_row(answer, query_wh, shares) for answer in answers]
    head = tag("tr", *(tag("th", name) for name in ("IoU", "reward", "advantage", "status", "answer")))
    error = tag("p", str(group["error"]), class_="error") if group.get("error") else ""
    table = tag("div", tag("table", head, *rows), class_="answers") if rows else ""
    return tag(
        "article",
        heading,
        tag("div", *tiles, class_="tiles"),
        error,
        table,
        tag("p", more, class_="more") if more else "",
        class_="card group",
        data_worst=f"{group.get('mean_reward') or 0:.6f}",
        data_time=group["iteration"],
        data_position=group["iteration"],
    )


def _shown(answers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the answers of a group from the best to the worst."""
    ranked = sorted(answers, key=lambda answer: (-(answer.get("reward") or 0), answer.get("number") or 0))
    if len(ranked) > MOST_ANSWERS:
        ranked = [*ranked[: MOST_ANSWERS // 2], *ranked[-MOST_ANSWERS // 2 :]]
    return ranked


def _answer_row(answer: Mapping[str, Any], query_wh: Sequence[int] | None, shares: Any) -> Html:
    credit, status = answer.get("credit") or 0.0, str(answer.get("status"))
    terms = [tag("span", f"{name} {score(value)}") for name, value in (answer.get("terms") or {}).items()]
    return tag(
        "tr",
        tag("td", tag("i", class_="swatch", style=f"background:{colour_of(credit)}"), f"{credit:.2f}"),
        tag("td", score(answer.get("reward")), tag("small", *terms, class_="terms")),
        tag("td", _advantage(answer.get("advantage"))),
        tag("td", chip(status), *map(flag, _flags(answer, query_wh, shares))),
        tag("td", tag("code", short(str(answer.get("text", "")))), tag("small", str(answer.get("error") or ""))),
        data_status=status,
        data_iou=f"{credit:.4f}",
        data_answer=answer["number"],
    )


def _flags(answer: Mapping[str, Any], query_wh: Sequence[int] | None, shares: Any) -> list[str]:
    box = answer.get("box")
    found = list(name_shortcuts(box, (query_wh[0], query_wh[1]), shares)) if box and query_wh else []
    return found + (["cut"] if answer.get("is_cut") else [])


def _advantage(value: Any) -> Html | str:
    if not isinstance(value, int | float):
        return "–"
    kind = "up" if value > 0 else "down" if value < 0 else "zero"
    return tag("span", f"{value:+.2f}" if value else "0", class_=f"advantage {kind}")


def episode_card(
    place: int,
    strips: Sequence[tuple[str, Sequence[tuple[str, ScoredAnswer]]]],
    book: PictureBook,
    shelf: Shelf,
    *,
    kind: str,
) -> Html:
    """Return a validation episode through time.

    Args:
        place: Of the episode in the validation data.
        strips: For each run its name, and its answers with what they are called.
        book: Where pictures are.
        shelf: The page's.
        kind: "fixed" or "worst".
    """
    supports = book.supports("validation", place)
    shares = _support_shares(supports)
    query = book.uri("validation", place, len(supports))
    first, last = strips[0][1][0][1], strips[0][1][-1][1]
    heading = tag(
        "header",
        tag("b", f"episode {place}"),
        tag("span", first.episode_id, class_="name"),
        tag("span", f"IoU {first.credit:.2f} → {f'{last.credit:.2f}' if len(strips[0][1]) > 1 else '–'}"),
        tag("span", f"{kind}", class_="flag") if kind == "worst" else "",
    )
    body = [tag("div", *_support_tiles("validation", place, supports, book, shelf), class_="tiles")] if supports else []
    columns = []
    for run, answers in strips:
        tiles = [
            _answer_tile(label, answer, shelf.image(query, f"query of episode {place}"), shares)
            for label, answer in answers
        ]
        columns.append(tag("div", tag("p", run, class_="run") if run else "", tag("div", *tiles, class_="tiles strip")))
    body.append(tag("div", *columns, class_="beside"))
    return tag(
        "article",
        heading,
        *body,
        class_="card episode",
        data_worst=f"{last.credit - first.credit:.6f}",
        data_time=place,
    )


def _answer_tile(label: str, answer: ScoredAnswer, image: Html, shares: Any) -> Html:
    style = f"stroke:{colour_of(answer.credit)}"
    boxes = [
        outline(answer.target_box, answer.image_wh, "truth"),
        outline(answer.box, answer.image_wh, "answer", style=style),
    ]
    flags = name_shortcuts(answer.box, answer.image_wh, shares) if answer.box and answer.image_wh else []
    flags += ["object absent"] if answer.is_absent_target else []
    swatch = tag("i", class_="swatch", style=f"background:{colour_of(answer.credit)}")
    caption = [
        tag("b", label),
        " ",
        tag("span", swatch, f"{answer.credit:.2f}", class_="whole"),
        " ",
        chip(str(answer.status)),
        *map(flag, flags),
    ]
    drawn = tile(image, answer.image_wh, boxes, *caption)
    return tag("div", drawn, data_status=str(answer.status), data_iou=f"{answer.credit:.4f}", class_="item")


def _support_tiles(
    data: str, index: int, supports: Sequence[Mapping[str, Any]], book: PictureBook, shelf: Shelf
) -> list[Html]:
    tiles = []
    for place, support in enumerate(supports):
        image = shelf.image(book.uri(data, index, place), f"support {place + 1} of episode {index}")
        wh = support.get("image_wh")
        tiles.append(tile(image, wh, [outline(support.get("box"), wh, "truth")], f"support {place + 1}"))
    return tiles


def _support_shares(supports: Sequence[Mapping[str, Any]]) -> Any:
    known = [support for support in supports if support.get("box") and support.get("image_wh")]
    if not known:
        return to_shares([[0.0, 0.0, 0.0, 0.0]], [[1, 1]])  # repeats nothing
    return to_shares([support["box"] for support in known], [support["image_wh"] for support in known])


def chip(status: str) -> Html:
    """Return a parse status."""
    return tag("span", status, class_=f"chip {'good' if status in ('ok', 'clipped', 'absent') else 'bad'}")


def flag(name: str) -> Html:
    """Return what a person should notice of an answer."""
    return tag("span", name, class_="flag")


def short(text: str) -> str:
    """Return the front of a text."""
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…"


def filter_bar(
    statuses: Mapping[str, int], *, label: str, order: Sequence[tuple[str, str]], extra: object = ""
) -> Html:
    """Return the controls of a section: which statuses and which IoU are shown, and in which order."""
    boxes = [
        tag(
            "label",
            tag("input", type="checkbox", checked=True, value=status, data_filter="status"),
            f" {status} ({count})",
        )
        for status, count in sorted(statuses.items(), key=lambda item: (-item[1], item[0]))
    ]
    limits = [
        tag(
            "label", f"IoU {word} ", tag("input", type="number", min=0, max=1, step=0.05, value=value, data_filter=word)
        )
        for word, value in (("from", 0), ("to", 1))
    ]
    options = [tag("option", told, value=value) for value, told in order]
    sort = tag("label", "order ", tag("select", *options, data_filter="order"))
    return tag(
        "div", tag("span", *boxes, class_="statuses"), *limits, sort, extra, tag("output", ""), class_="filters",
        role="group", aria_label=label,
    )  # fmt: skip
