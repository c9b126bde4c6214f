"""The card of a policy for the hub: its base and licence, its data and seeds, its scores, and how it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focus_agents.reports.probe_table import probe_section
from focus_agents.runs.figures import in_digits
from focus_agents.runs.files import read_json
from focus_agents.runs.folder import CODE, RunDirectory
from focus_agents.runs.starts import STARTS
from focus_agents.runs.summary import SUMMARY_FILE
from focus_env.metrics import ScoredAnswer, summarize_with_intervals

CARD = "README.md"
METRICS = {"miou_all": "mean IoU * 100", "acc_50": "IoU of 0.5 or more, %", "parse_rate": "readable answers, %"}
"""Means of `summarize` that a card shows, and their titles."""
OF_ABSENCE = {
    "miou_present": "mean IoU * 100 of present targets",
    "absent_recall": "absent targets called absent, %",
    "absent_precision": "calls of absence that are right, %",
    "f1_50": "joint F1 at IoU 0.5 * 100",
}
"""Means that it shows too where targets are absent, and their titles."""
_LOADED = re.compile(r'FocusPolicy\.from_pretrained\("([^"]+)"\)')
"""Fields in which a card names its model."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SEEDS = ("seed", "data_seed")
DATA = (
    "dataset", "split", "validation_split", "protocol", "shots", "shots_drawn", "num_training_episodes", "scenes",
    "level", "distractors", "absent_fraction", "image_size", "max_pixels",
)  # fmt: skip
"""Arguments of a run that say which episodes it was trained on."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """The facts on a card.

    Attributes:
        name: The model's name on the hub, `owner/name`.
        base: The name on the hub of the model that it comes from, or of its package; None: it is not known.
        licence: The base's, as the hub names licences; None: it is not known.
        is_adapter: Whether the folder holds an adapter in PEFT's format.
        template: The prompt that it is asked with.
        frame: The unit of its coordinates.
        run: Arguments of the run that trained it; None: they are not known.
        answers: Answers to validation episodes, before and after training.
        tables: Further tables in Markdown, such as an evaluation's report.
        probe: The linear probe of a base, as its run's summary holds it; None: it was not probed.
    """

    name: str
    base: str | None = None
    licence: str | None = None
    is_adapter: bool = False
    template: str | None = None
    frame: str | None = None
    run: Mapping[str, Any] | None = None
    answers: Mapping[str, Sequence[ScoredAnswer]] = field(default_factory=dict)
    tables: Sequence[str] = ()
    probe: Mapping[str, Any] | None = None


def run_facts(folder: Path) -> dict[str, Any]:
    """Return what the run says that a policy was trained by, where the policy lies in its `checkpoints`.

    Args:
        folder: The policy's folder.

    Returns:
        `run`, `answers` and `probe` of `CardFacts`; nothing if there is no such run.

    Raises:
        CheckpointError: If the run's files are damaged.
    """
    run = RunDirectory(folder.resolve().parent.parent)
    if folder.resolve().parent != run.checkpoints or not (run.path / "config.json").is_file():
        return {}
    found = {name: run.path / "validation" / f"{name}.jsonl" for name in ("before", "after")}
    answers = {name: run.read_answers(name) for name, file in found.items() if file.is_file()}
    summary = run.path / SUMMARY_FILE
    outcome = read_json(summary, "the summary of a run") if summary.is_file() else {}
    return {"run": run.config(), "answers": answers, "probe": outcome.get("probe")}


def report_table(folder: Path) -> str:
    """Return the tables of an evaluation's folder.

    Raises:
        CheckpointError: If the folder holds no evaluation that has come to its end.
    """
    read_json(folder / "summary.json", "the summary of an evaluation")
    return (folder / "report.md").read_text(encoding="utf-8").strip()


def rename_card(card: str, name: str) -> str:
    """Return a card that `write_card` made of a model by another name; any other card stays as it is."""
    found = _LOADED.search(card)
    if found is None:
        return card
    old = found[1]
    card = card.replace(f"# {old.rpartition('/')[2]}\n", f"# {name.rpartition('/')[2]}\n", 1)
    return _LOADED.sub(f'FocusPolicy.from_pretrained("{name}")', card).replace(f"vlm:{old}", f"vlm:{name}")


def write_card(facts: CardFacts) -> str:
    """Return a card in Markdown, with the header that the hub reads."""
    parts = [_header(facts), f"# {facts.name.rpartition('/')[2]}", _opening(facts), _loading(facts)]
    parts += [*_scores(facts), *facts.tables, *_probe(facts), *_training(facts)]
    return "\n\n".join(parts) + "\n"


def _header(facts: CardFacts) -> str:
    lines: dict[str, str] = {
        "library_name": "peft" if facts.is_adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
    }
    if facts.licence is not None:
        lines["license"] = facts.licence
    lines["base_model_relation"] = "adapter" if facts.is_adapter else "finetune"
    if facts.base is not None and _HUB_NAME.fullmatch(name := facts.base.partition("@")[0]):
        lines["base_model"] = name  # the hub refuses other texts
    tags = "".join(f"\n- {tag}" for tag in ("focus-localization", "in-context-localization"))
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in lines.items()), f"tags:{tags}", "---"])


def _opening(facts: CardFacts) -> str:
    form = "An adapter in PEFT's format" if facts.is_adapter else "Weights"
    base = "" if facts.base is None else f" from {_named(facts.base)}"
    licence = facts.licence or "not known: see that of the base before you use it"
    return (
        f"{form}{base}, trained by focus-localization to find in a picture what boxes in other pictures show. Licence: "
        f"{licence}."
    )


def _named(model: str) -> str:
    """Return a model without where it lies on this machine: its name, or for a policy of a run that of the run."""
    if "/" not in model or (_HUB_NAME.fullmatch(model.partition("@")[0]) and not Path(model).exists()):
        return model
    path = Path(model)
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.name


def _loading(facts: CardFacts) -> str:
    asked = "" if facts.template is None else f" It is asked by the template {facts.template}, in {facts.frame}."
    return "\n".join(
        [
            "## Use",
            "",
            "```sh",
            "pip install 'focus-localization[train]'",
            f"focus demo --policy vlm:{facts.name} --support known.jpg 40,60,200,220 --query new.jpg",
            f"focus evaluate --policy vlm:{facts.name}",
            "```",
            "",
            f'`FocusPolicy.from_pretrained("{facts.name}")` loads it in Python.{asked}',
        ]
    )


def _scores(facts: CardFacts) -> list[str]:
    """Return a table of validation scores with intervals; without answers none."""
    if not facts.answers:
        return []
    summaries = {label: summarize_with_intervals(answers) for label, answers in facts.answers.items()}
    is_any_absent = any("absent_rate" in means for means in summaries.values())
    titles = METRICS | (OF_ABSENCE if is_any_absent else {})
    rows = []
    for label, means in summaries.items():
        cells = [_figure(means[name]) if name in means else "" for name in titles]
        rows.append(f"| {label} training | {len(facts.answers[label])} | {' | '.join(cells)} |")
    head = f"| | episodes | {' | '.join(titles.values())} |"
    told = ["", "An absent target counts 1 if it is called absent, else 0."] if is_any_absent else []
    return [
        "\n".join(
            [
                "## Scores",
                "",
                "Greedy answers to the validation episodes of the run; an unreadable answer counts 0; 95% bootstrap",
                "intervals over the episodes, of one training.",
                *told,
                "",
                head,
                "| --- " * (2 + len(titles)) + "|",
                *rows,
            ]
        )
    ]


def _figure(found: Mapping[str, Any]) -> str:
    """Return a mean with its interval, times 100."""
    mean, low, high = in_digits(100 * found["mean"], [100 * bound for bound in found["interval"]], digits=1)
    return f"{mean} ({low} to {high})"


def _probe(facts: CardFacts) -> list[str]:
    return [] if facts.probe is None else [f"## Linear probe\n\n{probe_section(facts.probe)}"]


def _training(facts: CardFacts) -> list[str]:
    if facts.run is None:
        return ["## Training\n\nThe run that it comes from is not known."]
    values = {name: value for name, value in facts.run.items() if value is not None}
    data = ", ".join(f"{name} {values[name]}" for name in DATA if values.get(name) not in (None, [], ()))
    seeds = ", ".join(f"{name} {values[name]}" for name in SEEDS if name in values)
    command = f"`focus {values['command']}`" if "command" in values else "this package"
    shown = {name: value for name, value in values.items() if not is_place(name) and name != CODE}
    if (start := values.get("init_from")) is not None:
        shown.pop("model", None)  # what the run would have started from without it
    shown |= {name: _named(str(shown[name])) for name in ("model", "base_model") if name in shown}
    going_on = "" if start is None else f" It started from {_named(str(start))}."
    return [
        "\n".join(
            [
                "## Training",
                "",
                f"By {command}.{going_on} Data: {data}. Seeds: {seeds}. All arguments:",
                "",
                "```json",
                json.dumps(shown, indent=1, default=str),
                "```",
            ]
        )
    ]


def is_place(name: str) -> bool:
    """Return whether an argument of a run says where it was, or from where it was called, rather than what it did."""
    places = ("output_dir", "name", "resume", "init_from", "data_root", "validation_root", "image_root")
    return name in (*places, "ray_address", "dashboard", STARTS)
