"""Training and answering: what has been done already, by these very settings, is not done again."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
import transformers

from focus_agents.errors import TrainingError
from focus_agents.evaluation import evaluate
from focus_agents.models.adapters import family_of
from focus_agents.models.loading import load_model, load_processor, load_template, model_folder, weights_digest
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.runs.files import read_json, write_json
from focus_agents.studies.ablation.arms import ARMS, BASE, COMMON, MAIN_SPLIT, SPLITS, Stage
from focus_agents.studies.study import Run, Study
from focus_env.datasets import load_dataset
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.env import ENV_ID
from focus_env.prompts import PSEUDO_NAMES, IPLocTemplate

EVALUATION_FILE = "evaluation.json"
MAX_COMPLETION_TOKENS = 16
BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class ArmRun(Run):
    """One arm with one seed; the variant is the arm's name.

    Attributes:
        model: The trained model.
        command: Arguments of the Python that trains it; empty for the base.
        parent: Folder of the run that it starts from; None for the base.
    """

    model: str
    command: tuple[str, ...] = ()
    parent: Path | None = None


@dataclass(frozen=True, kw_only=True)
class AblationStudy(Study):
    """The arms that are run, and for how long.

    Attributes:
        base: The pretrained model, by name or folder.
        arms: Names in `ARMS`; those that they start from are run too.
        num_sft_steps: Optimizer steps of stage 1.
        num_grpo_iterations: Iterations of stage 2.
        num_episodes: Episodes answered for each split and number of shots; see `cell_episodes`.
        jobs: Runs at a time.
        use_gpu: Whether runs train on a GPU.
    """

    base: str
    arms: tuple[str, ...]
    num_sft_steps: int
    num_grpo_iterations: int
    num_episodes: int
    jobs: int = 1
    use_gpu: bool = False

    def run(self, variant: str, seed: int) -> ArmRun:
        """Return the run of an arm with a seed.

        Raises:
            ValueError: If the base has no weights.
        """
        arm = ARMS[variant]
        if arm.stage is None:
            digest = weights_digest(self.base)
            if digest is None:
                raise ValueError(
                    f"base: expected a model with weights, got {self.base!r}; train one by `focus pretrain`"
                )
            return ArmRun(variant, seed, self.folder / f"{variant}-{digest[:8]}", self.base)
        parent = self.run(arm.parent, seed)
        flags = (*self._budget(arm.stage), *COMMON[arm.stage], *arm.flags, "--seed", str(seed))
        folder = self.run_folder(variant, seed, [arm.stage, flags, parent.folder.name])
        places = ("--init-from", model_folder(parent.model), "--name", folder.name, "--output-dir", str(self.folder))
        module = f"focus_agents.cli.{arm.stage}"
        command = ("-m", module, *_once(flags), *places, "--no-dashboard", *self._hardware(arm.stage))
        return ArmRun(variant, seed, folder, str(folder / "checkpoints" / "final"), command, parent.folder)

    def runs(self) -> list[ArmRun]:
        """Return all runs, each after the one that it starts from, without repetitions."""
        runs: dict[Path, ArmRun] = {}

        def add(arm: str, seed: int) -> None:
            if arm != BASE:
                add(ARMS[arm].parent, seed)
            run = self.run(arm, seed)
            runs.setdefault(run.folder, run)

        for seed in self.seeds:
            for arm in self.arms:
                add(arm, seed)
        return list(runs.values())

    def _budget(self, stage: Stage) -> tuple[str, ...]:
        """How long an arm trains: the same for all arms of a stage."""
        if stage == "sft":
            return ("--num-steps", str(self.num_sft_steps))
        return ("--num-iterations", str(self.num_grpo_iterations))

    def _hardware(self, stage: Stage) -> tuple[str, ...]:
        if not self.use_gpu:
            return ()
        return ("--use-gpu",) if stage == "sft" else ("--num-gpus-per-learner", "1")


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
    """Train a run if it is not trained, and answer what is not answered, with so many threads."""
    if run.command and not run.is_done:
        _train(run, num_threads)
    torch.set_num_threads(num_threads)
    transformers.utils.logging.disable_progress_bar()
    evaluate_run(study, run)


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


def evaluate_run(study: AblationStudy, run: ArmRun) -> None:
    """Answer the splits greedily, and keep the IoU of each answer."""
    missing = missing_cells(study, run)
    if not missing:
        return
    model = load_model(run.model)
    family_of(model).batch_pictures(model)
    policy = VLMPolicy(model.eval(), load_processor(run.model), precision="bf16")
    template = load_template(run.model)
    if isinstance(template, IPLocTemplate):  # half of its training had names that say nothing; no category is told here
        template = dataclasses.replace(template, object_name=PSEUDO_NAMES[0])
    run.folder.mkdir(exist_ok=True)
    file = run.folder / EVALUATION_FILE
    results = read_evaluation(run)
    for name, shots in missing:
        num_episodes = cell_episodes(study, name)
        dataset = split_episodes(name, shots, num_episodes)
        env = gymnasium.make(ENV_ID, dataset=dataset, template=template)
        answers = evaluate(
            env,
            policy,
            range(num_episodes),
            max_completion_tokens=MAX_COMPLETION_TOKENS,
            batch_size=BATCH_SIZE,
        )
        results[cell(name, shots)] = [round(answer.credit, 6) for answer in answers]
        write_json(file, results)


def missing_cells(study: AblationStudy, run: ArmRun) -> list[tuple[str, int]]:
    """The splits and numbers of shots that a run has not answered, or not often enough."""
    results = read_evaluation(run)
    return [
        (name, shots)
        for name, split in SPLITS.items()
        for shots in split.shots
        if name in (MAIN_SPLIT, "shuffled") or ARMS[run.variant].is_paper
        if len(results.get(cell(name, shots), ())) < cell_episodes(study, name)
    ]


def cell_episodes(study: AblationStudy, name: str) -> int:
    """How many episodes a cell of a split has: four times as many in the main one, where most claims rest."""
    return study.num_episodes * (4 if name == MAIN_SPLIT else 1)


def split_episodes(name: str, shots: int, num_episodes: int) -> Any:
    """The episodes of a split of `SPLITS`; with fewer shots, the same queries."""
    options: dict[str, Any] = {"level": 3, "distractors": "any", "image_size": 64}
    options |= {**SPLITS[name].options, "num_episodes": num_episodes}
    dataset = load_dataset("synthetic", shots=shots, **options)
    return ShuffledSupports(dataset) if SPLITS[name].is_shuffled else dataset


def cell(split: str, shots: int) -> str:
    """The key of a table's cell in `EVALUATION_FILE`."""
    return f"{split}/{shots}"


def read_evaluation(run: ArmRun) -> dict[str, list[float]]:
    """The IoU of each answer, by cell, as far as there are any."""
    file = run.folder / EVALUATION_FILE
    return read_json(file, "the IoU of each answer by cell") if file.exists() else {}
