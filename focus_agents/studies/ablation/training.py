"""Train and answer the runs of a study; runs that are done with the same settings are not repeated."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import torch
import transformers

from focus_agents.errors import TrainingError
from focus_agents.studies.ablation.answers import evaluate_run, probe_base
from focus_agents.studies.ablation.runs import AblationStudy, ArmRun


def run_arms(study: AblationStudy, on_done: Callable[[ArmRun], None]) -> None:
    """Train and evaluate all runs, `jobs` at a time; a failed run stops only the runs that need its model.

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
    with ProcessPoolExecutor(study.jobs, mp_context=context) as pool:
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


def complete(study: AblationStudy, run: ArmRun, num_threads: int) -> None:
    """Train a run by `num_threads` threads if it is not trained, and answer its missing cells; probe a base."""
    if run.command and not run.is_done:
        _train(run, num_threads)
    torch.set_num_threads(num_threads)
    transformers.utils.logging.disable_progress_bar()
    evaluate_run(study, run)
    probe_base(study, run)


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
        outcome = subprocess.run(
            [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if outcome.returncode:
        raise TrainingError(f"exit code {outcome.returncode}, see {log}")
