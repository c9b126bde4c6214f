"""A GRPO run from its first iteration to its summary: `GRPO.train` with checkpoints, validation and display."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from rich.console import Console

from focus_agents.errors import CheckpointError, RunInterrupted, SamplingError
from focus_agents.grpo.algorithm import GRPO, ROLLOUTS, GRPOConfig
from focus_agents.grpo.learner import GRAD_NORM
from focus_agents.grpo.settings import GRPOSchedule
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.interruption import stop_requests
from focus_agents.runs.progress import progress_bar
from focus_env.metrics import ScoredAnswer, summarize
from focus_env.types import EpisodeDataset

CHECKPOINT_PREFIX = "iteration_"
SCRATCH_PREFIX = f".{CHECKPOINT_PREFIX}"


def train_grpo(
    config: GRPOConfig,
    schedule: GRPOSchedule,
    run: RunDirectory,
    validation_episodes: EpisodeDataset,
    *,
    is_resumed: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train, and write everything that `RunDirectory` describes.

    Args:
        config: RLlib's configuration, with the validation environment.
        schedule: When to validate and to checkpoint.
        run: Where to write.
        validation_episodes: The episodes of the validation environment, for pictures.
        is_resumed: Go on from the run's newest checkpoint.
        console: Where to show progress.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        RunInterrupted: If a signal asked to stop; the iteration that was going on is done and in a checkpoint.
        TrainingError: If the learners failed again and again.
        SamplingError: If there are no processes any more that sample; what was trained is in a checkpoint.
    """
    console = console or Console()
    started = time.perf_counter()
    indices = range(min(schedule.num_validation_episodes, len(validation_episodes)))
    with console.status("building runners and learners"):
        algorithm = config.build_algo()
    try:
        first = _restore(algorithm, run) if is_resumed else 0
        before = run.read_answers("before") if is_resumed else _validate(algorithm, indices, console)
        run.write_answers("before", before)
        console.print(f"before: {_describe(before)}")
        _iterate(algorithm, schedule, run, indices, first=first, console=console)
        after = _validate(algorithm, indices, console)
        algorithm.save_policy(run.checkpoints / "final")
    finally:
        algorithm.stop()
    return run.finish(
        validation_episodes,
        indices,
        before,
        after,
        num_iterations=config.num_iterations,
        seconds=time.perf_counter() - started,
    )


def _iterate(
    algorithm: GRPO,
    schedule: GRPOSchedule,
    run: RunDirectory,
    indices: Sequence[int],
    *,
    first: int,
    console: Console,
) -> None:
    """The training iterations, with a bar and a line for each."""

    def announce(name: str) -> None:
        console.print(f"{name}: stopping after this iteration; a second signal stops at once", style="yellow")

    num_iterations, done, saved = algorithm.config.num_iterations, first, first
    with progress_bar("GRPO", num_iterations, console) as move_to, stop_requests(announce) as stop:
        move_to(first)
        try:
            for iteration in range(first + 1, num_iterations + 1):
                started = time.perf_counter()
                result = algorithm.train()
                done = iteration
                metrics = _collect_metrics(
                    result, iteration, seconds=time.perf_counter() - started, config=algorithm.config
                )
                is_last = iteration == num_iterations
                try:
                    if schedule.validation_interval and iteration % schedule.validation_interval == 0 and not is_last:
                        metrics["validation_miou"] = summarize(algorithm.validate(indices))["miou_all"]
                finally:
                    run.log(metrics)
                    run.write_samples(iteration, algorithm.last_groups)
                console.print(_line(metrics), highlight=False, soft_wrap=True)
                move_to(iteration)
                is_due = schedule.checkpoint_interval and iteration % schedule.checkpoint_interval == 0
                if is_last or is_due or stop.received is not None:
                    _save(algorithm, run, iteration)
                    saved = iteration
                if stop.received is not None:
                    raise RunInterrupted(
                        f"stopped by {stop.received.name} after iteration {iteration} of {num_iterations}; "
                        f"go on with it by `resume` {run.path}",
                        signal_number=stop.received,
                    )
        except SamplingError as error:  # the learners are as they should be
            if done > saved:
                _save(algorithm, run, done)
            raise SamplingError(f"after iteration {done} of {num_iterations}: {error} {run.path}") from error


def _collect_metrics(
    result: Mapping[str, Any], iteration: int, *, seconds: float, config: GRPOConfig
) -> dict[str, float]:
    """Pick what `runs.metrics.METRICS` names out of RLlib's result."""
    learner, timers = result[LEARNER_RESULTS][DEFAULT_MODULE_ID], result[TIMERS]
    return {
        "iteration": iteration,
        **{name: float(value) for name, value in result[ROLLOUTS].items()},
        "loss": float(learner["total_loss"]),
        **{name: float(learner[name]) for name in ("kl", "clip_fraction", "entropy", "sampler_gap", "skipped_steps")},
        "grad_norm": float(learner[GRAD_NORM]),
        "lr": float(learner["lr"]),
        "seconds_sampling": float(timers[ENV_RUNNER_SAMPLING_TIMER]),
        "seconds_learning": float(timers[LEARNER_UPDATE_TIMER]),
        "seconds_syncing": float(timers[SYNCH_WORKER_WEIGHTS_TIMER]),
        "seconds": seconds,
        "groups_per_second": config.groups_per_iteration / seconds,
    }


def _line(metrics: Mapping[str, float]) -> str:
    """What a person reads of an iteration."""
    line = (
        f"{metrics['iteration']:>5.0f}  reward {metrics['reward']:.3f}  mIoU {metrics['miou']:.3f}  "
        f"parsed {metrics['parse_rate']:.0%}  "
    )
    for name, word in (("truncated_rate", "cut"), ("failed_rate", "failed")):
        if metrics[name] > 0:
            line += f"{word} {metrics[name]:.1%}  "
    line += (
        f"sampling {metrics['seconds_sampling']:.2f} s  learning {metrics['seconds_learning']:.2f} s  "
        f"{metrics['groups_per_second']:.1f} groups/s"
    )
    for name, what in (("skipped_episodes", "episodes"), ("skipped_steps", "steps so far")):
        if metrics[name] > 0:
            line += f"  skipped {metrics[name]:.0f} {what}"
    return line + (f"  validation mIoU {metrics['validation_miou']:.3f}" if "validation_miou" in metrics else "")


def _validate(algorithm: GRPO, indices: Sequence[int], console: Console) -> list[ScoredAnswer]:
    with console.status(f"validating on {len(indices)} episodes"):
        return algorithm.validate(indices)


def _describe(answers: Sequence[ScoredAnswer]) -> str:
    scores = summarize(answers)
    return f"validation mIoU {scores['miou_all']:.3f}, parsed {scores['parse_rate']:.0%} of {len(answers)} answers"


def _save(algorithm: GRPO, run: RunDirectory, iteration: int) -> None:
    """Write a checkpoint to go on from; one is whole or not there, and it replaces the one before."""
    scratch = run.checkpoints / f"{SCRATCH_PREFIX}{iteration:06d}"
    for folder in run.checkpoints.glob(f"{SCRATCH_PREFIX}*"):  # of a process that was killed
        shutil.rmtree(folder)
    algorithm.save_to_path(scratch.absolute())
    older = list(run.checkpoints.glob(f"{CHECKPOINT_PREFIX}*"))
    scratch.rename(run.checkpoints / f"{CHECKPOINT_PREFIX}{iteration:06d}")
    for folder in older:
        shutil.rmtree(folder)


def _restore(algorithm: GRPO, run: RunDirectory) -> int:
    """Load the newest checkpoint; returns the iterations that it has behind it.

    Raises:
        CheckpointError: If the run has none.
    """
    path = newest_checkpoint(run)
    algorithm.restore_from_path(path.absolute())
    iteration = int(path.name.removeprefix(CHECKPOINT_PREFIX))
    run.rewind(iteration, counter="iteration")
    return iteration


def newest_checkpoint(run: RunDirectory) -> Path:
    """The checkpoint that a resumed run goes on from.

    Raises:
        CheckpointError: If there is none.
    """
    checkpoints = sorted(run.checkpoints.glob(f"{CHECKPOINT_PREFIX}*"))
    if not checkpoints:
        raise CheckpointError(
            f"run {run.path}: expected a checkpoint in {run.checkpoints}, found none; start a new run"
        )
    return checkpoints[-1]
