"""The way to Ray's dashboard: its address, its token, and the file that keeps the token."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from focus_agents.cli.ray_compat import new_token, own_node

TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray keeps the token of this user's clusters, made when it first runs."""
RUN_TOKEN_FILE = "ray_token"
"""In the folder of a run: its token, where there is no home for it."""
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Ray's variables for a token that is elsewhere."""


def dashboard_line() -> str | None:
    """Return what a person needs to open the dashboard of the Ray that this process takes part in; None: there is none.

    A dashboard whose token nothing mentions is a locked door.
    """
    url = getattr(own_node(), "webui_url", None)
    if not url:
        return None
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return f"dashboard: http://{url} (it asks for no token: whoever reaches this address may run code there)"
    return (
        f"dashboard: http://{url} asks for a token, which `{token_command()}` prints; it keeps others out of this Ray"
    )


def token_command() -> str:
    """Return the command that prints the token of this process's Ray, as it can be pasted into another terminal."""
    beside = Path(sys.executable).with_name("ray")
    program = "ray" if shutil.which("ray") else str(beside) if beside.exists() else "ray"
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return f"RAY_AUTH_TOKEN_PATH={path} {program} get-auth-token" if path else f"{program} get-auth-token"


def place_token(folder: Path | None) -> None:
    """Let Ray keep its token in a run's folder where there is no home to keep it in.

    Args:
        folder: The run's; None: there is none to keep it in.

    Raises:
        ValueError: If the home cannot be written and there is no other place.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or any(map(os.environ.get, TOKEN_VARIABLES)):
        return
    try:
        file = TOKEN_FILE.expanduser()
        if _has_token(file) or _is_writable(file.parent):
            return
    except RuntimeError:  # the user has no home, and none in the machine's list of users
        file = TOKEN_FILE
    if folder is None:
        raise ValueError(
            f"home: expected one that can be written, for the token of Ray in {file}, got {Path(file).parents[1]}; set "
            "HOME to a folder that can be written, or RAY_AUTH_TOKEN_PATH to a file with a token"
        )
    place = folder.absolute() / RUN_TOKEN_FILE
    if not _has_token(place):
        place.unlink(missing_ok=True)  # an empty one, of a full disk
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(new_token())
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(place)


def _has_token(file: Path) -> bool:
    """Return whether a file holds a token; one that this user cannot read is another's to judge."""
    try:
        return file.is_file() and bool(file.read_text(errors="replace").strip())
    except OSError:
        return True


def _is_writable(folder: Path) -> bool:
    """Return whether a folder can be made, or written to; Ray makes it with its parents."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
