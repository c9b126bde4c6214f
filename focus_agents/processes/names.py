"""Name the processes of a run on Ray's dashboard and in `ray list actors`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import ray
from ray.job_config import JobConfig

from focus_agents.processes.ray_compat import (
    callback_of_controller,
    logs_folder,
    name_actors_from_now_on,
    starting_actors,
)

JOB_NAME = "job_name"
"""Ray's own key for it."""


def job_config(name: str, *, command: str, folder: str) -> JobConfig:
    """Return what Ray is told of a run, for `ray.init`.

    Args:
        name: The run's.
        command: As a person would type it.
        folder: The run's.
    """
    return JobConfig(metadata={JOB_NAME: name, "command": command, "run_folder": folder})


def of_run(role: str, run: str | None) -> str:
    """Return the name of a process, such as "sampler 2 of run X"; of no run: "sampler 2"."""
    return role if run is None else f"{role} of run {run}"


def naming_grpo(run: str | None) -> AbstractContextManager[None]:
    """While this is open, RLlib's processes are started with the names of a run's samplers, evaluators and learners.

    Args:
        run: The run's name.
    """
    learners = itertools.count()

    def name_of(class_name: str, arguments: Mapping[str, Any]) -> str | None:
        config = arguments.get("config")
        if (number := arguments.get("worker_index")) is not None:
            role = "evaluator" if getattr(config, "in_evaluation", False) else "sampler"
            return of_run(f"{role} {number}", run)
        return of_run(f"learner {next(learners)}", run) if "module_spec" in arguments else None

    return starting_actors(name_of, by_value=("config",))


def naming_train(
    run: str, *, num_workers: int, at_restart: Callable[[Mapping[int, Any]], None]
) -> tuple[AbstractContextManager[None], Any]:
    """Return what names the processes of a run on Ray Train.

    Args:
        run: The run's name.
        num_workers: How many train; new ones after a fault have the same names.
        at_restart: Called before these are started, with the errors of those that failed, by rank.

    Returns:
        A context to start the training in, and a callback for its `ray.train.RunConfig`.
    """

    def name_of_controller(class_name: str, arguments: Mapping[str, Any]) -> str | None:
        return of_run("controller", run) if "Controller" in class_name else None

    def name_workers() -> None:
        numbers = itertools.count()

        def name_of_worker(class_name: str, arguments: Mapping[str, Any]) -> str | None:
            return of_run(f"worker {next(numbers) % num_workers}", run) if "Worker" in class_name else None

        name_actors_from_now_on(name_of_worker)

    naming = starting_actors(name_of_controller, know_their_cluster=True)
    return naming, callback_of_controller(name_workers, at_restart)


def own_name(otherwise: Callable[[], str]) -> str:
    """Return the name of the actor that this process is.

    Args:
        otherwise: Makes one for a process that is none, or has no name.
    """
    name = ray.get_runtime_context().get_actor_name() if is_actor() else None
    return str(name) if name else otherwise()


def is_actor() -> bool:
    """Tell whether Ray has started this process."""
    return bool(ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


def where_logs_are() -> str:
    """Return where the processes of a run say more of what went wrong, as the end of a message."""
    folder = logs_folder()
    return "in Ray's logs" if folder is None else f"in the logs in {folder}, each on its machine"
