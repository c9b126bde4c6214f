"""A supervised run as its driver sees it: checks, Ray Train around the workers, display, summary."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import ray.train
from annotated_types import Ge
from ray.train.torch import TorchTrainer
from rich.console import Console

from focus_agents.errors import CheckpointError, EpisodeError, TrainingError
from focus_agents.models.attention import select_layers
from focus_agents.models.loading import check_fit, load_config, load_processor
from focus_agents.monitoring.recorder import Recorder, Sink
from focus_agents.rollout.collect import describe_error, errors_of_no_episode
from focus_agents.runs.checkpoint import read_training_state
from focus_agents.runs.files import read_json_lines
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.progress import UnitWatch, progress_bar
from focus_agents.settings import Settings
from focus_agents.sft import notices
from focus_agents.sft.data import SFTExamples
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.worker import FAILURE_FILE, SCORE, SKIPPED_FILE, checkpoints_of, train_worker
from focus_env.errors import FocusError, StorageError

LINE_INTERVAL = 25
"""Steps between lines on the console."""
POLL_SECONDS = 0.5
SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
"""Ray Train's record of the checkpoints of earlier releases, which it wrote itself."""
NUM_CHECKED_EPISODES = 8


@dataclass(frozen=True, kw_only=True)
class Workers(Settings):
    """The processes that train."""

    num_workers: Annotated[int, Ge(0)] = 1
    """Ray Train workers, each a process; 0 trains in this process, for debugging."""
    use_gpu: bool = False
    """One GPU for each."""
    max_failures: Annotated[int, Ge(0)] = 2
    """So many times the workers are started again from the newest checkpoint after one has died."""


def check_plan(plan: SFTPlan, workers: Workers) -> None:
    """Find what can be wrong before Ray or a model starts: model and tokenizer, layers, prompts, shares.

    Raises:
        ValueError: If something does not fit; the message says what and what to do.
        CheckpointError: If the model or its tokenizer cannot be read, or they do not belong together.
        FocusError: If none of some episodes can be used.
    """
    if workers.num_workers > plan.config.batch_size:
        raise ValueError(
            f"num_workers: expected at most batch_size, {plan.config.batch_size}, so that each has an episode, "
            f"got {workers.num_workers}"
        )
    model_config = load_config(plan.model)
    processor = load_processor(plan.model, max_image_tokens=plan.max_image_tokens)
    check_fit(plan.model, model_config, processor)
    text_config = model_config.get_text_config()
    select_layers(plan.config.attention_layers, text_config.num_hidden_layers)
    examples = SFTExamples(
        plan.training_episodes,
        plan.template,
        processor,
        target=plan.config.attention_target,
        max_tokens=text_config.max_position_embeddings,
    )
    indices = np.linspace(0, len(examples) - 1, min(NUM_CHECKED_EPISODES, len(examples))).astype(int).tolist()
    errors: list[FocusError] = []
    for index in indices:
        try:
            examples[index]
        except errors_of_no_episode():
            raise
        except FocusError as error:
            errors.append(error)
        except Exception as error:
            errors.append(EpisodeError(describe_error(error, index, examples.episodes)))
    if len(errors) == len(indices) > 0:  # a few are replaced in training
        raise errors[0]


def train_sft(
    plan: SFTPlan, workers: Workers, *, console: Console | None = None, sinks: Sequence[Sink] = ()
) -> dict[str, Any]:
    """Train, and write everything that `RunDirectory` describes. A run that was interrupted goes on.

    Args:
        plan: What to train, checked by `check_plan`; its folder exists.
        workers: Who trains.
        console: Where to show progress.
        sinks: Where else to show what is measured; they are closed at the end.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        TrainingError: If the workers gave up, or died more often than allowed.
        CheckpointError: If there are checkpoints, and all of them are damaged.
        StorageError: If the outcome cannot be written; of a log or a checkpoint it is told only.
    """
    console = console or Console()
    run = RunDirectory(plan.run_path)
    started = time.perf_counter()
    (plan.run_path / FAILURE_FILE).unlink(missing_ok=True)
    notices.clear(plan.run_path)
    check_checkpoints(run, console)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"plan": plan},
        scaling_config=ray.train.ScalingConfig(num_workers=workers.num_workers, use_gpu=workers.use_gpu),
        run_config=ray.train.RunConfig(
            name=run.checkpoints.name,
            storage_path=str(plan.run_path.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
        ),
    )
    with _show_progress(run, plan.config.num_steps, console, sinks):
        try:
            trainer.fit()
        except (ray.train.TrainingFailedError, EpisodeError) as error:  # the latter in this process
            raise _failure(run) or TrainingError(_describe(error, run)) from error
    if (failure := _failure(run)) is not None:
        raise failure
    before, after = run.read_answers("before"), run.read_answers("after")
    steps = [run.num_done or 0, *(line["step"] for line in run.read_steps())]  # a full disk may have kept out either
    summary = run.finish(
        plan.validation_episodes,
        range(len(after)),
        before,
        after,
        num_steps=max(steps),
        seconds=time.perf_counter() - started,
    )
    checkpoints_of(run).prune(1)  # nothing is left to fall back from
    return summary


def check_checkpoints(run: RunDirectory, console: Console) -> None:
    """Tell of damaged checkpoints, and remove those that no run needs, before workers go on from the newest whole one.

    A record of them that Ray Train has written goes, too: one that a kill has cut would end the run.

    Raises:
        CheckpointError: If there are checkpoints, and all of them are damaged.
    """
    checkpoints = checkpoints_of(run)
    restored = checkpoints.restore(
        lambda folder: read_training_state(folder)[2],
        lambda message: console.print(f"warning: {message}", style="yellow", highlight=False, markup=False),
    )
    (run.checkpoints / SNAPSHOT_FILE).unlink(missing_ok=True)
    if restored is not None:
        step, progress = restored
        older = [path for path in checkpoints.newest_first() if checkpoints.number(path) < step]
        for path in older[1:]:
            if checkpoints.number(path) != progress.get("best_step"):
                shutil.rmtree(path)


def check_resumable(run: RunDirectory) -> None:
    """Check that an interrupted run has a checkpoint to go on from.

    Raises:
        CheckpointError: If it has none.
    """
    if not checkpoints_of(run).newest_first():
        raise CheckpointError(
            f"run {run.path}: expected a checkpoint in {run.checkpoints}, found none; start a new run"
        )


def _failure(run: RunDirectory) -> FocusError | None:
    """Why workers gave up, as they have said it; None if they have not."""
    file, told = run.path / FAILURE_FILE, notices.read(run.path)
    if notices.FULL in told:
        return StorageError(told[notices.FULL])
    if file.exists():
        return TrainingError(str(json.loads(file.read_text())["message"]))
    return TrainingError(told[notices.FAILURE]) if notices.FAILURE in told else None


def _describe(error: Exception, run: RunDirectory) -> str:
    """What a person needs of Ray's report: the first worker's own error."""
    failures = getattr(error, "worker_failures", {})
    cause = next(iter(failures.items()), (None, error))
    who = "Ray Train" if cause[0] is None else f"worker {cause[0]}"
    return f"{who} failed: {type(cause[1]).__name__}: {cause[1]}\ngo on from the last checkpoint by `resume` {run.path}"


@contextlib.contextmanager
def _show_progress(run: RunDirectory, num_steps: int, console: Console, sinks: Sequence[Sink]) -> Iterator[None]:
    """Follow `metrics.jsonl`, which a worker writes, by a bar, a line every few steps, and on every sink."""
    done, named, watch = threading.Event(), set[str](), UnitWatch(console)
    recorder = Recorder(run, console, sinks)
    pass_on = _each_once(recorder, run.num_done)
    with progress_bar("SFT", num_steps, console) as move_to:

        def follow() -> None:
            shown, pause, is_over = 0, POLL_SECONDS, False
            while not is_over:
                is_over = done.wait(pause)
                started = time.perf_counter()
                pass_on(metrics := run.read_metrics())
                lines = [line for line in metrics if line["step"]]
                pause = max(POLL_SECONDS, 20 * (time.perf_counter() - started))
                step = int(lines[-1]["step"]) if lines else 0
                shown = min(shown, step)  # a restart goes back
                move_to(step)
                if step > 0 and shown == 0:
                    with contextlib.suppress(CheckpointError):  # a full disk may have kept them out
                        watch.look(run.read_answers("before"))
                for notice in notices.read(run.path).keys() - {notices.FAILURE, notices.FULL, *named}:
                    console.print(notice, style="yellow", highlight=False, markup=False, soft_wrap=True)
                    named.add(notice)
                for reason in _skipped(run):
                    if reason not in named:
                        console.print(f"skipped: {reason}", style="yellow", highlight=False, markup=False)
                        named.add(reason)
                for end, line in enumerate(lines, start=1):
                    is_due = line["step"] % LINE_INTERVAL == 0 or line["step"] == num_steps
                    if line["step"] > shown and (is_due or line.get(SCORE) is not None):
                        window = lines[max(0, end - LINE_INTERVAL) : end]
                        console.print(_line(window), highlight=False, soft_wrap=True)
                shown = step

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
            recorder.close()


def _each_once(recorder: Recorder, num_done: int | None) -> Callable[[Sequence[dict[str, Any]]], None]:
    """Return what passes on lines that were not seen before; those that a restarted worker writes again, were.

    Args:
        recorder: Where to.
        num_done: Steps that an earlier process has passed on; None: not even the validation before training.
    """
    last = -1 if num_done is None else num_done

    def pass_on(lines: Sequence[dict[str, Any]]) -> None:
        nonlocal last
        for line in lines:
            if line["step"] > last:
                recorder.pass_on(line)
                last = line["step"]

    return pass_on


def _skipped(run: RunDirectory) -> list[str]:
    """Why episodes were left out so far, as the workers have written it."""
    return [line["reason"] for line in read_json_lines(run.path / SKIPPED_FILE)]


def _line(window: list[dict[str, Any]]) -> str:
    """What a person reads of a few steps: means over them."""
    last = window[-1]

    def mean(name: str) -> float:
        values = [line[name] for line in window if line.get(name) is not None]
        return float(np.mean(values)) if values else float("nan")

    line = f"{last['step']:>5}  LM loss {mean('lm_loss'):.3f}"
    if "attention_loss" in last:
        line += f"  attention loss {mean('attention_loss'):.3f}  S {mean('support_mass'):.2f}"
        line += f"  past margin {mean('past_margin'):.0%}"
    line += f"  {mean('examples_per_second'):.0f} examples/s"
    if last["skipped_steps"]:
        line += f"  skipped {last['skipped_steps']} steps"
    return line + (f"  validation mIoU {last[SCORE]:.3f}" if last.get(SCORE) is not None else "")
