"""Ray's real warnings are printed; what the run says itself is not said a second time."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
import ray

from focus_agents.processes.messages import is_said_by_us, quiet_ray

DIED = "A worker died or was killed while executing a task by an unexpected system error. Worker PID: 7 ..."
SHARED_MEMORY = (
    "WARNING: The object store is using /tmp instead of /dev/shm because /dev/shm has only 67 bytes available."
)
KILLED = "1 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed due to other reasons"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (DIED, True),
        ("Ray error (The actor died unexpectedly.\n\tpid: 7), taking actor 1 out of service.", True),
        ("Bringing previously unhealthy, now-healthy actor 1 back into service.", True),
        ("The actor died unexpectedly before finishing this task.\n\tclass_name: A", True),
        ("Token authentication is enabled for this Ray cluster. Set RAY_AUTH_MODE=disabled to opt out.", True),
        ("DeprecationWarning: `RLModule(config=[RLModuleConfig object])` has been deprecated. Use `RLModule(", True),
        (SHARED_MEMORY, False),
        (KILLED, False),
        ("Ran out of memory; object store is spilling to disk", False),
        ("The actor or task cannot be scheduled right now", False),
    ],
)  # fmt: skip
def test_which_lines_are_ours(message: str, expected: bool) -> None:
    assert is_said_by_us(message) is expected


def test_warnings_of_ray_pass(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """By its loggers, RLlib's among them, and by what its daemons have printed."""
    caplog.set_level(logging.INFO, logger="ray")  # another test of this process may have started Ray with another
    printed: list[dict[str, Any]] = []
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", lambda data, *args, **options: printed.append(data))
    quiet_ray()
    quiet_ray()
    handler = next(iter(logging.getLogger("ray").handlers))
    stream = io.StringIO()
    monkeypatch.setattr(type(handler), "emit", lambda self, record: stream.write(record.getMessage() + "\n"))
    for message in (SHARED_MEMORY, DIED):
        logging.getLogger("ray._private.services").warning(message)
        logging.getLogger("ray.rllib.utils.actor_manager").error(message)
        ray._private.worker.print_to_stdstream({"lines": [message], "pid": "raylet"}, ignore_prefix=False)
    assert set(stream.getvalue().splitlines()) == {SHARED_MEMORY}
    assert printed == [{"lines": [SHARED_MEMORY], "pid": "raylet"}]
