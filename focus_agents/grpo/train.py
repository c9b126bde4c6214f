"""A GRPO run from its first iteration to its summary: `GRPO.train` with checkpoints, validation and display."""

from __future__ import annotations

import contextlib
import math
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
from focus_agents.grpo.selection import advantages_of
from focus_agents.grpo.settings import GRPOSchedule
from focus_agents.monitoring.alarms import Watcher
from focus_agents.monitoring.album import ValidationAlbum
from focus_agents.monitoring.attention import keep_attention
from focus_agents.monitoring.curves import Facts
from focus_agents.monitoring.lines import answers_table, scores_table, show, show_validation
from focus_agents.monitoring.recorder import Recorder, Sink
from focus_agents.monitoring.report import ReportSink
from focus_agents.runs.checkpoint import Checkpoints, check_finite
from focus_agents.runs.folder import CONFIG_FILE, RunDirectory
from focus_agents.runs.interruption import stop_requests
from focus_agents.runs.metrics import OF_ABSENCE
from focus_agents.runs.progress import Pace, UnitWatch, progress_bar
from focus_agents.runs.scores import validation_metrics
from focus_agents.runs.starts import noting_a_stop
from focus_agents.runs.terminal import PlainConsole, fitted, waiting, width_of
from focus_env.metrics import ScoredAnswer
from focus_env.types import EpisodeDataset

CHECKPOINT_PREFIX = "iteration_"
NUM_AT_A_STOP = 8
"""Validation episodes that are answered and drawn when a run is stopped, after its checkpoint."""
NUM_KEPT = 2
"""Checkpoints that stay while a run goes on, so that a damaged one does not end it."""


def train_grpo(
    config: GRPOConfig,
    schedule: GRPOSchedule,
    run: RunDirectory,
    validation_episodes: EpisodeDataset,
    *,
    is_resumed: bool = False,
    is_verbose: bool = False,
    console: Console | None = None,
    sinks: Sequence[Sink] = (),
) -> dict[str, Any]:
    """Train, and write everything that `RunDirectory` describes.

    Args:
        config: RLlib's configuration, with the validation environment.
        schedule: When to validate and to checkpoint.
        run: Where to write.
        validation_episodes: The episodes of the validation environment, for pictures.
        is_resumed: Go on from the run's newest checkpoint.
        is_verbose: Show the best and the worst answers of each iteration, and of each validation.
        console: Where to show progress.
        sinks: Where else to show what is measured; they are closed at the end.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        RunInterrupted: If a signal asked to stop; the iteration that was going on is done and in a checkpoint.
        TrainingError: If the learners failed again and again.
        CheckpointError: If no checkpoint to go on from can be read, or the weights are not finite any more.
        StorageError: If the outcome cannot be written; of a log or a checkpoint it is told only.
        SamplingError: If there are no processes any more that sample; what was trained is in a checkpoint.
    """
    console = console or PlainConsole()
    started = time.perf_counter()
    indices = range(min(schedule.num_validation_episodes, len(validation_episodes)))
    training_episodes = config.env_config.get("dataset")
    report = ReportSink(
        run.path,
        training=None if isinstance(training_episodes, str) else training_episodes,
        validation=validation_episodes,
    )
    watcher = Watcher(run, console, _facts(config, len(indices)))
    recorder = Recorder(run, console, [watcher, report, *sinks])
    album = ValidationAlbum(run, recorder, validation_episodes, indices, counter="iteration")
    config.run_folder = str(run.path.absolute())
    with waiting(console, "building runners and learners"):
        algorithm = config.build_algo()
    try:
        with noting_a_stop(run.path / CONFIG_FILE):
            first = _restore(algorithm, run, console) if is_resumed else 0
            if is_resumed:
                before = run.read_answers("before")
            else:
                before, metrics = _validate(algorithm, indices, console)
                recorder.answers("before", before)
                album.add(0, before)
                recorder.log({"iteration": 0, **metrics})
            if not is_resumed:  # those of a run that is gone on with were shown when they were had
                show_validation("before", before, console, is_verbose=is_verbose)
            watch = UnitWatch(console)
            watch.look(before)
            after = _iterate(
                algorithm, schedule, run, indices, first=first, console=console, watch=watch, recorder=recorder,
                album=album, is_verbose=is_verbose,
            )  # fmt: skip
            if after is None:  # an earlier process has taken the last iteration
                after, _ = _validate(algorithm, indices, console)
            algorithm.save_policy(run.checkpoints / "final", form=schedule.save)
            keep_attention(run, recorder, validation_episodes, config.num_iterations)
            summary = run.finish(
                validation_episodes,
                indices,
                before,
                after,
                num_iterations=config.num_iterations,
                seconds=time.perf_counter() - started,
            )
    finally:
        recorder.close()
        algorithm.stop()
    checkpoints_of(run).prune(1)  # nothing is left to fall back from
    return summary


def _iterate(
    algorithm: GRPO,
    schedule: GRPOSchedule,
    run: RunDirectory,
    indices: Sequence[int],
    *,
    first: int,
    console: Console,
    watch: UnitWatch,
    recorder: Recorder,
    album: ValidationAlbum,
    is_verbose: bool = False,
) -> list[ScoredAnswer] | None:
    """Run the training iterations, with a bar and a line for each; return the answers of the last validation."""

    def announce(name: str) -> None:
        console.print(f"{name}: stopping after this iteration; a second signal stops at once", style="yellow")

    num_iterations, done, saved = algorithm.config.num_iterations, first, first
    interval, answers, width = schedule.validation_interval, None, width_of(console)
    pace = Pace(first, num_iterations, console, from_first=True)
    bar = progress_bar("GRPO", num_iterations, console, first=first, pace=pace, has_lines=True)
    with bar as move_to, stop_requests(announce) as stop:
        try:
            for iteration in range(first + 1, num_iterations + 1):
                started = time.perf_counter()
                result = algorithm.train()
                done = iteration
                metrics = _collect_metrics(
                    result, iteration, seconds=time.perf_counter() - started, config=algorithm.config
                )
                is_last = iteration == num_iterations
                is_validated = is_last or (interval > 0 and iteration % interval == 0)
                try:
                    if is_validated:
                        answers, measured = _validate(algorithm, indices, console)
                        metrics |= measured
                    # First of all, since what follows may take its time.
                    show(console, _line(metrics, total=num_iterations, left=pace.left(iteration), width=width))
                    if is_validated:
                        album.add(iteration, answers or ())
                finally:
                    groups = algorithm.last_groups
                    recorder.samples(
                        iteration, groups, advantages_of(groups, algorithm.config.settings) if groups else None
                    )
                    recorder.log(metrics)
                if is_verbose:
                    show(console, answers_table(algorithm.last_groups, width=width))
                    show(console, scores_table(answers if is_validated and answers else (), width=width))
                watch.look([answer for group in algorithm.last_groups for answer in group.answers])
                move_to(iteration)
                is_due = schedule.checkpoint_interval and iteration % schedule.checkpoint_interval == 0
                if is_last or is_due or stop.received is not None:
                    _check_weights(algorithm, checkpoints_of(run).path(iteration))
                    if _try_to_save(algorithm, run, iteration, recorder):
                        saved = iteration
                if stop.received is not None:
                    if not is_validated:
                        with contextlib.suppress(SamplingError):  # the checkpoint is there, and stopping is what counts
                            album.add(iteration, algorithm.validate(indices[:NUM_AT_A_STOP]))
                    at = f"stopped by {stop.received.name} after iteration {iteration} of {num_iterations}"
                    raise RunInterrupted(f"{at}; {_how_to_go_on(run, iteration)}", signal_number=stop.received)
        except SamplingError as error:  # the learners are as they should be
            if done > saved:
                _check_weights(algorithm, checkpoints_of(run).path(done))
                _try_to_save(algorithm, run, done, recorder)
            raise SamplingError(f"after iteration {done} of {num_iterations}: {error} {run.path}") from error
    return answers


def _collect_metrics(
    result: Mapping[str, Any], iteration: int, *, seconds: float, config: GRPOConfig
) -> dict[str, float]:
    """Pick what `runs.metrics.METRICS` names out of RLlib's result."""
    learner, timers, rollouts = result[LEARNER_RESULTS][DEFAULT_MODULE_ID], result[TIMERS], result[ROLLOUTS]
    names = {"loss": "total_loss", "grad_norm": GRAD_NORM, "lr": "lr"}
    names |= {name: name for name in ("entropy", "sampler_gap", "skipped_steps")}
    if config.kl_coeff > 0:
        names |= {"kl": "kl"}
    if not config.settings.is_on_policy:
        names |= {"ratio": "ratio_mean", **{name: name for name in ("clip_fraction", "clip_low", "clip_high")}}
    num_tokens = float(rollouts["completion_tokens"]) * config.groups_per_iteration * config.group_size
    return {
        "iteration": iteration,
        # RLlib has nan for what this iteration has not logged and an earlier one has.
        **{name: float(value) for name, value in rollouts.items() if name not in OF_ABSENCE or math.isfinite(value)},
        **{name: float(learner[found]) for name, found in names.items()},
        "seconds_sampling": float(timers[ENV_RUNNER_SAMPLING_TIMER]),
        "seconds_learning": float(timers[LEARNER_UPDATE_TIMER]),
        "seconds_syncing": float(timers[SYNCH_WORKER_WEIGHTS_TIMER]),
        "seconds": seconds,
        "groups_per_second": config.groups_per_iteration / seconds,
        "tokens_per_second": num_tokens / seconds,
    }


def _line(metrics: Mapping[str, float], *, total: int | None = None, left: str = "", width: int | None = None) -> str:
    """Write the line of an iteration that a person reads, in columns; what is said now and then stands behind them.

    On a narrow terminal the columns of high rank are left out.
    """
    of = "" if total is None else f" of {total}"
    parts = [
        (0, f"{metrics['iteration']:>5.0f}{of}"),
        (2, f"  reward {metrics['reward']:.3f}"),
        (3, f"  mIoU {metrics['miou']:.3f}"),
        (5, f"  format {metrics['format_rate']:>4.0%}"),
        (6, f"  silent groups {metrics['zero_variance_rate']:>4.0%}"),
        (7, f"  parsed {metrics['parse_rate']:>4.0%}"),
        (9, f"  sampling {metrics['seconds_sampling']:>5.2f} s"),
        (10, f"  learning {metrics['seconds_learning']:>5.2f} s"),
        (8, f"  {metrics['groups_per_second']:>5.1f} groups/s"),
        (0, left),
    ]
    for name, word in (("truncated_rate", "cut"), ("failed_rate", "failed")):
        if metrics[name] > 0:
            parts.append((4, f"  {word} {metrics[name]:.1%}"))
    for name, what in (("skipped_episodes", "episodes"), ("skipped_steps", "steps so far")):
        if metrics[name] > 0:
            parts.append((4, f"  skipped {metrics[name]:.0f} {what}"))
    if "validation_miou" in metrics:
        parts.append((1, f"  validation mIoU {metrics['validation_miou']:.3f}"))
    return fitted(parts, width)


def _validate(algorithm: GRPO, indices: Sequence[int], console: Console) -> tuple[list[ScoredAnswer], dict[str, float]]:
    """Greedy answers by the weights of now, and what is logged of them."""
    started = time.perf_counter()
    with waiting(console, f"validating on {len(indices)} episodes", is_announced=False):
        answers = algorithm.validate(indices)
    return answers, {**validation_metrics(answers), "seconds_validating": time.perf_counter() - started}


def _facts(config: GRPOConfig, num_validation_episodes: int) -> Facts:
    """Return the facts of a run that warnings need beside its metrics."""
    return Facts(
        length=config.num_iterations,
        num_samplers=config.num_env_runners,
        num_learners=config.num_learners,
        is_async=config.async_steps > 0,
        num_validation_episodes=num_validation_episodes,
        num_groups=config.groups_per_iteration,
    )


def checkpoints_of(run: RunDirectory, *, num_kept: int = 1) -> Checkpoints:
    """Return the states that a run of GRPO can go on from."""
    return Checkpoints(run.checkpoints, CHECKPOINT_PREFIX, num_kept=num_kept)


def _check_weights(algorithm: GRPO, path: Path) -> None:
    """See that the weights are finite before they go into a checkpoint, which would replace a good one."""
    check_finite(algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID], what=f"checkpoint {path}")


def _save(algorithm: GRPO, run: RunDirectory, iteration: int, *, num_kept: int = 1) -> None:
    """Write a checkpoint to go on from; one is whole or not there, and it replaces those that are not kept."""
    with checkpoints_of(run, num_kept=num_kept).write(iteration) as folder:
        algorithm.save_to_path(folder.absolute())


def _try_to_save(algorithm: GRPO, run: RunDirectory, iteration: int, recorder: Recorder) -> bool:
    """Write a checkpoint; one that cannot be written is told, and the training goes on with the last one on the disk.

    Returns:
        Whether it was written.
    """
    return recorder.checkpoint(
        f"iteration {iteration}",
        lambda: _save(algorithm, run, iteration, num_kept=NUM_KEPT),
        kept=checkpoints_of(run).describe_kept(),
    )


def _how_to_go_on(run: RunDirectory, iteration: int) -> str:
    """Say how to go on with a run that stopped after an iteration, whether or not that is in a checkpoint."""
    if run.num_done == iteration:
        return f"go on with it by `resume` {run.path}"
    if run.num_done is None:
        return "nothing of it could be saved, so make room and start again"
    return f"iteration {run.num_done} is what could be saved; make room, then go on by `resume` {run.path}"


def _restore(algorithm: GRPO, run: RunDirectory, console: Console) -> int:
    """Load the newest checkpoint that is whole; returns the iterations that it has behind it.

    Raises:
        CheckpointError: If the run has none.
    """
    newest_checkpoint(run)
    restored = checkpoints_of(run).restore(
        lambda path: algorithm.restore_from_path(path.absolute()),
        lambda message: console.print(f"warning: {message}", style="yellow", highlight=False, markup=False),
    )
    assert restored is not None  # since there is one
    run.rewind(restored[0], counter="iteration")
    return restored[0]


def newest_checkpoint(run: RunDirectory) -> Path:
    """Return the checkpoint that a resumed run goes on from, if it is not damaged.

    Raises:
        CheckpointError: If there is none.
    """
    found = checkpoints_of(run).newest_first()
    if not found:
        raise CheckpointError(
            f"run {run.path}: expected a checkpoint in {run.checkpoints}, found none; start a new run"
        )
    return found[0]
