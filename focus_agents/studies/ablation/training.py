"""Train and answer the runs of a study; runs that are done with the same settings are not repeated."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from types import FrameType

import torch
import transformers

from focus_agents.errors import TrainingError
from focus_agents.studies.ablation.answers import evaluate_run, probe_base
from focus_agents.studies.ablation.runs import AblationStudy, ArmRun


def run_arms(study: AblationStudy, on_done: Callable[[ArmRun], None]) -> None:
    """Train and evaluate all runs, `jobs` at a time; a failed run stops only the runs that need its model.

    An exception that ends the call, such as Ctrl-C, ends the trainings that are going on, each with a checkpoint.

    Args:
        study: The study to run.
        on_done: Called after each run, for progress.

    Raises:
        TrainingError: At the end, if runs failed; the message names them and their logs.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    waiting = study.runs()
    done: set[Path] = set()
    failed: dict[Path, str] = {}
    running: dict[Future[None], ArmRun] = {}
    context = multiprocessing.get_context("spawn")
    num_threads = max(1, torch.get_num_threads() // study.jobs)  # a user's own number is torch's, too
    with ProcessPoolExecutor(study.jobs, mp_context=context) as pool, _stopping(pool):
        while waiting or running:
            for run in list(waiting):
                if run.parent in failed:
                    failed[run.folder] = f"{run.folder.name}: what it starts from failed"
                    waiting.remove(run)
                elif run.parent is None or run.parent in done:
                    running[pool.submit(complete, study, run, num_threads)] = run
                    waiting.remove(run)
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                run = running.pop(future)
                if error := future.exception():
                    failed[run.folder] = f"{run.folder.name}: {error}"
                else:
                    done.add(run.folder)
                    on_done(run)
    if failed:
        raise TrainingError("\n".join(failed.values()))


@contextlib.contextmanager
def _stopping(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Stop the processes of a pool, and begin nothing more, where an exception leaves the block."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise


class _StoppedError(BaseException):
    """SIGTERM."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _StoppedError


def complete(study: AblationStudy, run: ArmRun, num_threads: int) -> None:
    """Train a run by `num_threads` threads if it is not trained, and answer its missing cells; probe a base.

    To be called in a process of a pool, which a signal ends.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        if run.command and not run.is_done:
            _train(run, num_threads)
        torch.set_num_threads(num_threads)
        transformers.utils.logging.disable_progress_bar()
        evaluate_run(study, run)
        probe_base(study, run)
    except (_StoppedError, KeyboardInterrupt):
        os._exit(1)  # the pool would have this process go on with the next run
    signal.signal(signal.SIGTERM, before)


def _train(run: ArmRun, num_threads: int) -> None:
    """Train a run from its start, or from the checkpoint that a killed run has left."""
    command: Sequence[str] = run.command
    if run.has_checkpoint:
        command = (*run.command[:2], "--resume", str(run.folder), "--no-dashboard")
    else:
        shutil.rmtree(run.folder, ignore_errors=True)
    log = run.folder.with_suffix(".log")
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
    with log.open("a") as file:
        training = subprocess.Popen([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            training.wait()
        except (_StoppedError, KeyboardInterrupt) as stop:
            for number in (signal.SIGINT, signal.SIGTERM):  # a second signal would cost the checkpoint
                signal.signal(number, signal.SIG_IGN)
            if isinstance(stop, _StoppedError):  # Ctrl-C reaches the training by itself
                training.terminate()
            training.wait()
            raise
    if training.returncode:
        raise TrainingError(f"exit code {training.returncode}, see {log}")
