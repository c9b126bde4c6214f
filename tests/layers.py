"""The arrows between folders, out of the packages' own imports.

`python -m tests.layers` writes docs/layers.md and docs/layers.svg.
The rows are those of the contracts in pyproject.toml, so the picture and `make lint` cannot disagree.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence

import grimp

from tests.places import ROOT

PACKAGES = {"focus_agents": "agents", "focus_env": "environment"}
"""Packages, and the contract in pyproject.toml that has their layers."""

Rows = list[list[str]]
Arrows = Mapping[str, frozenset[str]]
"""What each name at the top of a package imports of the others there."""


def contract(name: str) -> dict[str, object]:
    """A contract of pyproject.toml by its id."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (found,) = (part for part in settings["tool"]["importlinter"]["contracts"] if part["id"] == name)
    return found


def rows(package: str) -> Rows:
    """Layers of a package, the highest first."""
    layers = contract(PACKAGES[package])["layers"]
    assert isinstance(layers, list)
    return [[name.strip(" ()") for name in layer.split("|")] for layer in layers]


def arrows(package: str) -> Arrows:
    """Imports between what lies at the top of a package, wherever below these they are written."""
    graph = grimp.build_graph("focus_agents", "focus_env", cache_dir=None)
    found: dict[str, set[str]] = {name.rpartition(".")[2]: set() for name in graph.find_children(package)}
    for importer in graph.find_descendants(package):
        for imported in graph.find_modules_directly_imported_by(importer):
            start, end = importer.split("."), imported.split(".")
            if end[0] == package and len(end) > 1 and start[1] != end[1]:
                found[start[1]].add(end[1])
    return {name: frozenset(imported) for name, imported in found.items()}


def reachable(start: str, drawn: Arrows) -> frozenset[str]:
    """What lies behind a name, over one arrow or several."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = drawn[waiting.pop()] - found
        found |= new
        waiting += new
    return frozenset(found)


def without_implied(drawn: Arrows) -> Arrows:
    """The arrows that no path of other arrows implies."""
    return {
        name: frozenset(end for end in ends if not any(end in reachable(other, drawn) for other in ends - {end}))
        for name, ends in drawn.items()
    }


PAGE = """\
# Which folder imports which

Imports run downwards only, and folders side by side do not import each other. `lint-imports`, a part of `make lint`,
checks the contracts in `pyproject.toml`. This page and its picture are made from the imports themselves:
`python -m tests.layers` writes both, and a test compares them.

![The folders of focus_agents and of focus_env in rows; each arrow points downwards](layers.svg)

The picture leaves out an arrow that a path of others implies. All of them:

"""


def page() -> str:
    """The text of docs/layers.md."""
    lines = []
    for package in PACKAGES:
        drawn = arrows(package)
        lines += [f"## {package}", "", "| layer | imports |", "| --- | --- |"]
        names = [name for row in rows(package) for name in row if name in drawn]
        lines += [f"| `{name}` | {', '.join(f'`{end}`' for end in names if end in drawn[name])} |" for name in names]
        lines.append("")
    return PAGE + "\n".join(lines)


WIDTH, ROW, HEIGHT, LETTER = 800, 62, 30, 8.0
COLUMNS = tuple(WIDTH * share for share in (0.13, 0.315, 0.5, 0.685, 0.87))
"""Where the middle of a box may be."""


def picture() -> str:
    """The text of docs/layers.svg: both packages, one below the other."""
    parts, top = [], 10
    for package in PACKAGES:
        drawn = arrows(package)
        layers = [[name for name in row if name in drawn] for row in rows(package)]
        height = 34 + ROW * len(layers)
        if parts:
            parts.append(_arrow(WIDTH / 2, top - 40, WIDTH / 2, top))
        parts.append(f'<rect x="8" y="{top}" width="{WIDTH - 16}" height="{height}" rx="8" fill="#f6f8fa"/>')
        parts.append(f'<text x="24" y="{top + 24}" font-weight="bold">{package}</text>')
        parts += _package(layers, without_implied(drawn), top + 40)
        top += height + 40
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - 30}" font-family="monospace" '
            'font-size="13">',
            '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _package(layers: Sequence[Sequence[str]], drawn: Arrows, top: float) -> list[str]:
    """Arrows, and the boxes over them."""
    middle = _columns(layers, drawn)
    y = {name: top + ROW * number for number, row in enumerate(layers) for name in row}
    lines = [
        _arrow(middle[name], y[name] + HEIGHT, middle[end], y[end]) for name in middle for end in sorted(drawn[name])
    ]
    boxes = [
        f'<rect x="{x - _width(name) / 2:g}" y="{y[name]:g}" width="{_width(name):g}" height="{HEIGHT}" rx="6" '
        f'fill="#ffffff" stroke="#57606a"/><text x="{x:g}" y="{y[name] + 20:g}" text-anchor="middle">{name}</text>'
        for name, x in middle.items()
    ]
    return lines + boxes


def _columns(layers: Sequence[Sequence[str]], drawn: Arrows) -> dict[str, float]:
    """The middle of each box, found row by row so that few arrows run behind a box, and those that there are steep."""
    middle = {name: x for row in layers for name, x in zip(row, COLUMNS, strict=False)}
    row_of = {name: number for number, row in enumerate(layers) for name in row}

    def cost() -> float:
        lengths = hidden = 0.0
        for name in middle:
            for end in sorted(drawn[name]):  # a sum of floats depends on its order, and a set has none
                lengths += abs(middle[name] - middle[end]) / WIDTH
                for number in range(row_of[name] + 1, row_of[end]):
                    share = (number - row_of[name]) / (row_of[end] - row_of[name])
                    x = middle[name] + share * (middle[end] - middle[name])
                    hidden += sum(abs(x - middle[other]) < _width(other) / 2 + 8 for other in layers[number])
        return 10 * hidden + lengths + 0.01 * sum(abs(x - WIDTH / 2) for x in middle.values()) / WIDTH

    def try_all(row: Sequence[str]) -> None:
        best = cost(), [middle[name] for name in row]
        for places in itertools.permutations(COLUMNS, len(row)):
            middle.update(zip(row, places, strict=True))
            best = min(best, (cost(), list(places)))
        middle.update(zip(row, best[1], strict=True))

    for _ in range(3):
        for row in layers:
            try_all(row)
    return middle


def _width(name: str) -> float:
    return len(name) * LETTER + 20


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:g} {y1:g} {x2:g} {y2:g}" stroke="#57606a" fill="none" marker-end="url(#head)"/>'


if __name__ == "__main__":
    (ROOT / "docs/layers.md").write_text(page(), encoding="utf-8")
    (ROOT / "docs/layers.svg").write_text(picture(), encoding="utf-8")
