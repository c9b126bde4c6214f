"""The report of an ablation in Markdown, from its figures alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from focus_agents.reports.documents import to_markdown
from focus_agents.reports.tables import figure, markdown_table
from focus_agents.studies.ablation.arms import (
    BASE,
    BASES,
    KINDS,
    MAIN_CELL,
    MAIN_SPLIT,
    PUBLISHED,
    SHOTS,
    SPLITS,
    cell,
)
from focus_agents.studies.ablation.claims import MATTERS, SENTENCES, Verdict, verdict
from focus_agents.studies.ablation.grid import Variant

VERDICTS: Sequence[Verdict] = ("holds", "does not hold", "open")
OVERVIEW: Mapping[str, str] = {
    "sft": "SFT",
    "attention": "SFT, loss to the region",
    "target-coords": "SFT, loss to the numbers (the paper's)",
    "sft-grpo": "SFT + GRPO",
    "attention-grpo": "SFT, loss to the region, + GRPO",
    "grpo": "GRPO only",
}
"""Arms of the overview, with the headings of their columns; the third arm has the paper's target."""
PRECISION_TITLES = {"bf16": "bfloat16", "fp32": "single precision"}
FLOOR_TITLES = {"copy": "copy of the last support's box", "oracle": "oracle, an upper bound"}


def render_report(summary: Mapping[str, Any]) -> str:
    """Write all tables in Markdown."""
    study = summary["study"]
    parts = [
        "# The paper's claim, part by part, on synthetic scenes",
        f"Written by `focus ablation`: seeds {', '.join(map(str, study['seeds']))}; {study['num_sft_steps']:,} steps "
        f"of stage 1, of which a kind of scenes takes its share; {study['num_grpo_iterations']:,} iterations of GRPO"
        f"{', in ' + PRECISION_TITLES[study['precision']] if 'precision' in study else ''}. "
        "mIoU * 100, where unreadable answers count 0, with 95% intervals over seeds and episodes, or over the "
        "episodes alone where there is one seed; n is seeds x episodes of each. A run that is not done is left out, "
        "and stands as - among the seeds. Equal seconds are equal by the speeds that the plan states; the measured "
        "ones, validations included, stand in the tables.",
        *([study["note"]] if "note" in study else []),  # of figures that were taken over from another plan
        "## Each sentence of the paper",
        verdict_table(summary),
        "A comparison holds for a gain if all of its interval is above 0, and does not if all of it is below "
        f"{100 * MATTERS:.0f} points; a sentence that there is none is judged by the same {100 * MATTERS:.0f} points. "
        "Anything else is open. Which comparisons stand for a sentence is below.",
        "## Four shots, unseen identities",
        overview_table(summary),
        *_probe_parts(summary),
        *(part for scenes in _kinds(summary) for part in _scene_parts(summary, scenes)),
        "## By kind of episode, one look, 4 shots",
        split_table(summary),
        "## Differences, paired by seed and episode",
        difference_table(summary),
    ]
    return to_markdown(parts)


def verdict_table(summary: Mapping[str, Any]) -> str:
    """Write a row for each sentence, with the bases and scenes on which its comparisons hold, do not, or are open."""
    rows = [["the paper says", *VERDICTS]]
    for sentence, text in SENTENCES.items():
        found: dict[str, list[str]] = {name: [] for name in VERDICTS}
        for claim in summary["claims"]:
            if claim["sentence"] == sentence and (said := verdict(claim["kind"], claim)) is not None:
                found[said].append(_place(claim["base"], claim["scenes"]) + _fewer_seeds(summary, claim))
        if any(found.values()):
            rows.append([text, *(_counted(places) for places in found.values())])
    return markdown_table(rows)


def _counted(places: Sequence[str]) -> str:
    """Write places, each with its number of comparisons if it has several."""
    counts = {place: places.count(place) for place in places}
    return "; ".join(place if count == 1 else f"{place} ({count})" for place, count in counts.items())


def _place(base: str, scenes: str) -> str:
    return f"{_kind_title(scenes)} / {_base_title(base)}"


def _kind_title(scenes: str) -> str:
    return KINDS[scenes].title if scenes in KINDS else scenes


def _base_title(base: str) -> str:
    return BASES[base].title if base in BASES else base


def overview_table(summary: Mapping[str, Any]) -> str:
    """Write the paper's arms at four shots, by base and kind of scenes, beside copies and the paper's figures."""
    shown = {arm: title for arm, title in OVERVIEW.items() if any(v.arm == arm for v in _variants(summary))}
    has_floors = bool(summary["floors"])
    rows = [["scenes / base", *(["copy"] if has_floors else []), *shown.values()]]
    for base, scenes in dict.fromkeys((v.base, v.scenes) for v in _variants(summary)):
        cells = [_main(summary, Variant(arm, base, scenes)) for arm in shown]
        copies = [figure(summary["floors"].get(scenes, {}).get("copy", {}).get(MAIN_CELL))] if has_floors else []
        if any(cells):
            rows.append([_place(base, scenes), *copies, *cells])
    published = {**PUBLISHED, "target-coords": PUBLISHED["attention"]}
    told = [f"{published[arm]:.1f}" if arm in published and arm != "attention" else "" for arm in shown]
    rows.append(["paper, TAO (published, other data)", *([""] if has_floors else []), *told])
    return markdown_table(rows)


def _main(summary: Mapping[str, Any], variant: Variant) -> str:
    row = summary["rows"].get(str(variant))
    return "" if row is None else _figure(summary, row["cells"].get(MAIN_CELL), is_base=variant.arm == BASE)


def _probe_parts(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of the report on the probes of the bases' box tokens, beside stage 1's scores."""
    if summary["probes"]:
        yield "## What the bases hold, and what became of it"
        yield probe_table(summary)
        yield (
            "Share of episodes in which a linear probe tells the ground colour of the boxed object, of the best layer "
            "each; docs/bases.md describes it. Where the numbers hold no more than the commonest colour, a loss that "
            "pulls attention to them has nothing to hand over."
        )


def probe_table(summary: Mapping[str, Any]) -> str:
    """Write a row for each base: the probe of its best layer, and mIoU of stage 1 on one look."""
    arms = ("sft", "target-coords", "attention")
    heads = ["base", "numbers", "last number", "end of box text", "region", "commonest colour"]
    rows = [[*heads, *(f"one look: {OVERVIEW[arm]}" for arm in arms)]]
    for name, probe in summary["probes"].items():
        best = [f"{max(probe['accuracy'][place]):.2f}" for place in ("numbers", "last_number", "text_end", "region")]
        trained = [_main(summary, Variant(arm, name, "one_look")) for arm in arms]
        rows.append([_base_title(name), *best, f"{probe['commonest']:.2f}", *trained])
    return markdown_table(rows)


def _scene_parts(summary: Mapping[str, Any], scenes: str) -> Iterator[str]:
    yield f"## {_kind_title(scenes).capitalize()}"
    yield scene_table(summary, scenes)


def scene_table(summary: Mapping[str, Any], scenes: str) -> str:
    """Write all variants of a kind of scenes by shots, below copies and the oracle."""
    shots = SPLITS[MAIN_SPLIT].shots
    heads = ["", "base", "n", *(f"{each} shot{'s' * (each > 1)}" for each in shots), "acc@0.5, 4 shots"]
    rows = [[*heads, "acc@0.75, 4 shots", "supports shuffled, 4 shots", "steps", "seconds", "4 shots by seed"]]
    for name, cells in summary["floors"].get(scenes, {}).items():
        figures = [figure(cells[cell(MAIN_SPLIT, each)]) for each in shots]
        shares = [figure(cells[MAIN_CELL][share]) for share in ("acc_50", "acc_75")]
        rows.append([FLOOR_TITLES[name], "", _count(cells[MAIN_CELL]), *figures, *shares, "", "", "", ""])
    for variant in _variants(summary):
        if variant.scenes == scenes:
            rows.append(_scene_row(summary, variant))
    return markdown_table(rows)


def _scene_row(summary: Mapping[str, Any], variant: Variant) -> list[str]:
    row = summary["rows"][str(variant)]
    cells, main = row["cells"], row["cells"].get(MAIN_CELL, {})
    return [
        row["title"],
        _base_title(variant.base),
        _count(main),
        *(figure(cells.get(cell(MAIN_SPLIT, shots))) for shots in SPLITS[MAIN_SPLIT].shots),
        *(figure(main.get(share)) for share in ("acc_50", "acc_75")),
        figure(cells.get(cell("shuffled", SHOTS))),
        f"{row['num_steps']:,}" if row["num_steps"] else "",
        "" if row["seconds"] is None else f"{row['seconds']:,.0f}",
        "" if row["stage"] is None or not main else _by_seed(summary, main, ".1f"),
    ]


def split_table(summary: Mapping[str, Any]) -> str:
    """Write the paper's arms on all kinds of episodes, for the scenes that have several."""
    rows = [["", "base", *(split.title for split in SPLITS.values())]]
    for variant in _variants(summary):
        row = summary["rows"][str(variant)]
        if row["is_paper"] and variant.scenes == "one_look":
            is_base = row["stage"] is None
            cells = [_figure(summary, row["cells"].get(cell(name, SHOTS)), is_base=is_base) for name in SPLITS]
            rows.append([row["title"], _base_title(variant.base), *cells])
    return markdown_table(rows)


def difference_table(summary: Mapping[str, Any]) -> str:
    """Write all comparisons; those of a sentence have a verdict."""
    rows = [["", "scenes / base", "difference", "n", "by seed", "sentence", "verdict"]]
    for claim in summary["claims"]:
        said = verdict(claim["kind"], claim)
        place = _place(claim["base"], claim["scenes"])
        told = [figure(claim, signed=True), _count(claim), _by_seed(summary, claim, "+.1f")]
        rows.append([claim["name"], place, *told, SENTENCES.get(claim["sentence"], ""), said or ""])
    return markdown_table(rows)


def _variants(summary: Mapping[str, Any]) -> list[Variant]:
    return [Variant(*text.split("/")) for text in summary["rows"]]


def _kinds(summary: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(variant.scenes for variant in _variants(summary)))


def _count(value: Mapping[str, Any]) -> str:
    """Write the number of seeds times the number of episodes."""
    return f"{len(value['seeds'])} x {value['num_episodes']:,}" if value else ""


def _figure(summary: Mapping[str, Any], value: Mapping[str, Any] | None, *, is_base: bool = False) -> str:
    """Write a figure, with its number of seeds if the study has more; a base has no seeds."""
    return figure(value) if value is None or is_base else figure(value) + _fewer_seeds(summary, value)


def _fewer_seeds(summary: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    count = len(value["seeds"])
    return "" if count == len(summary["study"]["seeds"]) else f" ({count} seed{'s' * (count > 1)})"


def _by_seed(summary: Mapping[str, Any], value: Mapping[str, Any], style: str) -> str:
    means = value["seeds"]
    return ", ".join(
        format(100 * means[seed], style) if seed in means else "-" for seed in map(str, summary["study"]["seeds"])
    )
