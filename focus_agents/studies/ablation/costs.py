"""Estimate the time of a study before its start, by the speeds of `arms.SECONDS`, on one core for each job."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

from focus_agents.studies.ablation.answers import cell_episodes, is_probed, missing_cells, probe_file
from focus_agents.studies.ablation.arms import SECONDS
from focus_agents.studies.ablation.grid import Variant
from focus_agents.studies.ablation.runs import AblationStudy, ArmRun


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a study.

    Attributes:
        num_runs: Number of all runs, bases among them.
        num_left: Number of the runs that are not done.
        core_seconds: Seconds of the runs that are not done, summed over runs on one core each.
        seconds: Seconds of these runs by the clock, with `jobs` runs at a time, each on its own core.
        jobs: Runs at a time.
    """

    num_runs: int
    num_left: int
    core_seconds: float
    seconds: float
    jobs: int

    def __str__(self) -> str:
        """Return a line for the terminal."""
        done = self.num_runs - self.num_left
        already = f", {done} of them done" if done else ""
        left = f"what is left takes about {_duration(self.seconds)}"
        return f"{self.num_runs} runs{already}; {left}, {self.jobs} at a time, each on a core with bfloat16 units"


def estimate(study: AblationStudy) -> Cost:
    """Return the cost of the runs that are left, scheduled as `training.run_arms` does."""
    runs = study.runs()
    seconds = {run.folder: run_seconds(study, run) for run in runs}
    ends: dict[Path, float] = {}
    workers = [0.0] * study.jobs
    waiting = list(runs)
    while waiting:
        free = heapq.heappop(workers)
        # The first that can start by then; if none can, the one that can start soonest.
        startable = [
            (run, free if run.parent is None else max(free, ends[run.parent]))
            for run in waiting
            if run.parent is None or run.parent in ends
        ]
        chosen, start = min(startable, key=lambda pair: pair[1])
        ends[chosen.folder] = start + seconds[chosen.folder]
        heapq.heappush(workers, ends[chosen.folder])
        waiting.remove(chosen)
    left = [run for run in runs if seconds[run.folder] > 0]
    return Cost(len(runs), len(left), sum(seconds.values()), max(ends.values(), default=0.0), study.jobs)


def run_seconds(study: AblationStudy, run: ArmRun) -> float:
    """Return the seconds that are left of a run on one core; 0 if the run is done."""
    variant = Variant.parse(run.variant)
    seconds = sum(cell_episodes(study, name) for name, _ in missing_cells(study, run)) * SECONDS["episode"]
    if run.command and not run.is_done:
        seconds += SECONDS["start"] + variant.training_seconds(study.num_sft_steps, study.num_grpo_iterations)
    if is_probed(study, run) and not probe_file(study, run).exists():
        seconds += SECONDS["probe"] * study.num_probe_episodes / 1500
    return seconds


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
