"""A supervised run as its driver sees it: checks, Ray Train around the workers, display, summary."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
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
from focus_agents.monitoring.album import ValidationAlbum
from focus_agents.monitoring.attention import keep_attention
from focus_agents.monitoring.recorder import Recorder
from focus_agents.monitoring.report import ReportSink
from focus_agents.rollout.collect import describe_error, errors_of_no_episode
from focus_agents.runs.checkpoint import read_training_state
from focus_agents.runs.files import read_json_lines
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.progress import UnitWatch, progress_bar
from focus_agents.settings import Settings
from focus_agents.sft.data import SFTExamples
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.worker import FAILURE_FILE, SCORE, SKIPPED_FILE, checkpoints_of, train_worker
from focus_env.errors import FocusError

LINE_INTERVAL = 25
"""Steps between lines on the console."""
POLL_SECONDS = 0.5
NUM_BEST = 2
"""So many of the best checkpoints, of equally good ones the newest, are kept by Ray Train, and always the last one."""
SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
"""Ray Train's record of them."""
NUM_CHECKED_EPISODES = 8


@dataclass(frozen=True, kw_only=True)
class Workers(Settings):
    """The processes that train."""

    num_workers: Annotated[int, Ge(0)] = 1
    """Ray Train workers, each a process; 0 trains in this process, without checkpoints to go on from: for debugging."""
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


def train_sft(plan: SFTPlan, workers: Workers, *, console: Console | None = None) -> dict[str, Any]:
    """Train, and write everything that `RunDirectory` describes. A run that was interrupted goes on.

    Args:
        plan: What to train, checked by `check_plan`; its folder exists.
        workers: Who trains.
        console: Where to show progress.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        TrainingError: If the workers gave up, or died more often than allowed.
        CheckpointError: If there are checkpoints, and all of them are damaged.
        StorageError: If something cannot be written.
    """
    console = console or Console()
    run = RunDirectory(plan.run_path)
    started = time.perf_counter()
    failure = plan.run_path / FAILURE_FILE
    failure.unlink(missing_ok=True)
    check_checkpoints(run, console)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"plan": plan},
        scaling_config=ray.train.ScalingConfig(num_workers=workers.num_workers, use_gpu=workers.use_gpu),
        run_config=ray.train.RunConfig(
            name=run.checkpoints.name,
            storage_path=str(plan.run_path.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=NUM_BEST, checkpoint_score_attribute=SCORE),
        ),
    )
    report = ReportSink(run.path, validation=plan.validation_episodes)
    recorder = Recorder(run, console, [report])
    indices = range(min(plan.schedule.num_validation_episodes, len(plan.validation_episodes)))
    album = ValidationAlbum(run, recorder, plan.validation_episodes, indices, counter="step")
    with contextlib.closing(recorder):
        with _show_progress(run, plan.config.num_steps, console, recorder, album):
            try:
                trainer.fit()
            except (ray.train.TrainingFailedError, EpisodeError) as error:  # the latter in this process
                if failure.exists():
                    raise TrainingError(json.loads(failure.read_text())["message"]) from error
                raise TrainingError(_describe(error, run)) from error
        if failure.exists():
            raise TrainingError(json.loads(failure.read_text())["message"])
        before, after = run.read_answers("before"), run.read_answers("after")
        steps = [line["step"] for line in run.read_steps()]
        keep_attention(run, recorder, plan.validation_episodes, max(steps))
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

    Ray Train's record of them goes, too: workers do not need it, and one that a kill has cut would end the run.

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


def _describe(error: Exception, run: RunDirectory) -> str:
    """What a person needs of Ray's report: the first worker's own error."""
    failures = getattr(error, "worker_failures", {})
    cause = next(iter(failures.items()), (None, error))
    who = "Ray Train" if cause[0] is None else f"worker {cause[0]}"
    return f"{who} failed: {type(cause[1]).__name__}: {cause[1]}\ngo on from the last checkpoint by `resume` {run.path}"


@contextlib.contextmanager
def _show_progress(
    run: RunDirectory, num_steps: int, console: Console, recorder: Recorder, album: ValidationAlbum
) -> Iterator[None]:
    """Follow `metrics.jsonl`, which a worker writes, by a bar and a line every few steps."""
    done, named, watch = threading.Event(), set[str](), UnitWatch(console)
    with progress_bar("SFT", num_steps, console) as move_to:

        def follow() -> None:
            shown, pause, is_over = 0, POLL_SECONDS, False
            while not is_over:
                is_over = done.wait(pause)
                started = time.perf_counter()
                lines = run.read_steps()
                pause = max(POLL_SECONDS, 20 * (time.perf_counter() - started))
                step = int(lines[-1]["step"]) if lines else 0
                shown = min(shown, step)  # a restart goes back
                move_to(step)
                album.draw_new()
                if step > shown:
                    recorder.pass_on(lines[-1])
                if step > 0 and shown == 0:  # the answers before training are there
                    watch.look(run.read_answers("before"))
                for reason in _skipped(run):
                    if reason not in named:
                        console.print(f"skipped: {reason}", style="yellow", highlight=False, markup=False)
                        named.add(reason)
                for end in range(shown + 1, step + 1):
                    if end % LINE_INTERVAL == 0 or end == num_steps or lines[end - 1].get(SCORE) is not None:
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
