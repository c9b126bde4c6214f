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

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from focus_agents.types import RolloutGroup
from focus_env.errors import CheckpointError
from focus_env.metrics import ScoredAnswer, bootstrap_interval, paired_bootstrap_interval, summarize
from focus_env.rendering import ANSWER_COLOUR, TARGET_COLOUR, Colour, render_episode, stack_rows
from focus_env.types import Box, EpisodeDataset, ParseStatus

BEFORE_COLOUR: Colour = (230, 140, 0)
AFTER_COLOUR = ANSWER_COLOUR
NUM_SHEET_EPISODES = 8

METRICS: Mapping[str, str] = {
    "iteration": "training iterations done (GRPO)",
    "step": "optimizer steps done (SFT)",
    "reward": "mean reward of the sampled answers",
    "miou": "mean IoU of the sampled answers, 0 where no box could be read",
    "parse_rate": "share of sampled answers from which an answer could be read",
    "format_rate": "share of sampled answers in the exact format",
    "zero_variance_rate": "share of groups whose answers all earn exactly the same, and so teach nothing",
    "completion_tokens": "mean tokens of a sampled answer",
    "truncated_rate": "share of sampled answers cut at max_completion_tokens",
    "loss": "loss of the last optimizer step",
    "lm_loss": "mean negative log-likelihood of the labelled tokens, in nats (SFT)",
    "box_iou": "mean IoU of answered boxes, each token given the truth before it (pretraining)",
    "name_accuracy": "share of right words in names, each given the truth before it (pretraining)",
    "attention_loss": "attention loss before its weight, in the squared units of its margin (SFT)",
    "support_mass": "mean S: share of a query-image token's attention on all support tokens (SFT; /n: layer n)",
    "support_delta": "mean delta: attention to a support token less that to another token (SFT; /n: layer n)",
    "past_margin": "share of query-image tokens whose delta has reached the margin (SFT; /n: layer n)",
    "skipped_steps": "steps so far whose loss or gradient was not finite, and that changed nothing (SFT)",
    "kl": "mean estimate of KL(policy || reference) per token, by kl_estimator; 0 where kl_coeff is 0",
    "clip_fraction": "share of tokens whose probability ratio was clipped",
    "sampler_gap": "mean difference in nats of a token's log-probability between learner and sampler; grows with the "
    "steps of an iteration",
    "entropy": "mean entropy of the next-token distribution, in nats",
    "grad_norm": "global norm of the gradient before clipping",
    "lr": "learning rate",
    "seconds_sampling": "seconds for sampling and scoring the groups; with async_steps, for what is left to wait for",
    "seconds_learning": "seconds for the optimizer steps",
    "seconds_syncing": "seconds for handing the new weights to the runners, as far as they have to be waited for",
    "seconds": "seconds of the iteration or step",
    "examples_per_second": "supervised examples trained on per second",
    "groups_per_second": "groups sampled and learned from per second",
    "validation_miou": "mean IoU of greedy answers on the validation episodes, 0 where no box could be read",
}


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Means over the sampled answers of an iteration; names as in `METRICS`."""
    answers = [answer for group in groups for answer in group.answers]
    completions = [completion for group in groups for completion in group.generation.completions]
    scores = summarize(answers)
    return {
        "reward": float(np.mean([group.rewards.mean() for group in groups])),
        "miou": scores["miou_all"],
        "parse_rate": scores["parse_rate"],
        "format_rate": scores["format_rate"],
        "zero_variance_rate": float(np.mean([np.ptp(group.rewards) == 0 for group in groups])),
        "completion_tokens": float(np.mean([len(completion.token_ids) for completion in completions])),
        "truncated_rate": float(np.mean([not completion.is_finished for completion in completions])),
    }


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
        """Start a new run; an existing one is never written over."""
        if (path / "config.json").exists():
            raise FileExistsError(
                f"run folder {path} holds a run already; choose another --name, or go on with it by --resume {path}"
            )
        for name in ("samples", "checkpoints", "validation"):
            (path / name).mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", config)
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    def config(self) -> dict[str, Any]:
        """The arguments with which the run was started.

        Raises:
            CheckpointError: If the folder is not a run's.
        """
        try:
            config: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"run {self.path}: expected a run's folder with config.json ({error})") from error
        return config

    def log(self, metrics: Mapping[str, float | None]) -> None:
        """Append the metrics of one iteration or step; a name may end in `/<layer>`.

        Raises:
            ValueError: If a name is not in `METRICS`.
        """
        if unknown := sorted({name.partition("/")[0] for name in metrics} - set(METRICS)):
            raise ValueError(f"metrics: expected names from reporting.METRICS, got {unknown}; declare them there")
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


@contextlib.contextmanager
def progress_bar(label: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A bar at the bottom of the terminal, while lines are printed above it; yields what moves it to a number done."""
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def runs_progress(total: int, num_done: int, console: Console) -> Iterator[Callable[[Path], None]]:
    """A bar over whole runs; what it yields takes the folder of one that is done, and prints it with the time."""
    started = time.perf_counter()
    done = itertools.count(num_done + 1)
    with progress_bar("runs", total, console) as move_to:
        move_to(num_done)

        def on_done(folder: Path) -> None:
            move_to(next(done))
            console.print(f"{time.perf_counter() - started:>7.0f} s  {folder.name}", highlight=False)

        yield on_done


def compare_validation(before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """Scores before and after training on the same episodes, with 95% bootstrap intervals.

    Returns:
        `miou_start`, `miou_end`, `miou_gain` (paired by episode), each with `<name>_interval`, and
        `parse_rate_start`, `parse_rate_end`, `num_validation_episodes`.
    """
    start, end = np.array([a.credit for a in before]), np.array([a.credit for a in after])
    return {
        "miou_start": float(start.mean()),
        "miou_start_interval": bootstrap_interval(start),
        "miou_end": float(end.mean()),
        "miou_end_interval": bootstrap_interval(end),
        "miou_gain": float((end - start).mean()),
        "miou_gain_interval": paired_bootstrap_interval(start, end),
        "parse_rate_start": summarize(before)["parse_rate"],
        "parse_rate_end": summarize(after)["parse_rate"],
        "num_validation_episodes": len(before),
    }


def read_answer(record: Mapping[str, Any]) -> ScoredAnswer:
    """A scored answer back from a JSON object, which may hold more than that."""
    values = {field.name: record[field.name] for field in fields(ScoredAnswer)}
    boxes = {key: None if record[key] is None else Box(*record[key]) for key in ("box", "target_box")}
    return ScoredAnswer(**{**values, **boxes, "status": ParseStatus(record["status"])})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file at once; what JSON does not know becomes text."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file at once, so that a kill leaves the old one or the new one."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text)
    scratch.replace(path)
