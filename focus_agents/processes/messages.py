"""Print Ray's messages about a run in the terminal, but for those that the run tells in a line of its own."""

from __future__ import annotations

import logging
import re

from focus_agents.processes.ray_compat import drop_lines

SAID_BY_US: dict[str, str] = {
    r"Token authentication is (en|dis)abled": "the line with the dashboard's address says how to get in",
    r"out of service|back into service": "who died, what was lost and what goes on are said by `grpo.runners`",
    r"^(The actor died|The actor \S+ is unavailable|A worker died)": "likewise",
    r"A worker died or was killed while executing a task": "likewise, and by `grpo.learner_group` and `sft.train`",
    r"`RLModule\(config=\[RLModuleConfig object\]\)` has been deprecated": "RLlib's own call, for each of its modules",
}
"""Patterns of Ray's lines that are not printed, each with the reason. Everything else from a warning on is."""


OWN_LOGGERS = ("ray.rllib.utils.actor_manager",)
"""Loggers whose lines do not pass the handlers of Ray's, since RLlib has handlers of its own."""


def is_said_by_us(message: str) -> bool:
    """Tell whether the run says in its own words what a line of Ray's says."""
    return any(re.search(pattern, message) for pattern in SAID_BY_US)


def _passes(record: logging.LogRecord) -> bool:
    return not is_said_by_us(record.getMessage())


def quiet_ray() -> None:
    """Let Ray print warnings and errors only, and none that the run says itself; Ray is imported already."""
    for place in (*logging.getLogger("ray").handlers, *map(logging.getLogger, OWN_LOGGERS)):
        if _passes not in place.filters:
            place.addFilter(_passes)
    drop_lines(is_said_by_us)
