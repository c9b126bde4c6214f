"""Make a run's model one of those that come with the package: weights in bfloat16, and a card.

How to run:
    focus publish --run runs/base --name focus-small-base --commit 1234abc

The card holds the settings of the run, the scores of the published weights, and their limits.
"""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from annotated_types import Ge

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.errors import make_console, user_errors, work_errors
from focus_agents.models.shipped import SHIPPED_MODELS, WEIGHTS
from focus_agents.reports.model_card import CARD, is_place
from focus_agents.reports.probe_table import probe_section
from focus_agents.runs.figures import in_digits
from focus_agents.runs.files import read_json
from focus_agents.runs.folder import CODE, RunDirectory
from focus_agents.settings import Settings
from focus_agents.studies.ablation.arms import KINDS, MAIN_SPLIT, SPLITS
from focus_env.errors import FocusError
from focus_env.intervals import bootstrap_interval
from focus_env.metrics import summarize_with_intervals

TITLES = {
    "focus-small-grpo": "after GRPO from focus-small-sft, as that was before its rounding to bfloat16",
    "focus-small-sft": "after supervised fine-tuning with attention loss",
    "focus-small-mixed": "after supervised fine-tuning on all kinds of scenes, a fifth of queries without the object",
    "focus-small-start": "after a short supervised fine-tuning on short videos: what `make train` starts from",
    "focus-small-base": "the base: names single objects and finds them by name, has never seen an in-context episode",
    "focus-small-base-how": "the base, pretrained further so that the text of a box tells how its object looks, too",
    "focus-small-base-more": "the control of focus-small-base-how: the base, pretrained as much further in the old way",
}
LIMITS = """\
It was trained on procedural scenes of textured shapes, 64 x 64 pixels, and on nothing else. Larger pictures are scaled
down to that size. On photographs it is of no use but to show how the package is called. {absence} Boxes are written in
hundredths of the picture's sides, so an edge is off by up to half a hundredth even where it is right."""
NEVER_ABSENT = "It answers a box whether or\nnot the object is there: no target was absent in its training."
MAY_BE_ABSENT = "It may say that the object is\nnot there, and is always told how."
ABSENT_FRACTION = 0.25
"""Of the test episodes in which a card counts answers to absent targets."""
ABSENCE = {
    "miou_present": "mIoU present",
    "absent_recall": "recall",
    "absent_precision": "precision",
    "f1_50": "F1@0.5",
}
"""Metrics of them by name, and their columns; see docs/evaluation.md."""


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Make a run's model one of those that come with the package."""

    run: Path
    """Folder of the run."""
    name: str
    """Name of a model that comes with the package."""
    commit: str
    """Short hash of the commit at which the run was made."""
    num_episodes: Annotated[int, Ge(1)] = 1000
    """Test episodes for the score of the published weights."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        if args.name not in SHIPPED_MODELS:
            raise ValueError(f"name: expected one of {', '.join(SHIPPED_MODELS)}, got {args.name!r}")
        run = RunDirectory(args.run)
        config = run.config()
        import torch  # here and below: a command line is read without it

        from focus_agents.models.loading import load_model, load_processor, load_template
        from focus_agents.models.loading.sources import find_source
        from focus_agents.models.pictures import recorded_budget
        from focus_agents.runs.checkpoint import save_policy
        from focus_agents.runs.target import check_apart

        quiet_libraries()
        source = str(run.checkpoints / "final")
        check_apart(WEIGHTS / args.name, find_source(source))
        model, processor = load_model(source), load_processor(source)
        save = functools.partial(
            save_policy,
            model=model,
            processor=processor,
            template=load_template(source),
            pictures=recorded_budget(source),
        )
        summary = read_json(args.run / "summary.json", "the summary of a run that has come to its end")
    # Scored in a folder of its own first: an error on the way leaves the weights that are there as they are.
    with work_errors(Args, make_console(stderr=True), FocusError):
        with TemporaryDirectory() as scratch:
            model.to(torch.bfloat16)
            draft = save(Path(scratch) / args.name)
            probe = probe_weights(str(draft)) if "box_iou" in summary else None
            absence = score_absence(str(draft), args.num_episodes) if load_template(source).allow_absent else None
            card = write_card(args, config, summary, score(str(draft), args.num_episodes), probe, absence)
        folder = save(WEIGHTS / args.name, documents={CARD: card})
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 2**20:.1f} MiB\n{(folder / CARD).read_text()}")


def score(model: str, num_episodes: int) -> dict[str, tuple[float, float, float]]:
    """MIoU of the published weights with its 95% interval, by kind of scenes and episode and number of shots."""
    import gymnasium

    from focus_agents.evaluation import evaluate
    from focus_agents.policies.focus import FocusPolicy
    from focus_agents.studies.ablation.answers import split_episodes
    from focus_env.env import ENV_ID

    policy = FocusPolicy.from_pretrained(model)
    scores: dict[str, tuple[float, float, float]] = {}
    cells = [*((MAIN_SPLIT, shots) for shots in SPLITS[MAIN_SPLIT].shots), ("shuffled", 4)]
    for scenes, (split_name, shots) in itertools.product(KINDS, cells):
        dataset = split_episodes(split_name, shots, num_episodes, scenes)
        env = gymnasium.make(ENV_ID, dataset=dataset, template=policy.template)
        answers = evaluate(env, policy, range(num_episodes), batch_size=64)
        credits = [answer.credit for answer in answers]
        kind = "" if scenes == next(iter(KINDS)) else f"{KINDS[scenes].title}: "
        label = f"{kind}{SPLITS[split_name].title}, {shots} shot{'s' * (shots > 1)}"
        scores[label] = (sum(credits) / len(credits), *bootstrap_interval(credits))
    return scores


def score_absence(model: str, num_episodes: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `summarize_with_intervals` of answers at four shots where targets may be absent, by kind of scenes."""
    import gymnasium

    from focus_agents.evaluation import evaluate
    from focus_agents.policies.focus import FocusPolicy
    from focus_agents.studies.ablation.answers import split_episodes
    from focus_env.env import ENV_ID

    policy = FocusPolicy.from_pretrained(model)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for scenes, kind in KINDS.items():
        dataset = split_episodes(MAIN_SPLIT, 4, num_episodes, scenes, absent_fraction=ABSENT_FRACTION)
        env = gymnasium.make(ENV_ID, dataset=dataset, template=policy.template)
        found[kind.title] = summarize_with_intervals(evaluate(env, policy, range(num_episodes), batch_size=64))
    return found


def probe_weights(model: str) -> dict[str, Any]:
    """Return the linear probe of the published weights of a base."""
    from focus_agents.models.loading import load_model, load_processor, load_template
    from focus_agents.probing.probe import probe_model
    from focus_agents.probing.settings import ProbeSettings

    settings = ProbeSettings()
    return probe_model(load_model(model), load_processor(model), load_template(model), settings).as_dict()


def write_card(
    args: Args,
    config: dict[str, Any],
    summary: dict[str, Any],
    scores: dict[str, tuple[float, float, float]],
    probe: dict[str, Any] | None = None,
    absence: dict[str, dict[str, dict[str, Any]]] | None = None,
) -> str:
    """Return the card in Markdown."""
    shown = {label: in_digits(100 * m, (100 * lo, 100 * hi), digits=1) for label, (m, lo, hi) in scores.items()}
    rows = [f"| {label} | {mean} | {low} to {high} |" for label, (mean, low, high) in shown.items()]
    name = args.name
    title = TITLES[name][0].upper() + TITLES[name][1:]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"{title}. 1.5 million parameters in the shape of Qwen3-VL, bfloat16, Apache-2.0.",
            f'`FocusPolicy.from_pretrained("{name}")` loads it.',
            "",
            "## Scores",
            "",
            "Greedy answers of these weights to synthetic test episodes (level 3, four objects in each picture), where",
            "nothing else is said of scenes that show the whole object; mIoU times 100, unreadable answers count 0;",
            "95% bootstrap intervals over episodes; one training.",
            "",
            "| episodes | mIoU * 100 | interval |",
            "| --- | --- | --- |",
            *rows,
            "",
            *([] if absence is None else describe_absence(absence)),
            *describe_single_objects(summary),
            *([] if probe is None else ["## Linear probe", "", probe_section(probe), ""]),
            "## Limits",
            "",
            LIMITS.format(absence=NEVER_ABSENT if absence is None else MAY_BE_ABSENT),
            "",
            "## Training",
            "",
            "Data: episodes of `focus_env.datasets.SyntheticDataset`, or single pictures of such scenes for the base,",
            f"drawn from the seed. {describe_start(config)}Run at commit {args.commit}; "
            f"{summary['seconds'] / 60:.0f} minutes on shared cores of a CPU. All arguments:",
            "",
            "```json",
            json.dumps(
                {key: value for key, value in config.items() if key != CODE and not is_place(key)},
                indent=1,
                default=str,
            ),
            "```",
            "",
        ]
    )


def describe_absence(absence: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Return the table of answers to queries that may lack their object."""
    rows = [
        f"| {kind} | {' | '.join(_figure(means[name]) if name in means else '' for name in ABSENCE)} |"
        for kind, means in absence.items()
    ]
    return [
        "## Absent objects",
        "",
        f"The same at four shots, where the object is absent from a share of {ABSENT_FRACTION:g} of the queries: mIoU",
        "over present targets, recall and precision of the answer that it is absent, and F1 over both at an IoU of",
        "0.5, all times 100, with 95% intervals.",
        "",
        f"| scenes | {' | '.join(ABSENCE.values())} |",
        f"| --- |{' --- |' * len(ABSENCE)}",
        *rows,
        "",
    ]


def _figure(found: dict[str, Any]) -> str:
    mean, low, high = in_digits(100 * found["mean"], [100 * bound for bound in found["interval"]], digits=1)
    return f"{mean} ({low} to {high})"


def describe_start(config: dict[str, Any]) -> str:
    """Name the base that a base was pretrained further from, if there is one; a folder by its run's name."""
    start = config.get("init_from") if config.get("command") == "pretrain" else None
    if not start:
        return ""
    place = Path(start)
    return f"Pretrained further from {place.parent.parent.name if place.name == 'final' else place.name}. "


def describe_single_objects(summary: dict[str, Any]) -> list[str]:
    """Say what a base is for, if it is one of single objects."""
    if "box_iou" not in summary:
        return []
    return [
        "On single pictures with three to five objects of unseen identities, each token given the true ones before it:",
        f"mean IoU {100 * summary['box_iou']:.1f} of the box of a named object; {summary['name_accuracy']:.1%} of the "
        "four words (two",
        "colours, texture, shape) for the object in a box. Asked in context, it has no notion of what is meant.",
        "",
    ]


if __name__ == "__main__":
    main()
