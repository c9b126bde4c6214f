"""Evaluations of a policy whose answers are written down here."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from focus_agents.evaluation.records import AnswerRecord
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.evaluation.run import EvaluationPlan, pending_chunks, run_chunks
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Completion, Generation, Sampling
from focus_env.types import Message
from tests.fakes import FakeDataset
from tests.focus_agents.rollout.fakes import GOLD

NUM_EPISODES = 7
WHOLE = "<answer>[0, 0, 1000, 1000]</answer>"
ASKED: list[tuple[int, ...]] = []
"""Which episodes the policies here were asked, in this process."""


class Scripted:
    """Knows an episode by its seed: the first is answered right, the third not at all, the others by the whole image.

    Args:
        argument: Which episode it raises at (`all`: any), or dies at; or where the marker of its only death is; or
            empty.
    """

    def __init__(self, argument: str = "") -> None:
        self.kind, _, self.place = argument.partition("=")

    def generate(
        self, prompts: Sequence[Sequence[Message]], *, num_completions: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Generation]:
        assert (num_completions, sampling) == (1, Sampling(temperature=0.0, max_completion_tokens=9))
        ASKED.append(tuple(seeds))
        if self.kind == "exits":
            sys.exit(0)
        if self.kind == "raises" and (self.place == "all" or int(self.place) in seeds):
            raise RuntimeError("the camera is broken")
        if self.kind == "dies" and int(self.place) in seeds:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "dies_once" and 4 in seeds and not Path(self.place).exists():
            Path(self.place).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "silent":
            return []
        if self.kind == "double":
            return [Generation(self.answer(seed).completions * 2) for seed in seeds]
        return [self.answer(seed) for seed in seeds]

    def answer(self, seed: int) -> Generation:
        text = {0: GOLD, 2: ""}.get(seed, WHOLE)
        error = "no answer within 3 s" if seed == 2 and self.kind != "mended" else None
        text = WHOLE if self.kind == "mended" and seed == 2 else text
        return Generation((Completion(text, np.empty(0, np.int64), np.empty(0, np.float32), True, error),))


def scripted(argument: str = "") -> dict[str, PolicySpec]:
    text = f"{__name__}:Scripted"
    return {"scripted": PolicySpec(text=f"{text}:{argument}" if argument else text)}


def make_plan(**changes: Any) -> EvaluationPlan:
    given: dict[str, Any] = {
        "policies": scripted(),
        "dataset": "fake",
        "episodes": {2: FakeDataset(NUM_EPISODES)},
        "num_episodes": NUM_EPISODES,
        "max_completion_tokens": 9,
        "batch_size": 3,
    }
    return EvaluationPlan(**(given | changes))


def open_results(path: Path, plan: EvaluationPlan, **settings: Any) -> ResultsFolder:
    data = {plan.dataset: {"level": 3, "data_root": Path("/data"), **settings}}
    return ResultsFolder.open(path, data=data, policies=plan.policy_settings(), cells=plan.cells())


def run(path: Path, plan: EvaluationPlan, **options: Any) -> ResultsFolder:
    results = open_results(path, plan)
    chunks = pending_chunks(plan, results, **options)
    run_chunks(plan, results, chunks, on_done=lambda num_done: None)
    return results


def records_of(results: ResultsFolder, position: int = 0) -> list[AnswerRecord]:
    """Without what a clock decides."""
    records = results.read(results.cells()[position])
    return [dataclasses.replace(record, seconds=0.0) for record in records]


def answers_file(results: ResultsFolder) -> Path:
    (file,) = (results.path / "answers").iterdir()
    return file
