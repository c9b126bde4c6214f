"""A supervised run as its driver sees it: checks, Ray Train around the workers, display, summary."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import ray.train
from annotated_types import Ge
from ray.train.torch import TorchTrainer
from rich.console import Console

from focus_agents.errors import CheckpointError, EpisodeError, TrainingError
from focus_agents.models.attention import measured_layers
from focus_agents.models.loading import check_form, check_model, load_config
from focus_agents.models.sharding import check_sharding
from focus_agents.monitoring.alarms import Watcher
from focus_agents.monitoring.album import ValidationAlbum
from focus_agents.monitoring.attention import keep_attention
from focus_agents.monitoring.curves import Facts
from focus_agents.monitoring.lines import show_validation
from focus_agents.monitoring.recorder import Recorder, Sink
from focus_agents.monitoring.report import ReportSink
from focus_agents.processes.names import naming_train
from focus_agents.processes.sealed import Sealed
from focus_agents.processes.torch_backend import local_torch_config
from focus_agents.rollout.collect import describe_error, errors_of_no_episode
from focus_agents.runs.checkpoint import read_training_state
from focus_agents.runs.folder import CONFIG_FILE, RunDirectory
from focus_agents.runs.starts import noting_a_stop
from focus_agents.runs.terminal import PlainConsole
from focus_agents.settings import Settings
from focus_agents.sft import notices
from focus_agents.sft.data import SFTExamples
from focus_agents.sft.following import Follower
from focus_agents.sft.heads import num_chosen_heads
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.restarts import RESTARTS_FILE, NoteRestarts
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.worker import FAILURE_FILE, checkpoints_of, train_worker
from focus_env.errors import FocusError, StorageError

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
    shard_weights: bool = False
    """Divide weights, gradients and optimizer among the workers, in place of a copy for each; of two or more."""
    max_failures: Annotated[int, Ge(0)] = 2
    """So many times the workers are started again from the newest checkpoint after one has died."""


def check_plan(plan: SFTPlan, workers: Workers) -> None:
    """Find what can be wrong before Ray or a model starts: model and tokenizer, layers, prompts, shares.

    Raises:
        ValueError: If something does not fit; the message says what and what to do.
        CheckpointError: If the model or its tokenizer cannot be read, or they do not belong together.
        MissingDependencyError: If torch is too old to divide weights.
        FocusError: If none of some episodes can be used.
    """
    if workers.num_workers > plan.config.batch_size:
        raise ValueError(
            f"num_workers: expected at most batch_size, {plan.config.batch_size}, so that each has an episode, "
            f"got {workers.num_workers}"
        )
    if workers.shard_weights:
        _check_shardable(plan.config, workers.num_workers)
    processor = check_model(plan.model, max_image_tokens=plan.pictures.training)
    check_form(plan.schedule.save, plan.model, lora_rank=plan.config.lora_rank, quantization=plan.config.quantization)
    model_config = load_config(plan.model)
    layers = measured_layers(plan.config.attention_layers, model_config)
    num_chosen_heads(plan.config.attention_heads, model_config, layers)
    examples = SFTExamples(
        plan.training_episodes,
        plan.template,
        processor,
        target=plan.config.attention_target,
        contrast=plan.config.attention_contrast,
        max_tokens=model_config.get_text_config().max_position_embeddings,
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


def _check_shardable(config: SFTConfig, num_workers: int) -> None:
    """Check that weights can be divided among workers."""
    check_sharding()
    if num_workers < 2:
        raise ValueError(
            f"num_workers: expected 2 or more with `shard_weights`, which divides weights among them, got {num_workers}"
        )
    if config.quantization != "none":
        raise ValueError(
            f"quantization: expected none with `shard_weights`, which does not divide packed weights, got "
            f"{config.quantization}; leave out one of the two"
        )
    if config.compile:
        raise ValueError(
            "compile: expected False with `shard_weights`, which gathers the weights of each layer before it runs, got "
            "True; leave out one of the two"
        )


def train_sft(
    plan: SFTPlan,
    workers: Workers,
    *,
    is_verbose: bool = False,
    console: Console | None = None,
    sinks: Sequence[Sink] = (),
) -> dict[str, Any]:
    """Train, and write everything that `RunDirectory` describes. A run that was interrupted goes on.

    Args:
        plan: What to train, checked by `check_plan`; its folder exists.
        workers: Who trains.
        is_verbose: Show the best and the worst answers of each validation.
        console: Where to show progress.
        sinks: Where else to show what is measured; they are closed at the end.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        TrainingError: If the workers gave up, or died more often than allowed.
        CheckpointError: If there are checkpoints, and all of them are damaged.
        StorageError: If the outcome cannot be written; of a log or a checkpoint it is told only.
    """
    console = console or PlainConsole()
    run = RunDirectory(plan.run_path)
    started = time.perf_counter()
    (plan.run_path / FAILURE_FILE).unlink(missing_ok=True)
    (plan.run_path / RESTARTS_FILE).unlink(missing_ok=True)
    notices.clear(plan.run_path)
    check_checkpoints(run, console)
    naming, controller_callback = naming_train(
        run.path.name, num_workers=workers.num_workers, at_restart=NoteRestarts(run.path)
    )
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"plan": Sealed(plan), "shard_weights": workers.shard_weights},
        torch_config=local_torch_config(),
        scaling_config=ray.train.ScalingConfig(num_workers=workers.num_workers, use_gpu=workers.use_gpu),
        run_config=ray.train.RunConfig(
            name=f"{run.path.name}/{run.checkpoints.name}",  # a folder, and on Ray's dashboard the training's name
            storage_path=str(run.path.absolute().parent),
            callbacks=[controller_callback],
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
        ),
    )
    report = ReportSink(run.path, validation=plan.validation_episodes)
    indices = range(min(plan.schedule.num_validation_episodes, len(plan.validation_episodes)))
    facts = Facts(plan.config.num_steps, "step", num_validation_episodes=len(indices))
    recorder = Recorder(run, console, [Watcher(run, console, facts), report, *sinks])
    album = ValidationAlbum(run, recorder, plan.validation_episodes, indices, counter="step")
    follower = Follower(run, plan.config.num_steps, console, recorder, album, is_verbose=is_verbose)
    with contextlib.closing(recorder), noting_a_stop(run.path / CONFIG_FILE):
        if workers.num_workers > 0 and not console.is_terminal:  # there is a bar on a terminal
            console.print("starting the workers ...", markup=False, highlight=False)
        with naming, follower.following():
            try:
                trainer.fit()
            except (ray.train.TrainingFailedError, EpisodeError) as error:  # the latter in this process
                raise _failure(run) or TrainingError(_describe(error, run)) from error
        if (failed := _failure(run)) is not None:
            raise failed
        before, after = run.read_answers("before"), run.read_answers("after")
        show_validation("after", after, console, is_verbose=is_verbose)
        # A full disk may have kept out a checkpoint, or lines.
        steps = [run.num_done or 0, *(line["step"] for line in run.read_steps())]
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
        run.rewind(step, counter="step")  # as the workers do, before anybody shows what came after
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
    """Return the reason why workers gave up, as they have said it; None if they have not."""
    file, told = run.path / FAILURE_FILE, notices.read(run.path)
    if notices.FULL in told:
        return StorageError(told[notices.FULL])
    if file.exists():
        return TrainingError(str(json.loads(file.read_text())["message"]))
    return TrainingError(told[notices.FAILURE]) if notices.FAILURE in told else None


def _describe(error: Exception, run: RunDirectory) -> str:
    """Return the part of Ray's report that a person needs: the first worker's own error."""
    failures = getattr(error, "worker_failures", {})
    cause = next(iter(failures.items()), (None, error))
    who = "Ray Train" if cause[0] is None else f"worker {cause[0]}"
    return f"{who} failed: {type(cause[1]).__name__}: {cause[1]}\ngo on from the last checkpoint by `resume` {run.path}"
