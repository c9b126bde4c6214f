"""Ray's private names that the processes of a run depend on, each with the reason; none is used elsewhere here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.actor import ActorClass
from ray.exceptions import ActorAlreadyExistsError

MOST_OF_A_NAME = 100
"""So many actors of one name may there be at a time; more are started without one."""


@contextlib.contextmanager
def starting_actors(
    name_of: Callable[[Mapping[str, Any]], str | None], *, by_value: tuple[str, ...] = ()
) -> Iterator[None]:
    """While this is open, the actors that this thread starts have names, wherever in a library they are started.

    RLlib and Ray Train start a run's processes and leave their names open, without a way to give them. A name that
    another actor of the namespace has is told apart by a number behind it.

    Args:
        name_of: Returns the name of an actor, given the keyword arguments of its constructor; None: it needs none.
        by_value: Those of these arguments that an actor gets as they are where it would get a reference, which Ray
            may lose before it restarts the actor.
    """
    original, thread = ActorClass._remote, threading.get_ident()

    def start(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        if threading.get_ident() != thread:
            return original(self, args, kwargs, **options)
        kwargs = {**(kwargs or {})}
        for key in by_value:
            if isinstance(kwargs.get(key), ray.ObjectRef):
                kwargs[key] = ray.get(kwargs[key])
        name = None if options.get("name") else name_of(kwargs)
        for number in range(1, MOST_OF_A_NAME) if name else ():
            with contextlib.suppress(ActorAlreadyExistsError):
                return original(
                    self, args, kwargs, **{**options, "name": name if number == 1 else f"{name} ({number})"}
                )
        return original(self, args, kwargs, **options)

    ActorClass._remote = start
    try:
        yield
    finally:
        ActorClass._remote = original


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
