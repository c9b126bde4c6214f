"""Training: what has been done already, by these very settings, is not done again; runs share what they start from."""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from focus_agents.errors import TrainingError
from focus_agents.models.loading import model_folder, weights_digest
from focus_agents.studies.ablation.arms import ARMS, Stage
from focus_agents.studies.ablation.grid import Variant, in_plan_order
from focus_agents.studies.study import Run, Study


@dataclass(frozen=True, slots=True)
class ArmRun(Run):
    """One variant with one seed; `variant` is its text, as `Variant` writes it.

    Attributes:
        model: The trained model.
        command: Arguments of the Python that trains it; empty for a base.
        parent: Folder of the run that it starts from; None for a base.
    """

    model: str
    command: tuple[str, ...] = ()
    parent: Path | None = None


@dataclass(frozen=True, kw_only=True)
class AblationStudy(Study):
    """The variants that are run, and for how long.

    Attributes:
        bases: By name in `BASES`, the pretrained models, each by name or folder.
        variants: What is run; those that they start from are run too.
        num_sft_steps: Optimizer steps of stage 1, of which a kind of scenes takes its share.
        num_grpo_iterations: Iterations of GRPO.
        num_episodes: Episodes answered for each split and number of shots; see `answers.cell_episodes`.
        num_probe_episodes: Of the linear probe of each base.
        jobs: Runs at a time.
        use_gpu: Whether runs train on a GPU.
    """

    bases: Mapping[str, str]
    variants: tuple[Variant, ...]
    num_sft_steps: int
    num_grpo_iterations: int
    num_episodes: int
    num_probe_episodes: int = 1500
    jobs: int = 1
    use_gpu: bool = False

    def run(self, variant: str | Variant, seed: int) -> ArmRun:
        """Return the run of a variant with a seed.

        Raises:
            ValueError: If there is no such variant, or its base has no weights.
        """
        found = Variant.parse(str(variant))
        stage = ARMS[found.arm].stage
        if stage is None or found.parent is None:
            model = self.bases[found.base]
            digest = _digest(model)
            if digest is None:
                raise ValueError(f"base: expected a model with weights, got {model!r}; train one by `focus pretrain`")
            return ArmRun(str(found), seed, self.folder / f"{_slug(found)}-{digest[:8]}", model)
        parent = self.run(found.parent, seed)
        flags = (*found.flags(self.num_sft_steps, self.num_grpo_iterations), "--seed", str(seed))
        folder = self.run_folder(str(found), seed, [stage, flags, parent.folder.name])
        places = ("--init-from", model_folder(parent.model), "--name", folder.name, "--output-dir", str(self.folder))
        command = ("-m", f"focus_agents.cli.{stage}", *_once(flags), *places, "--no-dashboard", *self._hardware(stage))
        return ArmRun(str(found), seed, folder, str(folder / "checkpoints" / "final"), command, parent.folder)

    def runs(self) -> list[ArmRun]:
        """Return all runs, each after the one that it starts from, without repetitions."""
        runs: dict[Path, ArmRun] = {}
        for seed in self.seeds:
            for variant in self.variants:
                if seed in variant.seeds(self.seeds):
                    for needed in variant.lineage:
                        run = self.run(needed, seed)
                        runs.setdefault(run.folder, run)
        return list(runs.values())

    @property
    def all_variants(self) -> list[Variant]:
        """What is run, those that others start from among them, in the order of the plan."""
        return list(in_plan_order([needed for variant in self.variants for needed in variant.lineage]))

    def _hardware(self, stage: Stage) -> tuple[str, ...]:
        if not self.use_gpu:
            return ()
        return ("--use-gpu",) if stage == "sft" else ("--num-gpus-per-learner", "1")


@functools.lru_cache
def _digest(model: str) -> str | None:
    """Of a base; a study asks for it hundreds of times."""
    return weights_digest(model)


def _slug(variant: Variant) -> str:
    return "-".join(variant)


def _once(flags: Sequence[str]) -> Iterator[str]:
    """Yield flags with their values, each once with its last values, as commands take them.

    An arm's own flags stand behind those that all arms of its stage share.
    """
    values: dict[str, list[str]] = {}
    for word in flags:
        if word.startswith("--"):
            values[flag := word] = []
        else:
            values[flag].append(word)
    for flag, words in values.items():
        yield from (flag, *words)


def run_arms(study: AblationStudy, on_done: Callable[[ArmRun], None]) -> None:
    """Train and evaluate all runs, `jobs` at a time; one that fails does not stop those that do not need it.

    Args:
        study: What to run.
        on_done: Called after each run, for progress.

    Raises:
        TrainingError: At the end, if runs failed; it names them and their logs.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    waiting = study.runs()
    done: set[Path] = set()
    failed: dict[Path, str] = {}
    running: dict[Future[None], ArmRun] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(study.jobs, mp_context=context) as pool:
        while waiting or running:
            for run in list(waiting):
                if run.parent in failed:
                    failed[run.folder] = f"{run.folder.name}: what it starts from failed"
                    waiting.remove(run)
                elif run.parent is None or run.parent in done:
                    running[pool.submit(complete, study, run)] = run
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


def complete(study: AblationStudy, run: ArmRun) -> None:
    """Train a run if it is not trained, and answer what is not answered; of a base, probe it."""
    from focus_agents.studies.ablation.answers import evaluate_run, probe_base

    num_threads = max(1, (os.cpu_count() or 1) // study.jobs)
    if run.command and not run.is_done:
        _train(run, num_threads)
    torch.set_num_threads(num_threads)
    transformers.utils.logging.disable_progress_bar()
    evaluate_run(study, run)
    probe_base(study, run)


def _train(run: ArmRun, num_threads: int) -> None:
    """Train from the start, or from the checkpoint that a killed run has left."""
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
