"""Run GRPO for each reward and seed, as trials of Ray Tune; finished runs are not repeated."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ray import tune
from rich.console import Console

from focus_agents.errors import TrainingError
from focus_agents.grpo.plan import GRPOPlan
from focus_agents.grpo.train import train_grpo
from focus_agents.monitoring.ray_metrics import RayMetrics
from focus_agents.monitoring.recorder import Sink
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.lock import hold_folder
from focus_agents.runs.provenance import sources_of_users
from focus_agents.runs.terminal import PlainConsole
from focus_agents.studies.study import Run, Study
from focus_env.rewards.weighted import WeightedReward

START = "start"
"""Name of the model before training in the report."""
LOG_FILE = "log.txt"
"""File in the folder of a run with the output that a single run would print."""
STOPPED = "stopped before their end; the same command goes on with them"


def no_places(run: RunDirectory, console: Console) -> Sequence[Sink]:
    """Return none."""
    return ()


@dataclass(frozen=True, kw_only=True)
class RewardStudy(Study):
    """Rewards that are compared by the policies that they train; the variants are their names in the report.

    Attributes:
        rewards: Specs for `WeightedReward.from_spec`, by name.
        plan: Start and budget, the same for all runs except for the reward and the seed.
        arguments: The plan as plain values by name, for the digest of a run and for its config.json.
        cpus_per_run: CPU cores of a run.
        gpus_per_run: GPUs of a run, fractions allowed.
        open_places: Opens further places that show a run under way, beside its report and Ray's endpoint. Called in the
            process of the run, before the run starts or continues, with the run's folder.
    """

    rewards: Mapping[str, str]
    plan: GRPOPlan
    arguments: Mapping[str, Any]
    cpus_per_run: int = 1
    gpus_per_run: float = 0.0
    open_places: Callable[[RunDirectory, Console], Sequence[Sink]] = no_places

    def run(self, variant: str, seed: int) -> Run:
        """Return the run of a reward with a seed; your own reward with changed source code is another run."""
        decides: list[Any] = [self.rewards[variant], seed, dict(self.arguments)]
        with contextlib.suppress(ValueError):  # of a reward that is none; the run itself says so
            if sources := sources_of_users([WeightedReward.from_spec(self.rewards[variant])]):
                decides.append(sources)
        return Run(variant, seed, self.run_folder(variant, seed, decides))

    def runs(self) -> list[Run]:
        """Return all runs, seed by seed."""
        return [self.run(name, seed) for seed in self.seeds for name in self.rewards]

    @property
    def objects(self) -> tuple[Any, ...]:
        """The objects that may be a user's own code, for `provenance`."""
        return (*self.plan.objects, *map(WeightedReward.from_spec, self.rewards.values()))

    def plan_of(self, run: Run) -> GRPOPlan:
        """Return all that decides a run."""
        return dataclasses.replace(self.plan, reward=WeightedReward.from_spec(self.rewards[run.variant]), seed=run.seed)


def check_rewards(study: RewardStudy) -> None:
    """Check rewards, seeds and settings before training.

    Raises:
        ValueError: If a reward, a seed or a setting is wrong.
        CheckpointError: If there is no such model.
    """
    if len(study.rewards) < 2:
        raise ValueError(f"rewards: expected two or more different ones to compare, got {list(study.rewards)}")
    if START in study.rewards:
        raise ValueError(f"rewards: expected another name than {START!r}, the model before training in the report")
    for (first, one), (second, other) in itertools.combinations(study.rewards.items(), 2):
        if _weights(one) == _weights(other):
            raise ValueError(
                f"rewards: expected different ones to compare, got {first!r} and {second!r}, the same reward"
            )
    study.check_seeds()
    for run in study.runs():
        study.plan_of(run).config().validate()


def _weights(spec: str) -> dict[str, float]:
    """Return the terms with a weight other than 0, whatever their order."""
    terms = WeightedReward.from_spec(spec).terms.items()
    return {name: weight for name, (_, weight) in terms if weight != 0}


def run_trials(study: RewardStudy, on_done: Callable[[Run], None]) -> None:
    """Train all runs that are not done, as many at once as fit into Ray, which is already running.

    A failed run does not stop the others. An interrupted run continues from its checkpoint.

    Args:
        study: The study to run.
        on_done: Called after each run, for progress.

    Raises:
        TrainingError: At the end, if runs failed; the message names them and the first error.
    """
    runs = {str(run.folder): run for run in study.runs() if not run.is_done}
    if not runs:
        return
    resources = {"cpu": study.cpus_per_run, "gpu": study.gpus_per_run}
    trainable = tune.with_resources(tune.with_parameters(train_run, study=study), resources)
    tuner = tune.Tuner(
        trainable,
        param_space={"run": tune.grid_search([[run.variant, run.seed] for run in runs.values()])},
        tune_config=tune.TuneConfig(trial_dirname_creator=lambda trial: trial.trial_id),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(study.folder),
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
            callbacks=[_Progress(study, on_done)],
        ),
    )
    results = tuner.fit()
    if unfinished := [run for run in runs.values() if not run.is_done]:
        # An error that has come through Ray ends with the line that counts.
        reasons = [str(error).strip().splitlines()[-1] for error in results.errors]
        names = ", ".join(f"{run.variant} seed {run.seed}" for run in unfinished)
        raise TrainingError(
            f"{len(unfinished)} of {len(runs)} runs did not finish ({names}): {(reasons or [STOPPED])[0]}"
        )


class _Progress(tune.Callback):
    """Reports finished runs."""

    def __init__(self, study: RewardStudy, on_done: Callable[[Run], None]) -> None:
        self._study, self._on_done = study, on_done

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps its callbacks on disk, where a console cannot go, and does not restore this one."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        name, seed = trial.config["run"]
        self._on_done(self._study.run(name, seed))


def train_run(config: dict[str, Any], *, study: RewardStudy) -> None:
    """Do the work of one trial: a GRPO run in this process, from its start or its newest checkpoint."""
    name, seed = config["run"]
    run = study.run(name, seed)
    torch.set_num_threads(study.cpus_per_run)
    plan = study.plan_of(run)
    grpo = (
        plan.config()
        .env_runners(num_env_runners=0, create_local_env_runner=True)
        .learners(num_learners=0, num_gpus_per_learner=study.gpus_per_run)
    )
    hold_folder(run.folder, setting="output_dir")
    is_resumed = run.has_checkpoint
    directory = RunDirectory(run.folder) if is_resumed else _new_directory(run, study, plan)
    with (run.folder / LOG_FILE).open("a") as log:
        console = PlainConsole(file=log, width=120)
        for line in directory.note_code(*plan.objects) if is_resumed else []:
            print(f"warning: {line}", file=log)
        summary = train_grpo(
            grpo,
            plan.schedule,
            directory,
            plan.validation_episodes,
            is_resumed=is_resumed,
            console=console,
            sinks=[*study.open_places(directory, console), RayMetrics(run.folder.name, "grpo")],
        )
    tune.report({"miou": summary["miou_end"], "miou_gain": summary["miou_gain"]})


def _new_directory(run: Run, study: RewardStudy, plan: GRPOPlan) -> RunDirectory:
    """Make the folder of a run that starts, and remove an earlier run that had no checkpoint yet."""
    (run.folder / "config.json").unlink(missing_ok=True)
    (run.folder / "metrics.jsonl").unlink(missing_ok=True)
    shutil.rmtree(run.folder / "samples", ignore_errors=True)
    arguments = dict(study.arguments) | {"reward": study.rewards[run.variant], "seed": run.seed}
    return RunDirectory.create(run.folder, arguments, used=plan.objects)
