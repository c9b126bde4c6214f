"""Warnings in plain words: each by curves that have what it is about, and none by those of a good run."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from focus_agents.monitoring.alarms import Alarm, Alarms, Watcher
from focus_agents.monitoring.curves import Facts
from focus_agents.monitoring.rules import RULES
from focus_agents.runs.folder import WARNINGS_FILE, RunDirectory
from tests.places import ROOT

GOOD = {
    "reward": 1.1, "miou": 0.6, "parse_rate": 1.0, "format_rate": 0.99, "whole_image_rate": 0.0, "copy_rate": 0.1,
    "zero_variance_rate": 0.05, "truncated_rate": 0.0, "failed_rate": 0.0, "loss": 0.0, "entropy": 0.5,
    "grad_norm": 0.4, "skipped_steps": 0.0, "seconds_sampling": 1.0, "seconds_learning": 1.0, "sampler_gap": 0.0,
}  # fmt: skip
SUPERVISED = {
    "loss": 1.0, "lm_loss": 0.8, "attention_loss": 0.2, "support_mass": 0.1, "past_margin": 0.1, "grad_norm": 0.5,
    "skipped_steps": 0.0,
}  # fmt: skip


def alarms_of(
    change: Callable[[int], dict[str, Any]], *, good: dict[str, Any] = GOOD, num_lines: int = 60, **facts: Any
) -> list[Alarm]:
    """What is told of good lines with changes by their number."""
    facts = {"length": num_lines, **facts}
    alarms = Alarms(Facts(**facts))
    lines = ({facts.get("counter", "iteration"): n, **good, **change(n)} for n in range(1, num_lines + 1))
    return [alarm for line in lines for alarm in alarms.look(line)]


def late(**values: Any) -> Callable[[int], dict[str, Any]]:
    return lambda n: values if n > 30 else {}


CASES: dict[str, tuple[Callable[[int], dict[str, Any]], dict[str, Any], str]] = {
    "silent_groups": (late(zero_variance_rate=0.6), {"num_lines": 60}, "`zero_variance` refill"),
    "no_gradient": (late(grad_norm=0.0), {}, "`freeze_vision`"),
    "format_without_iou": (late(), {"num_lines": 200}, "`group_size`"),
    "worse_answers": (late(miou=0.4), {}, "`kl_coeff`"),
    "whole_image": (late(whole_image_rate=0.25), {}, "22% of the answers are the whole image, 22 points more"),
    "copies": (late(copy_rate=0.35), {}, "32% of the answers repeat a support box, 22 points more"),
    "no_format": (late(format_rate=0.0), {}, "`max_completion_tokens`"),
    "truncated": (late(truncated_rate=0.7), {}, "`truncation_penalty`"),
    "failed_answers": (late(failed_rate=0.1), {}, "your own `reward`"),
    "no_entropy": (late(entropy=0.001), {}, "`temperature`"),
    "far_from_reference": (late(kl=3.0), {}, "`kl_coeff`"),
    "ratio": (late(ratio=1.6), {}, "`num_passes`"),
    "sampler_gap": (late(sampler_gap=0.3), {}, "`rollout_correction` token_tis"),
    "learners_wait": (late(seconds_sampling=9.0), {"num_samplers": 2}, "`num_env_runners`, or sample during"),
    "samplers_wait": (late(seconds_learning=9.0), {"num_samplers": 1, "num_learners": 1}, "`num_learners`"),
    "restarts": (lambda n: {"sampler_restarts": max(0.0, n // 5 - 4.0)}, {}, "3 restarts of samplers in 20 iterations"),
    "not_finite": (lambda n: {"loss": math.nan} if n == 40 else {}, {}, "`precision` fp32"),
    "support_mass": (
        lambda n: {}, {"good": SUPERVISED, "counter": "step", "num_lines": 200}, "`attention_layers`",
    ),
    "validation_falls": (
        lambda n: {"loss": 1 - n / 1000, **({"validation_miou": 0.7 - n / 200} if n % 20 == 0 else {})},
        {"good": SUPERVISED, "counter": "step", "num_lines": 80}, "`patience`, take checkpoints/best",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RULES)
def test_each_is_told_once_with_what_to_try(kind: str) -> None:
    change, options, text = CASES[kind]
    told = alarms_of(change, **options)
    assert [alarm.kind for alarm in told] == [kind]
    assert text in told[0].message


@pytest.mark.parametrize(
    "kind", [kind for kind in RULES if kind not in ("format_without_iou", "support_mass", "failed_answers")]
)
def test_none_is_told_of_a_good_run(kind: str) -> None:
    """One bad line at the start is no reason, but for a loss that is lost and answers that raise exceptions."""
    change, options, _ = CASES[kind]
    good = options.get("good", GOOD)
    rising = {"miou": 0.01, "reward": 0.01, "support_mass": 0.01, "loss": -0.001}
    bad = {**change(40), **change(20)} if kind != "not_finite" else {}

    def good_line(n: int) -> dict[str, Any]:
        line = {name: good[name] + rising[name] * n / 10 for name in rising if name in good}
        return {**line, **(bad if n == 3 and kind not in ("restarts", "validation_falls") else {})}

    assert alarms_of(good_line, **{**options, "num_lines": 200}) == []


def test_it_is_told_again_only_after_it_has_gone_away() -> None:
    def change(n: int) -> dict[str, float]:
        is_bad = 21 <= n <= 60 or 101 <= n <= 140
        return {"truncated_rate": 1.0 if is_bad else 0.0}

    told = alarms_of(change, num_lines=160, good={**GOOD, "format_rate": 0.5})
    assert [(alarm.kind, alarm.position) for alarm in told] == [("truncated", 31), ("truncated", 111)]


def test_short_runs_are_looked_at_too() -> None:
    told = alarms_of(lambda n: {"zero_variance_rate": 1.0, "grad_norm": 0.0}, num_lines=2)
    assert [alarm.kind for alarm in told] == ["silent_groups", "no_gradient"]


def test_shortcuts_are_compared_with_the_start() -> None:
    """Copies of a target that did not move are right answers."""
    assert alarms_of(lambda n: {"copy_rate": 0.6, "miou": 0.6 + n / 1000}) == []


@pytest.mark.parametrize(("counts", "told"), [([3.0] * 3, 1), ([1.0, 1.0, 2.0], 0), ([0.0] * 30 + [1.0] * 9, 0)])
def test_restarts_are_counted_within_a_window(counts: list[float], told: int) -> None:
    good = {**SUPERVISED, "support_mass": 0.5}
    found = alarms_of(lambda n: {"worker_restarts": counts[n - 1]}, good=good, counter="step", num_lines=len(counts))
    assert [alarm.kind for alarm in found] == ["restarts"] * told


def test_processes_wait_only_where_there_are_some() -> None:
    slow = {"seconds_sampling": 30.0}
    assert alarms_of(lambda n: slow) == []
    assert [alarm.kind for alarm in alarms_of(lambda n: slow, num_samplers=1)] == ["learners_wait"]
    fast = {"seconds_sampling": 0.0}
    assert alarms_of(lambda n: fast, num_samplers=1, is_async=True) == []


def lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / WARNINGS_FILE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def log(run: RunDirectory, watcher: Watcher, positions: Iterable[int], **values: Any) -> None:
    for position in positions:
        metrics = {**GOOD, **values}
        run.log({"iteration": position, **metrics})
        watcher.log(metrics, position)


def test_what_is_told_is_kept_and_told_no_second_time_by_a_run_that_is_gone_on_with(tmp_path: Path) -> None:
    run, console = RunDirectory.create(tmp_path / "run", {"name": "run"}), Console(file=io.StringIO(), width=40)
    log(run, Watcher(run, console, Facts(length=40)), range(1, 21), truncated_rate=1.0)
    (kept,) = lines(run.path)
    assert (kept["iteration"], kept["kind"]) == (3, "truncated")
    again = Watcher(run, console, Facts(length=40))
    log(run, again, range(21, 31), truncated_rate=1.0)
    assert lines(run.path) == [kept]
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == f"warning: {kept['message']}\n"
    run.rewind(2, counter="iteration")
    assert lines(run.path) == []
    log(run, again, range(3, 5), truncated_rate=1.0)  # as it goes on from a checkpoint
    assert [line["iteration"] for line in lines(run.path)] == [3]


def test_a_file_that_cannot_be_written_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, console = RunDirectory.create(tmp_path / "run", {"name": "run"}), Console(file=io.StringIO())

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("focus_agents.monitoring.alarms.append_json_lines", full)
    log(run, Watcher(run, console, Facts(length=9)), range(1, 10), truncated_rate=1.0, zero_variance_rate=1.0)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("warnings.jsonl cannot be written: [Errno 28]") == 1
    assert console.file.getvalue().count("warning: ") == 3


def test_the_documentation_names_every_kind() -> None:
    text = (ROOT / "docs/watching.md").read_text().split("## Warnings")[1].split("\n## ")[0]
    assert {kind for kind in RULES if f"`{kind}`" not in text} == set()


def sampled(num_groups: int, seed: int, *, collapses_at: int = 10**9) -> Callable[[int], dict[str, Any]]:
    """Lines of a run that learns nothing, of few groups of four answers, that perhaps collapses to the whole image."""
    random = np.random.default_rng(seed)

    def line(n: int) -> dict[str, Any]:
        if n > collapses_at:
            return {"miou": 0.05, "whole_image_rate": 1.0, "copy_rate": 0.0}
        ious = np.clip(random.beta(0.7, 1.2, size=(num_groups, 1)) + random.normal(0, 0.2, size=(num_groups, 4)), 0, 1)
        shares = [random.binomial(4, random.beta(0.4, b, size=num_groups)).mean() / 4 for b in (1.0, 2.0)]
        return {"miou": float(ious.mean()), "copy_rate": float(shares[0]), "whole_image_rate": float(shares[1])}

    return line


@pytest.mark.parametrize("num_groups", [1, 2, 4, 8])
def test_chance_in_a_flat_run_of_few_groups_is_no_warning(num_groups: int) -> None:
    for seed in range(6):
        told = alarms_of(sampled(num_groups, seed), num_lines=200, num_groups=num_groups)
        assert {alarm.kind for alarm in told} & {"worse_answers", "copies", "whole_image"} == set()


@pytest.mark.parametrize("num_groups", [1, 2, 4, 8])
def test_a_collapse_is_told_however_few_the_groups_are(num_groups: int) -> None:
    for seed in range(3):
        told = alarms_of(sampled(num_groups, seed, collapses_at=60), num_lines=120, num_groups=num_groups)
        assert {"worse_answers", "whole_image"} <= {alarm.kind for alarm in told}


@pytest.mark.parametrize("odd", ['{"reward": 1}', '{"iteration": null}', '{"iteration": 3, "miou": "x"}', "{}"])
def test_an_odd_line_of_an_earlier_release_is_passed_over(odd: str, tmp_path: Path) -> None:
    run, console = RunDirectory.create(tmp_path / "run", {"name": "run"}), Console(file=io.StringIO())
    lines = ['{"iteration": 1, "reward": 1}', odd, '{"iteration": 4, "reward": 1}']
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    Watcher(run, console, Facts(length=40)).log({"reward": 1.0, "loss": 0.0}, 5)
