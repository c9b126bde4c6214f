"""What a run leaves behind, and what it shows while it goes on.

runs/<name>/
  config.json      every argument of the run
  metrics.jsonl    one object per iteration; METRICS says what each name means
  validation/      one line per answer, before and after
  samples/         pictures of validation episodes, and what was sampled in training
  checkpoints/     iteration_000050/ to go on from; final/ the policy in transformers' format
  summary.json     the outcome
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from PIL import Image

from focus_agents.errors import CheckpointError
from focus_agents.rollout.records import RolloutGroup
from focus_agents.runs.files import write_json, write_text
from focus_agents.runs.metrics import METRICS, compare_validation
from focus_env.metrics import ScoredAnswer
from focus_env.rendering import ANSWER_COLOUR, TARGET_COLOUR, Colour, render_episode, stack_rows
from focus_env.types import Box, EpisodeDataset, ParseStatus

BEFORE_COLOUR: Colour = (230, 140, 0)
AFTER_COLOUR = ANSWER_COLOUR
NUM_SHEET_EPISODES = 8


class RunDirectory:
    """The folder of one run; see the module's docstring.

    Args:
        path: The folder.

    Raises:
        FileExistsError: If `create` would write into another run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> RunDirectory:
        """Start a new run; one in which something was trained is never written over."""
        names = ("samples", "checkpoints", "validation")
        run = cls(path)
        if run.is_blank:
            for name in names:
                shutil.rmtree(path / name, ignore_errors=True)
        elif (path / "config.json").exists():
            advice = f"go on with it by `resume` {path}"
            if run.num_done is None and not run.is_finished:
                advice = "delete the folder, which has no checkpoint to go on from"
            raise FileExistsError(f"run folder {path} holds a run already; choose another `name`, or {advice}")
        for name in names:
            (path / name).mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", config)
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def num_done(self) -> int | None:
        """Steps or iterations that the newest checkpoint has behind it; None if there is none."""
        names = (path.name.rpartition("_") for path in self.checkpoints.glob("[!.]*_*"))
        return max((int(number) for _, _, number in names if number.isdecimal()), default=None)

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / "summary.json").exists()

    @property
    def is_blank(self) -> bool:
        """Whether a run was started here and ended before anything was trained, so that it may be started again."""
        try:
            self.config()
        except CheckpointError:
            return False
        traces = (self.path / "summary.json", self.path / "metrics.jsonl", self.checkpoints / "final")
        return self.num_done is None and not any(trace.exists() for trace in traces)

    def abandon(self) -> None:
        """Set aside what was logged before the first checkpoint, since nothing can go on from there."""
        if self.num_done is None and not self.is_finished and (self.path / "metrics.jsonl").exists():
            (self.path / "metrics.jsonl").rename(self.path / "metrics.stopped.jsonl")

    def config(self) -> dict[str, Any]:
        """The arguments with which the run was started.

        Raises:
            CheckpointError: If the folder is not a run's.
        """
        try:
            config = json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"run {self.path}: expected a run's folder with config.json ({error})") from error
        if not isinstance(config, dict) or not config:
            raise CheckpointError(f"{self.path / 'config.json'}: expected the arguments of a run, got {config!r}")
        return config

    def log(self, metrics: Mapping[str, float | None]) -> None:
        """Append the metrics of one iteration or step; a name may end in `/<layer>`.

        Raises:
            ValueError: If a name is not in `METRICS`.
        """
        if unknown := sorted({name.partition("/")[0] for name in metrics} - set(METRICS)):
            raise ValueError(f"metrics: expected names from runs.metrics.METRICS, got {unknown}; declare them there")
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """What `log` has appended so far; a line that is being written is left out."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def rewind(self, num_done: int, *, counter: str) -> None:
        """Drop what was logged after a checkpoint, since the run goes on from there.

        Args:
            num_done: Iterations or steps that the checkpoint has behind it.
            counter: Which of `METRICS` counts them.
        """
        for file in (self.path / "metrics.jsonl", self.path / "samples" / "rollouts.jsonl"):
            lines = file.read_text().splitlines(keepends=True) if file.exists() else []
            kept = "".join(line for line in lines if line.endswith("\n") and json.loads(line)[counter] <= num_done)
            if kept != "".join(lines):
                write_text(file, kept)

    def write_answers(self, name: str, answers: Sequence[ScoredAnswer]) -> None:
        """Keep validation answers, one JSON object a line."""
        lines = [json.dumps(asdict(answer)) + "\n" for answer in answers]
        (self.path / "validation" / f"{name}.jsonl").write_text("".join(lines))

    def read_answers(self, name: str) -> list[ScoredAnswer]:
        """What `write_answers` kept."""
        return [
            read_answer(json.loads(line))
            for line in (self.path / "validation" / f"{name}.jsonl").read_text().splitlines()
        ]

    def write_sheet(
        self,
        name: str,
        episodes: EpisodeDataset,
        indices: Sequence[int],
        answers: Mapping[str, tuple[Sequence[ScoredAnswer], Colour]],
    ) -> Path:
        """Draw episodes with the answers to them.

        Args:
            name: Of the picture in `samples/`.
            episodes: Where the episodes come from.
            indices: Which; the answers are in this order.
            answers: By label, the answers and their colour.
        """
        rows = [
            render_episode(
                episodes[index],
                [(label, given[row].box, colour) for label, (given, colour) in answers.items()],
            )
            for row, index in enumerate(indices)
        ]
        path = self.path / "samples" / f"{name}.png"
        legend = [("truth", TARGET_COLOUR), *((label, colour) for label, (_, colour) in answers.items())]
        Image.fromarray(stack_rows(rows, legend=legend)).save(path)
        return path

    def write_samples(self, iteration: int, groups: Sequence[RolloutGroup]) -> None:
        """Append the best and the worst answer of each group, the first thing to read when a run misbehaves."""
        with (self.path / "samples" / "rollouts.jsonl").open("a") as file:
            for group in groups:
                for which, position in (
                    ("best", int(group.rewards.argmax())),
                    ("worst", int(group.rewards.argmin())),
                ):
                    record = {
                        "iteration": iteration,
                        "episode": group.answers[position].episode_id,
                        "which": which,
                        "reward": float(group.rewards[position]),
                        "iou": group.answers[position].iou,
                        "status": group.answers[position].status,
                        "text": group.generation.completions[position].text,
                    }
                    file.write(json.dumps(record) + "\n")

    def finish(
        self,
        episodes: EpisodeDataset,
        indices: Sequence[int],
        before: Sequence[ScoredAnswer],
        after: Sequence[ScoredAnswer],
        **outcome: Any,
    ) -> dict[str, Any]:
        """Write the validation answers, the picture sheet and the summary.

        Args:
            episodes: The validation data.
            indices: Which of its episodes were answered.
            before: Answers before training, in the order of `indices`.
            after: Answers after it.
            outcome: What else the summary should hold.

        Returns:
            The summary: `compare_validation`, the paths `checkpoint` and `sheet`, and `outcome`.
        """
        self.write_answers("before", before)
        self.write_answers("after", after)
        shown = {"before": (before, BEFORE_COLOUR), "after": (after, AFTER_COLOUR)}
        summary = compare_validation(before, after) | {
            "checkpoint": str(self.checkpoints / "final"),
            "sheet": str(self.write_sheet("validation", episodes, indices[:NUM_SHEET_EPISODES], shown)),
            **outcome,
        }
        write_json(self.path / "summary.json", summary)
        return summary


def read_answer(record: Mapping[str, Any]) -> ScoredAnswer:
    """A scored answer back from a JSON object, which may hold more than that."""
    values = {field.name: record[field.name] for field in fields(ScoredAnswer)}
    boxes = {key: None if record[key] is None else Box(*record[key]) for key in ("box", "target_box")}
    return ScoredAnswer(**{**values, **boxes, "status": ParseStatus(record["status"])})
