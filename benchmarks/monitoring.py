"""What watching a GRPO run costs: the share of an iteration of the small model, and the memory of a long run.

    python benchmarks/monitoring.py [--cases overhead memory] [--iterations 100] [--memory-iterations 2000]

    overhead    `train_grpo` as `focus grpo` calls it, all settings and all places that show the run being the defaults.
                `share` is the CPU time of everything that writes or shows the run (files, curves, pictures, Ray's
                endpoint), over the CPU time of the iterations without it; `bar` is the most that is allowed. With a
                hundred iterations, pictures of validations count as often as by default. Threads that go on beside the
                training are in it.
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
from focus_agents.grpo.train import train_grpo
from focus_agents.monitoring.ray_metrics import RayMetrics
from focus_agents.monitoring.recorder import Recorder, Sink
from focus_agents.runs.folder import RunDirectory

BAR = 0.03
NUM_POINTS = 20
TINY = [
    "--model", "tiny", "--level", "1", "--shots", "1", "--image-size", "56", "--num-validation-episodes", "2",
    "--groups-per-iteration", "1", "--group-size", "2", "--max-completion-tokens", "8", "--checkpoint-interval", "500",
]  # fmt: skip

CaseName = Literal["overhead", "memory"]


@dataclass(frozen=True, kw_only=True)
class Args:
    """What watching a run costs."""

    cases: tuple[CaseName, ...] = ("overhead", "memory")
    """What to measure."""
    iterations: int = 100
    """Iterations of the small model."""
    memory_iterations: int = 2000
    """Tiny iterations."""

    def __post_init__(self) -> None:
        for name in ("iterations", "memory_iterations"):
            if getattr(self, name) < NUM_POINTS // 4:
                raise ValueError(f"{name}: expected at least {NUM_POINTS // 4}, got {getattr(self, name)}")


def default_sinks(run: RunDirectory) -> list[Sink]:
    """The places that `focus grpo` shows a run at by default, beside those that `train_grpo` has itself."""
    return [RayMetrics(run.path.name, "grpo")]


def train(words: Sequence[str], probe: Sink) -> None:
    """A run of `focus grpo` with these flags and one more place that shows it, in a folder that is deleted."""
    args = parse(GRPOArgs, None, words=words)
    plan = args.plan(reward=args.reward, seed=args.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", {"name": "run"})
        sinks = [probe, *default_sinks(run)]  # the probe is closed first
        console = Console(file=io.StringIO())
        train_grpo(plan.config(), plan.schedule, run, plan.validation_episodes, console=console, sinks=sinks)


# ---- overhead


class Clock:
    """CPU seconds by name, of calls that may call each other; a call within another one counts once, for the outer."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._is_running = False

    def timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, timed."""

        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            if self._is_running:
                return method(*args, **options)
            self._is_running, start = True, time.thread_time()
            try:
                return method(*args, **options)
            finally:
                self.seconds[name] += time.thread_time() - start
                self._is_running = False

        return call


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


class ThreadProbe:
    """A `Sink` that reads, before the others are closed, what their threads have computed."""

    name = "probe"

    def __init__(self) -> None:
        self.seconds = 0.0

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Do nothing."""

    def show(self, name: str, picture: Any, position: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Read."""
        own = {thread.native_id for thread in threading.enumerate()} - {threading.main_thread().native_id}
        self.seconds = sum(
            thread.user_time + thread.system_time for thread in psutil.Process().threads() if thread.id in own
        )


def measure_overhead(args: Args) -> dict[str, Any]:
    """The share of an iteration that showing it takes."""
    clock, probe = Clock(), ThreadProbe()
    shown = {name: (Recorder, name) for name in vars(Recorder) if not name.startswith("_")}
    with timed(clock, {**shown, "iteration": (GRPO, "train")}):
        train(["--num-iterations", str(args.iterations)], probe)
    seconds = dict(clock.seconds)
    iteration = seconds.pop("iteration")
    shares = {name: value / iteration for name, value in {**seconds, "threads": probe.seconds}.items()}
    return {
        "case": "overhead",
        "share": sum(shares.values()),
        "bar": BAR,
        "shares": {name: round(share, 6) for name, share in shares.items()},
        "iteration_ms": 1e3 * iteration / args.iterations,
        "monitoring_ms": 1e3 * iteration / args.iterations * sum(shares.values()),
        "clock": "CPU",
        "iterations": args.iterations,
    }


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
    """By how much the median of the last fifth is above that of the fifth before the middle."""
    fifth, middle = max(1, len(rss) // 5), len(rss) // 2
    return statistics.median(rss[-fifth:]) - statistics.median(rss[middle - fifth : middle])


def measure_memory(args: Args) -> dict[str, Any]:
    """The resident memory of the driver through a long run."""
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
