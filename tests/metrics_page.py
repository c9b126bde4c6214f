"""The page of metrics, out of their declarations.

`python -m tests.metrics_page` writes docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ray.rllib.utils.metrics import (
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from focus_agents.grpo.algorithm import ROLLOUTS
from focus_agents.grpo.learner import GRAD_NORM
from focus_agents.monitoring.board import ON_RAY, groups
from focus_agents.monitoring.endpoint import endpoint_name
from focus_agents.runs.metrics import METRICS, STAGES
from tests.places import ROOT

MODULE = f"{LEARNER_RESULTS}/default_policy"
OF_ROLLOUTS = (
    "reward", "reward_std", "miou", "acc_50", "parse_rate", "format_rate", "whole_image_rate", "copy_rate",
    "zero_variance_rate", "completion_tokens", "completion_tokens_min", "completion_tokens_max", "truncated_rate",
    "miou_present", "absent_recall", "absent_precision", "f1_50",
    "skipped_episodes", "failed_rate", "queue_depth", "sampler_restarts", "learner_restarts", "memory_gib",
)  # fmt: skip
OF_THE_LEARNER = {
    "loss": "total_loss", "grad_norm": GRAD_NORM, "lr": "lr", "ratio": "ratio_mean",
    **{name: name for name in ("entropy", "sampler_gap", "skipped_steps", "kl")},
    **{name: name for name in ("clip_fraction", "clip_low", "clip_high")},
}  # fmt: skip
PLACES: Mapping[str, str] = {
    **{name: f"{ROLLOUTS}/{name}" for name in OF_ROLLOUTS},
    **{name: f"{MODULE}/{key}" for name, key in OF_THE_LEARNER.items()},
    "seconds_sampling": f"{TIMERS}/{ENV_RUNNER_SAMPLING_TIMER}",
    "seconds_learning": f"{TIMERS}/{LEARNER_UPDATE_TIMER}",
    "seconds_syncing": f"{TIMERS}/{SYNCH_WORKER_WEIGHTS_TIMER}",
}
"""Where RLlib's result has a metric of GRPO; a test compares it with what the training reads there."""

PAGE = f"""\
# What a run measures

Made from the declarations in [`focus_agents/runs/metrics.py`](../focus_agents/runs/metrics.py):
`python -m tests.metrics_page` writes this page, and a test compares them. A name that is not declared there is an
error.

A metric has the same name in `metrics.jsonl` and wherever else a run shows it. What does not apply to a run is absent,
and never 0: there is no KL without a reference, and no clipping where an iteration takes one step. `null` in
`metrics.jsonl` is a value that was not finite. `reward/iou` is the part `iou` of `reward`.

On Ray's own endpoint, which Prometheus reads, the name has `{endpoint_name("")}` before it. Labels are `run` (the name
of its folder), `stage` (`grpo` or `sft`) and `part`, which is empty for the whole. `focus monitor` writes the settings
of Prometheus and a Grafana board with all of them, in the order of this page. A gauge is there for as long as the last
line of the run has the metric, those of a validation until the next one, and goes with the run.

RLlib's result, which Tune stops and compares by, has the mean reward as `env_runners/episode_return_mean` too.
"""


def page() -> str:
    """The text of docs/metrics.md."""
    parts = [PAGE]
    for title, names in sections().items():
        parts += [f"## {title}", ""]
        parts += ["| Name | Unit | Meaning | Healthy | Logged by | On Ray's endpoint | In RLlib's result |"]
        parts += ["| --- | --- | --- | --- | --- | --- | --- |", *map(_row, names), ""]
    return "\n".join(parts)


def sections() -> dict[str, list[str]]:
    """Every metric once, in the order of the board; at the end those that only a training without Ray has."""
    found = {title: [name for panel in row for name in panel.names] for title, row in groups().items()}
    found["Pretraining"] = [name for name, metric in METRICS.items() if not {*metric.stages} & {*ON_RAY}]
    return {title: [*dict.fromkeys(names)] for title, names in found.items()}


def _row(name: str) -> str:
    metric = METRICS[name]
    shown = f"`{name}`" + (f", `{name}/<{metric.part}>`" if metric.part else "")
    stages = ", ".join(f"`focus {stage}`" for stage in STAGES if stage in metric.stages)
    cells = (
        shown,
        metric.unit,
        metric.meaning.replace("|", r"\|"),
        metric.healthy,
        stages + (" at validations" if metric.is_occasional else ""),
        f"`{endpoint_name(name)}`" if {*metric.stages} & {*ON_RAY} else "",
        ", ".join(_places(name)),
    )
    return f"| {' | '.join(cells)} |"


def _places(name: str) -> Iterator[str]:
    if name in PLACES:
        yield f"`{PLACES[name]}`"
        if METRICS[name].part:
            yield f"`{PLACES[name]}/<{METRICS[name].part}>`"


if __name__ == "__main__":
    (ROOT / "docs/metrics.md").write_text(page(), encoding="utf-8")
