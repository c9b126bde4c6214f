"""Files of a run that grows longer: its lines, samples and warnings, the report, and going on with it."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from rich.console import Console

import focus_env
from benchmarks.growing.slopes import Axis, Step
from benchmarks.growing.stores import SmallEpisodes
from focus_agents.grpo.advantage import group_advantages
from focus_agents.monitoring.alarms import Watcher
from focus_agents.monitoring.curves import Facts
from focus_agents.monitoring.recorder import Recorder
from focus_agents.monitoring.report import ReportSink
from focus_agents.monitoring.tensorboard import TensorBoardSink
from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import Completion, Generation, RolloutGroup, Sampling
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.metrics import METRICS
from focus_env.types import Message

NUM_GROUPS, GROUP_SIZE = 8, 8
ANSWER_TOKENS = 24
LONG_RUN = 1_000_000
"""Iterations that the run is said to have in all."""


class NoisePolicy:
    """Answers boxes at random."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        """See `Policy`."""
        return [Generation(tuple(self._answer() for _ in range(num_completions))) for _ in prompts]

    def _answer(self) -> Completion:
        left, top, right, bottom = np.sort(self._rng.integers(1000, size=(2, 2)), axis=0).ravel().tolist()
        text = f"<answer>[{left}, {top}, {right + 1}, {bottom + 1}]</answer>"
        logprobs = -self._rng.exponential(size=ANSWER_TOKENS).astype(np.float32)
        return Completion(text, self._rng.integers(512, size=ANSWER_TOKENS), logprobs, is_finished=True)


class LongRun:
    """A run whose iterations are recorded without any being done."""

    def __init__(self, folder: Path, num_done: int) -> None:
        self.run = RunDirectory.create(folder / "run", {"name": "run", "command": "grpo"})
        self.console = Console(file=io.StringIO())
        watcher = Watcher(self.run, self.console, Facts(length=LONG_RUN))
        self.recorder = Recorder(self.run, self.console, [watcher, TensorBoardSink(self.run.path, done=None)])
        self.episodes = SmallEpisodes(64)
        env = gymnasium.make(focus_env.ENV_ID, dataset=self.episodes)
        self.groups: list[RolloutGroup] = collect_groups(
            env, NoisePolicy(), range(NUM_GROUPS), group_size=GROUP_SIZE, sampling=Sampling(), seeds=range(NUM_GROUPS)
        )
        self.advantages = group_advantages(np.stack([group.rewards for group in self.groups]))
        self.names = [name for name, metric in METRICS.items() if "grpo" in metric.stages and not metric.is_occasional]
        self.rng = np.random.default_rng(0)
        self.numbers = itertools.count(1)
        for _ in range(num_done):
            self.record()

    def record(self) -> None:
        """Record an iteration as a training does."""
        iteration = next(self.numbers)
        values = dict(zip(self.names, self.rng.uniform(0.3, 0.6, len(self.names)).tolist(), strict=True))
        self.recorder.samples(iteration, self.groups, self.advantages)
        self.recorder.log(values | {"iteration": iteration})


def _long_run(stack: contextlib.ExitStack, num_done: int) -> LongRun:
    return LongRun(Path(stack.enter_context(tempfile.TemporaryDirectory())), num_done)


def _record(stack: contextlib.ExitStack, num_done: int) -> Step:
    return _long_run(stack, num_done).record


def _report(stack: contextlib.ExitStack, num_done: int) -> Step:
    made = _long_run(stack, num_done)
    given: Any = {"training": made.episodes, "validation": made.episodes}
    return ReportSink(made.run.path, **given).write


def _rewind(stack: contextlib.ExitStack, num_done: int) -> Step:
    run = _long_run(stack, num_done).run
    return lambda: run.rewind(num_done, counter="iteration")


AXES = (
    Axis(
        "runs", "recording an iteration", "iterations done", (50, 100, 200, 400), _record,
        {"time": (0, 0), "held": (0, 0)}, "lines are appended, and warnings look at the last ones", steps=20,
    ),
    Axis(
        "runs", "writing the report", "iterations done", (50, 100, 200, 400), _report,
        {"time": (0, 1)}, "each line is read once; a training spends a fixed share of its time on it",
    ),
    Axis(
        "runs", "going back to a checkpoint", "iterations done", (50, 100, 200, 400), _rewind,
        {"time": (0, 1)}, "each line is read once",
    ),
)  # fmt: skip
