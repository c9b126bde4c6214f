"""The clusters of Ray whose head runs on this machine, as its processes show them; none of them is joined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from focus_agents.runs.folder import CONFIG_FILE

DAEMON, FOLDER, ADDRESS = "raylet", "--session_dir", "--gcs-address"
"""Ray's process on each machine, and two of its flags."""
PORT_FILES = "metrics_export_port_*"
"""In the folder of a session."""
LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Session:
    """A session of Ray whose head runs on this machine.

    Attributes:
        folder: Where its files are.
        address: Where it is joined, HOST:PORT.
        started: When, in seconds since the epoch.
    """

    folder: Path
    address: str
    started: float

    @property
    def endpoints(self) -> list[str]:
        """Where this machine offers the cluster's metrics, HOST:PORT of each of its nodes."""
        host = self.address.rpartition(":")[0]
        return [f"{host}:{file.read_text()}" for file in sorted(self.folder.glob(PORT_FILES))]


def running_sessions() -> list[Session]:
    """Return the sessions whose head runs on this machine, the latest last."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "create_time"]):
        words = process.info["cmdline"] or []
        flags = {flag: value for flag, is_set, value in (word.partition("=") for word in words) if is_set}
        if process.info["name"] == DAEMON and "--head" in words and {FOLDER, ADDRESS} <= flags.keys():
            found.append(Session(Path(flags[FOLDER]), flags[ADDRESS], process.info["create_time"]))
    return sorted(found, key=lambda session: session.started)


def find_session(named: str | None, running: Sequence[Session]) -> Session:
    """Return the session that a person means.

    Args:
        named: Folder of a run or of a session, address, or auto for the latest; None: the only one.
        running: Those that there are, the latest last.

    Raises:
        ValueError: If there is none such, or no telling which is meant.
    """
    choice = ", ".join(f"{session.folder} ({session.address})" for session in running) or "none"
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


def _is_meant(session: Session, named: str) -> bool:
    """Whether a person names a session by its folder, by its address, or by a run on it."""
    folder = Path(named)
    if (config := folder / CONFIG_FILE).is_file():
        return json.dumps(session.folder.name) in config.read_text(encoding="utf-8")
    if folder.is_dir():
        return folder.resolve() == session.folder.resolve()
    host, _, port = named.rpartition(":")
    return named == session.address or (host in LOOPBACK and port == session.address.rpartition(":")[2])
