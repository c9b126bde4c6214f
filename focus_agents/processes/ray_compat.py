"""Ray's private names that the processes of a run depend on, each with the reason; none is used elsewhere here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.actor import ActorClass
from ray.exceptions import ActorAlreadyExistsError
from ray.runtime_env import RuntimeEnv

MOST_OF_A_NAME = 100
"""So many actors of one name may there be at a time; more are started without one."""


NOBODY = "http://127.0.0.1:9"
"""An address at which nothing answers: the port is that of `discard`."""
NameOf = Callable[[str, Mapping[str, Any]], str | None]
"""Returns the name of an actor, given its class's name and its constructor's keyword arguments; None: it needs none."""


@contextlib.contextmanager
def starting_actors(
    name_of: NameOf, *, by_value: tuple[str, ...] = (), know_their_cluster: bool = False
) -> Iterator[None]:
    """While this is open, the actors that this thread starts have names, wherever in a library they are started.

    RLlib and Ray Train start a run's processes and leave their names open, without a way to give them.

    Args:
        name_of: Their names.
        by_value: Those of the arguments that an actor gets as they are where it would get a reference, which Ray may
            lose before it restarts the actor.
        know_their_cluster: Let the actors, and those that they start, ask the cluster that they belong to about its
            state. Ray Train's cleaner else asks whichever one it finds on the machine, hears there that its training
            is unknown, and ends the workers.
    """
    original, thread = ActorClass._remote, threading.get_ident()

    def start(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        if threading.get_ident() != thread:
            return original(self, args, kwargs, **options)
        kwargs = {**(kwargs or {})}
        for key in by_value:
            if isinstance(kwargs.get(key), ray.ObjectRef):
                kwargs[key] = ray.get(kwargs[key])
        if know_their_cluster:
            options["runtime_env"] = _with_own_address(options.get("runtime_env"))
        return _start_named(original, name_of, self, args, kwargs, options)

    ActorClass._remote = start
    try:
        yield
    finally:
        ActorClass._remote = original


def name_actors_from_now_on(name_of: NameOf) -> None:
    """Let all actors have names that this process starts, for a process that does nothing else."""
    original = ActorClass._remote

    def start(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return _start_named(original, name_of, self, args, {**(kwargs or {})}, options)

    ActorClass._remote = start


def _with_own_address(runtime_env: Mapping[str, Any] | None) -> RuntimeEnv:
    """Return an actor's environment with the address of this process's cluster.

    A cluster without a dashboard names the usual place of one all the same, where that of another cluster may answer.
    """
    found = {**(runtime_env or {})}
    own = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    if not ray._private.worker.get_dashboard_url():
        own["RAY_API_SERVER_ADDRESS"] = NOBODY
    found["env_vars"] = {**found.get("env_vars", {}), **own}
    return RuntimeEnv(**found)


def _start_named(
    original: Any, name_of: NameOf, actor: Any, args: Any, kwargs: dict[str, Any], options: dict[str, Any]
) -> Any:
    """Start an actor; a name that another one of the namespace has is told apart by a number behind it."""
    name = None if options.get("name") else name_of(actor.__ray_metadata__.class_name, kwargs)
    for number in range(1, MOST_OF_A_NAME) if name else ():
        with contextlib.suppress(ActorAlreadyExistsError):
            named = {**options, "name": name if number == 1 else f"{name} ({number})"}
            return original(actor, args, kwargs, **named)
    return original(actor, args, kwargs, **options)


def callback_of_controller(at_start: Callable[[], None], at_restart: Callable[[Mapping[int, Any]], None]) -> Any:
    """Return what calls functions in Ray Train's controller, a process of its own; its public callbacks know less.

    Args:
        at_start: Called before the workers are started.
        at_restart: Called before they are started again, with the errors of those that have failed, by rank.
    """
    from ray.train.v2._internal.execution.callback import ControllerCallback

    class Callback(ControllerCallback):
        def after_controller_start(self, train_run_context: Any) -> None:
            at_start()

        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            if type(current_state).__name__ == "RestartingState":
                at_restart(getattr(current_state.training_failed_error, "worker_failures", {}))

    return Callback()


def drop_lines(is_dropped: Callable[[str], bool]) -> None:
    """Leave out some of what the daemons of Ray have printed by this process, which has no setting for it.

    Args:
        is_dropped: Tells of a text whether it is.
    """
    worker: Any = ray._private.worker
    original = worker.print_to_stdstream
    if getattr(original, "drops_lines", False):
        return

    def print_rest(data: dict[str, Any], *args: Any, **options: Any) -> None:
        if lines := [line for line in data.get("lines", ()) if not is_dropped(str(line))]:
            original({**data, "lines": lines}, *args, **options)

    print_rest.drops_lines = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = print_rest


def logs_folder() -> str | None:
    """Return where the processes of this process's session of Ray write their logs, each on its own machine."""
    node = ray._private.worker._global_node
    return None if node is None else str(node.get_logs_dir_path())
