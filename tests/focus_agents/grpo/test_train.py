"""The loop of a run without Ray: what its lines say, and what is kept when there is nobody left to sample."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from focus_agents.errors import SamplingError, TrainingError
from focus_agents.grpo import train as module
from focus_agents.grpo.settings import GRPOSchedule
from focus_agents.monitoring.recorder import Recorder
from focus_agents.runs.folder import RunDirectory

METRICS = {
    "reward": 0.5, "miou": 0.25, "parse_rate": 0.9, "format_rate": 0.8, "zero_variance_rate": 0.25,
    "seconds_sampling": 1.0, "seconds_learning": 2.0,
    "groups_per_second": 3.0, "truncated_rate": 0.0, "failed_rate": 0.0, "skipped_episodes": 0.0, "skipped_steps": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "reward 0.500  mIoU 0.250  format  80%  silent groups  25%  parsed  90%  sampling"),
        ({}, "parsed  90%  sampling  1.00 s  learning  2.00 s    3.0 groups/s"),
        ({"truncated_rate": 0.031}, "3.0 groups/s  cut 3.1%"),
        ({"failed_rate": 0.25}, "3.0 groups/s  failed 25.0%"),
        ({"skipped_episodes": 2.0}, "3.0 groups/s  skipped 2 episodes"),
        ({"skipped_steps": 4.0}, "3.0 groups/s  skipped 4 steps so far"),
    ],
)
def test_what_failed_or_was_cut_is_in_the_line(changes: dict[str, float], text: str) -> None:
    line = module._line({"iteration": 7, **METRICS, **changes})
    assert text in line
    assert ("cut" in line, "failed" in line) == ("truncated_rate" in changes, "failed_rate" in changes)
    assert ("skipped" in line) == any(name.startswith("skipped") for name in changes)


def test_lines_align_and_say_how_far_the_run_is() -> None:
    high = dict.fromkeys(("format_rate", "parse_rate", "zero_variance_rate"), 1.0)
    lines = [
        module._line({"iteration": number, **METRICS, **rates}, total=400, left="  0:01:00 left")
        for number, rates in ((7, high), (398, {"seconds_sampling": 12.5, "groups_per_second": 123.4}))
    ]
    assert lines[0].startswith("    7 of 400  reward")
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith("groups/s  0:01:00 left")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_line_fits_the_terminal(width: int) -> None:
    changes = {"truncated_rate": 0.031, "skipped_steps": 4.0}
    for more in ({}, changes, {**changes, "validation_miou": 0.5}):
        line = module._line({"iteration": 7, **METRICS, **more}, total=400, width=width)
        assert line.startswith("    7 of 400")
        assert len(line) <= width
        assert ("reward 0.500" in line) == (width >= (60 if "validation_miou" in more else 40))
        assert ("validation mIoU 0.500" in line) == ("validation_miou" in more and width >= 40)


WATCH: Any = SimpleNamespace(look=lambda answers: None)
ALBUM: Any = SimpleNamespace(add=lambda position, answers: None)


def iterate(algorithm: Any, schedule: GRPOSchedule, run: RunDirectory, console: Console) -> None:
    recorder = Recorder(run, console)
    module._iterate(
        algorithm, schedule, run, [0], first=0, console=console, watch=WATCH, recorder=recorder, album=ALBUM
    )


class Algorithm:
    """Trains until something is lost; validation may be what loses it."""

    last_groups = ()

    def __init__(self, num_good: int, error: Exception, *, is_in_validation: bool = False) -> None:
        self.config = SimpleNamespace(num_iterations=9)
        self.num_left, self.error, self.is_in_validation = num_good, error, is_in_validation

    def train(self) -> None:
        if not self.num_left and not self.is_in_validation:
            raise self.error
        self.num_left -= 1

    def validate(self, indices: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("num_good", "options", "schedule", "saved"),
    [
        (0, {}, {}, []),
        (3, {}, {}, [3]),
        (3, {}, {"checkpoint_interval": 2}, [2, 3]),
        (4, {}, {"checkpoint_interval": 2}, [2, 4]),
        (9, {"is_in_validation": True}, {"validation_interval": 3}, [3]),
    ],
)
def test_what_was_trained_is_kept_when_nobody_samples_any_more(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_good: int,
    options: dict[str, Any],
    schedule: dict[str, int],
    saved: list[int],
) -> None:
    written: list[int] = []
    monkeypatch.setattr(module, "_check_weights", lambda algorithm, path: None)
    monkeypatch.setattr(module, "_save", lambda algorithm, run, iteration, **kwargs: written.append(iteration))
    monkeypatch.setattr(module, "_collect_metrics", lambda result, n, **kwargs: {"iteration": n, **METRICS})
    run, console = RunDirectory.create(tmp_path / "run", {"name": "run"}), Console(file=io.StringIO())
    error = SamplingError("none came back; resume")
    algorithm: Any = Algorithm(num_good, error, **options)
    with pytest.raises(SamplingError) as caught:
        iterate(algorithm, GRPOSchedule(**schedule), run, console)
    assert str(caught.value) == f"after iteration {saved[-1] if saved else 0} of 9: {error} {run.path}"
    assert written == saved
    lines = [line["iteration"] for line in run.read_metrics()]
    assert lines == list(range(1, saved[-1] + 1 if saved else 1))


def test_nothing_is_written_of_learners_that_gave_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_save", lambda *args, **kwargs: pytest.fail("nothing is to be saved"))
    monkeypatch.setattr(module, "_collect_metrics", lambda result, n, **kwargs: {"iteration": n, **METRICS})
    run, console = RunDirectory.create(tmp_path / "run", {"name": "run"}), Console(file=io.StringIO())
    algorithm: Any = Algorithm(3, TrainingError("no finite gradient"))
    with pytest.raises(TrainingError, match=r"^no finite gradient$"):
        iterate(algorithm, GRPOSchedule(), run, console)
