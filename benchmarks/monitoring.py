"""Measure the cost of watching GRPO: the share of an iteration of the small model, and the memory of a long run.

    python benchmarks/monitoring.py [--cases overhead memory] [--iterations 20] [--memory-iterations 2000]

    overhead    `train_grpo` as `focus grpo` calls it, all settings and all places that show the run being the defaults.
                `share` is the CPU time of everything that writes or shows the run (files, curves, pictures, Ray's
                endpoint), over the CPU time of an iteration without it; `bar` is the most that is allowed. `ms` is what
                a call of each part takes; `shares` counts pictures of validations once in as many iterations as by
                default, the report by the limit that it keeps, and threads that go on beside the training.
    memory      Many tiny iterations with the same places. `rss_mib` is the resident memory of the driver, with sampler
                and learner inside of it, at twenty points; `growth_mib` is by how much its median over the last fifth
                is above that over the fifth before the middle: a leak goes on growing, caches do not.

CPU time is that of this process, since a machine with other work makes clocks useless. Prints one JSON line per case,
then a table.
"""

from __future__ import annotations

import contextlib
import functools
import io
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.grpo_on_ray import started_ray
from benchmarks.measuring import command, machine, print_line, run_quietly_on_one_thread
from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.errors import user_errors
from focus_agents.cli.grpo import Args as GRPOArgs
from focus_agents.grpo.algorithm import GRPO
from focus_agents.grpo.settings import GRPOSchedule, GRPOSettings
from focus_agents.grpo.train import train_grpo
from focus_agents.monitoring.album import ValidationAlbum
from focus_agents.monitoring.ray_metrics import RayMetrics
from focus_agents.monitoring.recorder import Recorder, Sink
from focus_agents.monitoring.report import SHARE, ReportSink
from focus_agents.runs.folder import RunDirectory

BAR = 0.03
NUM_POINTS = 20
TINY = [
    "--model", "tiny", "--level", "1", "--shots", "1", "--image-size", "56", "--num-validation-episodes", "2",
    "--groups-per-iteration", "1", "--group-size", "2", "--max-completion-tokens", "8", "--checkpoint-interval", "500",
]  # fmt: skip

SHOWING = (Recorder, ValidationAlbum, ReportSink)
"""Whoever writes or shows what a run does; whatever else does so is called by one of these."""
OF_VALIDATIONS = ("Recorder.answers", "Recorder.show", "ValidationAlbum.add", "ValidationAlbum.draw")
ITERATION, REPORT = "iteration", "ReportSink.write"

CaseName = Literal["overhead", "memory"]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the cost of watching a run."""

    cases: tuple[CaseName, ...] = ("overhead", "memory")
    """Cases to measure."""
    iterations: int = 20
    """Iterations of the small model."""
    memory_iterations: int = 2000
    """Tiny iterations."""

    def __post_init__(self) -> None:
        for name in ("iterations", "memory_iterations"):
            if getattr(self, name) < NUM_POINTS // 4:
                raise ValueError(f"{name}: expected at least {NUM_POINTS // 4}, got {getattr(self, name)}")


def train(words: Sequence[str], probe: Sink) -> None:
    """Run `focus grpo` with these flags and one more place that shows it, in a folder that is deleted."""
    args = parse(GRPOArgs, None, words=words)
    plan = args.plan(reward=args.reward, seed=args.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", {"name": "run"})
        console = Console(file=io.StringIO())
        sinks = [probe, *args.watch.open(run, console), RayMetrics(run.path.name, "grpo")]
        train_grpo(plan.config(), plan.schedule, run, plan.validation_episodes, console=console, sinks=sinks)


# ---- overhead


class Clock:
    """CPU seconds and calls by name; a call within another one counts for the outer one.

    Args:
        apart: Names whose calls count for themselves wherever they happen.

    Attributes:
        seconds: Of all calls.
        calls: Their number.
    """

    def __init__(self, *apart: str) -> None:
        self._apart = apart
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._names: list[str] = []
        self._since = 0.0

    def timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the method, so that it is timed."""

        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            if self._names and name not in self._apart:
                return method(*args, **options)
            self._switch()
            self._names.append(name)
            self.calls[name] += 1
            try:
                return method(*args, **options)
            finally:
                self._switch()
                self._names.pop()

        return call

    def _switch(self) -> None:
        """Count what was spent since the last switch for the call that is going on."""
        now = time.thread_time()
        if self._names:
            self.seconds[self._names[-1]] += now - self._since
        self._since = now


@contextlib.contextmanager
def timed(clock: Clock, methods: Mapping[str, tuple[type, str]]) -> Iterator[None]:
    """While it is open, these methods of classes are timed."""
    originals = {name: getattr(owner, method) for name, (owner, method) in methods.items()}
    for name, (owner, method) in methods.items():
        setattr(owner, method, clock.timed(name, originals[name]))
    try:
        yield
    finally:
        for name, (owner, method) in methods.items():
            setattr(owner, method, originals[name])


def _threads() -> set[int | None]:
    """Return Python's threads; those of other languages that have called Python, as autograd's, appear as dummies."""
    return {thread.native_id for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)}


class ThreadProbe:
    """A `Sink` that reads, before the others are closed, what the threads that began after it have computed."""

    name = "probe"

    def __init__(self) -> None:
        self.seconds = 0.0
        self._earlier = _threads()

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Do nothing."""

    def show(self, name: str, picture: Any, position: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Read."""
        own = _threads() - self._earlier
        self.seconds = sum(
            thread.user_time + thread.system_time for thread in psutil.Process().threads() if thread.id in own
        )


def measure_overhead(args: Args) -> dict[str, Any]:
    """Return the share of an iteration that showing it takes."""
    clock, probe = Clock(REPORT), ThreadProbe()
    shown = {f"{owner.__name__}.{name}": (owner, name) for owner in SHOWING for name in _public(owner)}
    del shown["Recorder.attempt"]  # called by others than itself
    shown.pop("Recorder.checkpoint", None)  # a run that nobody watches writes them, too
    words = ["--num-iterations", str(args.iterations)]
    with timed(clock, {**shown, ITERATION: (GRPO, "train")}):
        train(words, probe)
    each = {name: seconds / clock.calls[name] for name, seconds in clock.seconds.items()}
    iteration = each.pop(ITERATION)
    shares = {name: seconds / per_iterations(name) / iteration for name, seconds in each.items()}
    shares |= {REPORT: SHARE, "threads": probe.seconds / args.iterations / iteration}
    return {
        "case": "overhead",
        "share": sum(shares.values()),
        "bar": BAR,
        "shares": {name: round(share, 6) for name, share in shares.items()},
        "ms": {name: round(1e3 * seconds, 3) for name, seconds in each.items()},
        "iteration_ms": round(1e3 * iteration, 1),
        "clock": "CPU",
        "iterations": args.iterations,
    }


def per_iterations(name: str) -> int:
    """Return the number of iterations in which one has such a call, by default."""
    if name == "Recorder.close":
        return GRPOSettings().num_iterations
    return GRPOSchedule().validation_interval if name in OF_VALIDATIONS else 1


def _public(owner: type) -> list[str]:
    return [name for name, value in vars(owner).items() if not name.startswith("_") and callable(value)]


# ---- memory


class MemoryProbe(ThreadProbe):
    """A `Sink` that notes the resident memory of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.rss: dict[int, float] = {}

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Note it."""
        self.rss[position] = psutil.Process().memory_info().rss / 2**20


def growth(rss: Sequence[float]) -> float:
    """Return by how much the median of the last fifth is above that of the fifth before the middle."""
    fifth, middle = max(1, len(rss) // 5), len(rss) // 2
    return statistics.median(rss[-fifth:]) - statistics.median(rss[middle - fifth : middle])


def measure_memory(args: Args) -> dict[str, Any]:
    """Return the resident memory of the driver through a long run."""
    probe = MemoryProbe()
    train([*TINY, "--num-iterations", str(args.memory_iterations)], probe)
    every = max(1, args.memory_iterations // NUM_POINTS)
    return {
        "case": "memory",
        "rss_mib": {step: round(rss) for step, rss in probe.rss.items() if step % every == 0},
        "growth_mib": growth([*probe.rss.values()]),
        "iterations": args.memory_iterations,
    }


def main() -> None:
    quiet_libraries()
    with user_errors(Args):
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    common = {"machine": machine("cpu", ("torch", "transformers", "ray")), "command": command()}
    table = Table("case", "result", title="watching a run")
    with started_ray():
        for case in args.cases:
            line = measure_overhead(args) if case == "overhead" else measure_memory(args)
            print_line({**line, **common})
            if case == "overhead":
                result = f"{line['share']:.2%} of {line['iteration_ms']:.0f} ms an iteration (at most {BAR:.0%})"
            else:
                result = f"{line['growth_mib']:+.1f} MiB over the second half of {line['iterations']} iterations"
            table.add_row(case, result)
    Console().print(table)


if __name__ == "__main__":
    main()
