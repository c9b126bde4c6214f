"""The clusters of Ray whose head runs on this machine, as its processes show them; none of them is joined."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from focus_agents.runs.folder import CONFIG_FILE
from focus_agents.runs.lock import last_holder
from focus_agents.runs.starts import STARTS

DAEMON, FOLDER, ADDRESS = "raylet", "--session_dir", "--gcs-address"
"""Ray's process on each machine, and two of its flags."""
PORT_FILES = "metrics_export_port_*"
"""In the folder of a session."""
LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Session:
    """A session of Ray whose head runs on this machine.

    Attributes:
        folder: Folder of its files.
        address: Address to join, HOST:PORT.
        started: Time of its start, in seconds since the epoch.
        user: User who has started the session; empty: not known.
        home: Home directory at its start; empty: not known.
    """

    folder: Path
    address: str
    started: float
    user: str = ""
    home: str = ""

    @property
    def endpoints(self) -> list[str]:
        """Addresses at which this machine offers the cluster's metrics, HOST:PORT of each of its nodes."""
        host = self.address.rpartition(":")[0]
        return [f"{host}:{file.read_text()}" for file in sorted(self.folder.glob(PORT_FILES))]

    def whose(self) -> str | None:
        """Return whose cluster it is, if it is another user's, or was started with another home; None: it is ours."""
        own_user, own_home = psutil.Process().username(), os.environ.get("HOME", "")
        if self.user and self.user != own_user:
            return f"the user {self.user}"
        if self.home and own_home and os.path.realpath(self.home) != os.path.realpath(own_home):
            return f"the home {self.home}"
        return None


def running_sessions() -> list[Session]:
    """Return the sessions whose head runs on this machine, the latest last."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "create_time"]):
        words = process.info["cmdline"] or []
        flags = {flag: value for flag, is_set, value in (word.partition("=") for word in words) if is_set}
        if process.info["name"] == DAEMON and "--head" in words and {FOLDER, ADDRESS} <= flags.keys():
            user, home = _owner_of(process)
            found.append(
                Session(Path(flags[FOLDER]), flags[ADDRESS], process.info["create_time"], user=user, home=home)
            )
    return sorted(found, key=lambda session: session.started)


def _owner_of(process: Any) -> tuple[str, str]:
    """User and home of a process, as far as this one may know them."""
    user = home = ""
    with contextlib.suppress(psutil.Error, AttributeError, KeyError):
        user = str(process.username())
        home = str(process.environ()["HOME"])
    return user, home


def find_session(named: str | None, running: Sequence[Session]) -> Session:
    """Return the session that a person means.

    Args:
        named: Folder of a run or of a session, address, or auto for the latest; None: the only one.
        running: Those that there are, the latest last.

    Raises:
        ValueError: If there is none such, or no telling which is meant.
    """
    choice = ", ".join(f"{session.folder} ({session.address})" for session in running) or "none"
    if named is not None and (told := _without_ray(Path(named))) is not None:
        raise ValueError(told)
    if not running:
        raise ValueError(
            "expected a cluster of Ray whose head runs on this machine, found none; start a run first, whose cluster "
            "is there for as long as it goes on"
        )
    if named is None and len(running) > 1:
        raise ValueError(f"expected the name of a cluster of Ray, since several run here; name one of {choice}")
    if named in (None, "auto"):
        return running[-1]
    assert named is not None
    if chosen := [session for session in running if _is_meant(session, named)]:
        return chosen[-1]
    if (config := Path(named) / CONFIG_FILE).is_file():
        raise ValueError(
            f"expected a run that goes on, or whose cluster does, but {config} names none of the sessions of "
            f"Ray that run on this machine: {choice}"
        )
    raise ValueError(
        f"expected the folder of a run, or a cluster whose head runs on this machine, one of {choice}, got {named!r}"
    )


def _without_ray(run: Path) -> str | None:
    """Say why a run that goes on has no Ray, or none yet; None for anything that is no such run."""
    holder = last_holder(run)
    if holder is None or not psutil.pid_exists(holder):
        return None
    starts = _starts(run / CONFIG_FILE)
    if not starts or starts[-1].get("process") != holder:
        return f"run {run}: it has not started Ray yet, try again in a moment"
    if "ray_session" not in starts[-1]:
        return f"run {run}: it does without Ray, so there is nothing to monitor; its folder has report.html"
    return None


def _starts(config: Path) -> list[Mapping[str, Any]]:
    """Return the records of a run's starts; none where there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(config.read_text(encoding="utf-8")).get(STARTS)
        return [start for start in found if isinstance(start, Mapping)] if isinstance(found, list) else []
    return []


def _is_meant(session: Session, named: str) -> bool:
    """Return whether a person names a session by its folder, by its address, or by a run on it."""
    folder = Path(named)
    if (config := folder / CONFIG_FILE).is_file():
        return json.dumps(session.folder.name) in config.read_text(encoding="utf-8")
    if folder.is_dir():
        return folder.resolve() == session.folder.resolve()
    host, _, port = named.rpartition(":")
    return named == session.address or (host in LOOPBACK and port == session.address.rpartition(":")[2])
