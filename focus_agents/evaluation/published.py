"""Figures of the paper: mIoU * 100, without intervals, as printed in its tables.

Source: FOCUS, arXiv:2605.31145, tables 1 to 6. Left out is table 8 (72B models), whose caption and text disagree about
model and data set. None of these figures was measured here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PAPER = "arXiv:2605.31145"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row.

    Attributes:
        model: Who answered.
        table: Number of the paper's table.
        scores: By name of a data set, mIoU * 100 at the table's numbers of shots.
        average: Over all columns, where the paper prints it.
    """

    model: str
    table: int
    scores: Mapping[str, tuple[float, ...]]
    average: float | None = None


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One of the paper's layouts.

    Attributes:
        datasets: By name of a data set, as `focus_env.datasets` has it where it does: its title and numbers of shots.
        rows: In the paper's order.
        title: What is compared; "": the data sets say enough.
    """

    datasets: Mapping[str, tuple[str, tuple[int, ...]]]
    rows: tuple[PublishedRow, ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class PublishedData:
    """By what the episodes of one of the paper's data sets are known.

    Attributes:
        split: The split that it evaluates on, or is taken to.
        num_episodes: Least and largest number of videos or objects with enough frames.
        identity: Pattern of the names of its objects, where the source has one.
        protocols: How its episodes are cut.
    """

    split: str
    num_episodes: tuple[int, int]
    identity: str = ".+"
    protocols: tuple[str, ...] = ("focus",)


DATA: Mapping[str, PublishedData] = {
    "got10k": PublishedData("val", (180, 180), r"GOT-10k_Val_\d{6}"),
    "lasot": PublishedData("iploc_test", (144, 144), r"[a-z]+-\d+", ("focus", "iploc")),
    "tao": PublishedData("val", (890, 988)),
    "perseg": PublishedData("test", (34, 40)),
}
"""GOT-10k's validation split has 180 sequences, IPLoc's test set of LaSOT 144 (36 categories with 4 each), TAO's
validation set 988 videos, of which the shortest have too few annotated frames, and PerSeg 40 objects, 34 of them with 5
pictures. The paper names neither TAO's nor GOT-10k's split; these have public boxes."""


def why_not_published(settings: Mapping[str, Any], identities: Sequence[str]) -> str:
    """Say why episodes are not those of the paper; "": they are, as far as numbers and names show.

    Args:
        settings: Of the data set, as `focus evaluate` knows them: `dataset`, `split`, `protocol`, `on_bad` and
            `shuffle_supports`. Those that are not there are as the paper has them.
        identities: The objects of all of its episodes.
    """
    name = str(settings.get("dataset"))
    if name not in DATA:
        return f"the paper has no figures on the data set {name!r}"
    expected = DATA[name]
    fitting: Mapping[str, tuple[Any, ...]] = {
        "split": (expected.split,),
        "protocol": expected.protocols,
        "on_bad": ("raise",),
        "shuffle_supports": (False,),
    }
    for key, values in fitting.items():
        if settings.get(key, values[0]) not in values:
            return f"{key} is {settings[key]!r}, not {values[0]!r}"
    low, high = expected.num_episodes
    if not low <= len(identities) <= high or len(set(identities)) < len(identities):
        published = f"{low}" if low == high else f"{low} to {high}"
        return (
            f"{len(identities)} episodes of {len(set(identities))} objects, where the published data have {published}"
        )
    if odd := next((found for found in identities if re.fullmatch(expected.identity, found) is None), None):
        return f"{odd!r} is none of its names"
    return ""


def _table_1(model: str, *scores: float, average: float) -> PublishedRow:
    return PublishedRow(model, 1, {"tao": scores[:3], "got10k": scores[3:6], "lasot": scores[6:]}, average)


def _table_2(model: str, *scores: float) -> PublishedRow:
    return PublishedRow(model, 2, {"permirs": scores[:2], "perseg": scores[2:]})


TABLES: tuple[PublishedTable, ...] = (
    PublishedTable(
        {"tao": ("TAO", (1, 2, 4)), "got10k": ("GOT-10k", (1, 2, 4)), "lasot": ("ICL-LaSOT", (1, 2, 4))},
        (
            _table_1("Idefics3", 6.8, 15.0, 25.5, 9.3, 21.2, 32.3, 3.6, 8.7, 14.7, average=15.2),
            _table_1("Pixtral-12B", 8.2, 22.7, 16.8, 13.9, 19.4, 23.7, 4.6, 7.6, 22.4, average=15.5),
            _table_1("LLaVA-OV", 22.5, 29.5, 33.5, 18.6, 26.4, 33.7, 10.8, 14.1, 17.7, average=23.0),
            _table_1("Qwen2-VL-7B", 26.0, 31.6, 36.1, 36.2, 37.0, 39.3, 26.2, 22.3, 25.0, average=31.1),
            _table_1("IPLoc, Qwen2-VL-7B", 51.7, 54.3, 56.1, 64.2, 68.1, 68.7, 49.7, 57.1, 59.4, average=58.8),
            _table_1("Qwen2-VL-72B", 46.2, 52.8, 55.6, 62.7, 60.1, 59.9, 51.9, 50.7, 55.4, average=55.0),
            _table_1("InternVL2-76B", 50.4, 55.2, 57.5, 65.8, 66.7, 65.4, 44.2, 47.3, 52.5, average=56.1),
            _table_1("FOCUS, Qwen2-VL-7B", 55.8, 63.0, 68.5, 77.1, 80.6, 82.6, 56.1, 59.9, 65.6, average=67.7),
            PublishedRow("FOCUS without attention loss, Qwen2-VL-7B", 3, {"tao": (24.3, 27.2, 33.7)}),
            PublishedRow("FOCUS, LLaVA-OV", 4, {"tao": (52.2, 59.7, 65.7)}),
        ),
    ),
    PublishedTable(
        {"permirs": ("PerMIRS", (1, 2)), "perseg": ("PerSeg", (1, 2, 4))},
        (
            _table_2("Qwen2-VL-7B", 24.5, 50.2, 64.0, 65.7, 63.4),
            _table_2("IPLoc, Qwen2-VL-7B", 41.2, 53.3, 84.1, 83.1, 79.4),
            _table_2("Qwen2-VL-72B", 43.9, 54.3, 91.5, 92.6, 95.8),
            _table_2("FOCUS, Qwen2-VL-7B", 53.8, 72.8, 95.5, 96.6, 97.5),
        ),
    ),
)
"""The layouts in which our policies stand beside the paper's."""


def _of_tao(number: int, scores: Mapping[str, float]) -> tuple[PublishedRow, ...]:
    return tuple(PublishedRow(name, number, {"tao": (score,)}) for name, score in scores.items())


BETAS = (0.01, 0.15, 0.2, 0.25, 0.3, 0.35, 1.0)
MARGINS: Mapping[float, tuple[float, ...]] = {
    0.025: (37.2, 53.2, 55.9, 57.1, 56.4, 52.5, 28.1),
    0.05: (40.8, 48.6, 49.7, 50.2, 51.3, 50.7, 24.2),
    0.075: (38.7, 46.1, 47.3, 47.5, 45.5, 44.7, 23.4),
}
"""Table 6 by mu: TAO at 4 shots after stage 1 alone, for each of `BETAS`. Without the loss (beta 0) it is 34.3."""

_TAO = {"tao": ("TAO", (1, 2, 4))}
_TAO_4 = {"tao": ("TAO", (4,))}
_OF_TABLE_1 = {row.model: PublishedRow(row.model, 1, {"tao": row.scores["tao"]}) for row in TABLES[0].rows}
_OTHERS = {row.table: row for row in TABLES[0].rows}

LAYOUTS: Mapping[int, PublishedTable] = {
    1: TABLES[0],
    2: TABLES[1],
    3: PublishedTable(
        _TAO,
        (_OF_TABLE_1["Qwen2-VL-7B"], _OTHERS[3], _OF_TABLE_1["FOCUS, Qwen2-VL-7B"]),
        "with and without attention loss, both stages",
    ),
    4: PublishedTable(_TAO, (_OF_TABLE_1["LLaVA-OV"], _OTHERS[4]), "another base"),
    5: PublishedTable(
        _TAO_4,
        _of_tao(5, {"first 5 layers": 62.8, "all layers": 57.1, "last 5 layers": 42.12}),
        "layers of the attention loss, stage 1 alone, Qwen2-VL-7B",
    ),
    6: PublishedTable(
        _TAO_4,
        _of_tao(
            6,
            {"without attention loss": 34.3}
            | {
                f"mu {margin:g}, beta {beta:g}": score
                for margin, scores in MARGINS.items()
                for beta, score in zip(BETAS, scores, strict=True)
            },
        ),
        "margin and weight of the attention loss, stage 1 alone, Qwen2-VL-7B",
    ),
}
"""By the paper's number of a table."""
