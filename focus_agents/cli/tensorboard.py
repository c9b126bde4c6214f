"""Open TensorBoard on runs: their curves and pictures in a browser, during the runs and later.

How to run, on all runs in the folder runs, and on two of them side by side:
    focus tensorboard
    focus tensorboard runs/a runs/b

Only this machine can open the page; `--host 0.0.0.0` shows it to others, without a password. Ctrl-C ends it.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Ge, Le

from focus_agents.cli.command_line import parse
from focus_agents.cli.errors import make_console, user_errors, work_errors
from focus_agents.settings import Settings
from focus_env.errors import MissingDependencyError

FOLDER = "tensorboard"
"""Of the viewer's files in a run's folder."""
RELOAD_SECONDS = 5
NUM_PICTURES = 100
"""Pictures of each name that are shown; the viewer's own 10 leave gaps in a long run."""


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Open TensorBoard on runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, or folders of runs."""
    host: str = "127.0.0.1"
    """Address to listen on; only this machine can reach 127.0.0.1."""
    port: Annotated[int, Ge(0), Le(65535)] | None = None
    """Port; None: 6006, or the next free port; 0: any free port."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        check(args.runs)
    with tempfile.TemporaryDirectory(prefix="focus-tensorboard-") as folder:
        links = Path(folder)
        with user_errors(Args):
            link(args.runs, links)
            url = launch(links, host=args.host, port=args.port)
        print(f"TensorBoard on {', '.join(map(str, args.runs))}: {url}  (Ctrl-C ends it)", flush=True)
        with work_errors(Args, make_console(), advice=lambda: "runs that are going on are not touched"):
            while True:
                time.sleep(RELOAD_SECONDS)
                link(args.runs, links)


def check(runs: Sequence[Path]) -> None:
    """See that TensorBoard is installed and that there is something to show.

    Raises:
        MissingDependencyError: If the package is missing.
        ValueError: If a folder is not there, or no run in it has written for TensorBoard.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingDependencyError(
            "focus tensorboard needs the package tensorboard, which is not installed; "
            "run: pip install 'focus-localization[tensorboard]'"
        )
    for run in runs:
        if not run.is_dir():
            raise ValueError(f"runs: expected a folder with runs, or a run's, but there is no folder {run}")
        if next(_event_folders(run), None) is None:
            raise ValueError(
                f"runs: {run} holds nothing for TensorBoard; runs write it unless `log_to` says otherwise, and "
                f"`focus plot {run}` draws the curves of any run"
            )


def link(runs: Sequence[Path], links: Path) -> None:
    """Link each run that has come since the last call, so that the viewer shows it by its name alone.

    Args:
        runs: Run folders, or folders of runs.
        links: The folder to show. A run of the folder `runs` is a link there by its path within that folder.
    """
    found = [path for path in links.rglob("*") if path.is_symlink()]
    for path in found:
        if not path.exists():  # a run that was moved or deleted, whose name another may take
            path.unlink()
    there = {path.resolve() for path in found if path.is_symlink()}
    for run in runs:
        for folder in sorted(_event_folders(run)):
            if folder.resolve() in there:
                continue
            place = _free_place(links, _name_of(folder, run))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(folder.resolve(), target_is_directory=True)
            there.add(folder.resolve())


def _event_folders(run: Path) -> Iterator[Path]:
    """Yield the folders with files for the viewer in a folder, those behind links too, each once."""
    seen = set()
    for name, folders, files in os.walk(run, followlinks=True):
        if (real := os.path.realpath(name)) in seen:
            folders.clear()  # a link to a folder above it, or a second one
            continue
        seen.add(real)
        folders.sort(key=lambda folder: os.path.islink(os.path.join(name, folder)))  # a run goes by its own name
        if any(".tfevents." in file for file in files):
            yield Path(name)


def _name_of(folder: Path, run: Path) -> str:
    """Return the name of a folder of the viewer's files: its run's path within the folder asked for, or its name."""
    within = folder.parent if folder.name == FOLDER else folder
    if within == run or not within.is_relative_to(run):
        return Path(os.path.abspath(within)).name
    return str(within.relative_to(run))


def _free_place(links: Path, name: str) -> Path:
    """Return a place for a link that is not taken, and that lies in no folder that is a link, as a run's is."""
    if any((links / parent).is_symlink() for parent in Path(name).parents):
        name = name.replace("/", " - ")
    place, number = links / name, 2
    while os.path.lexists(place):
        place, number = links / f"{name} ({number})", number + 1
    return place


def launch(folder: Path, *, host: str, port: int | None) -> str:
    """Start TensorBoard in a thread of this process; returns its address.

    Raises:
        ValueError: If it cannot listen there.
    """
    import logging

    from tensorboard import program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    server: Any = program.TensorBoard()
    pictures = f"--samples_per_plugin=images={NUM_PICTURES}"
    # The viewer's other way of loading knows nothing of runs that were gone on with from a checkpoint.
    words = ["tensorboard", f"--logdir={folder}", f"--host={host}", pictures, "--load_fast=false"]
    words.append(f"--reload_interval={RELOAD_SECONDS}")
    try:
        server.configure(argv=[*words, *([] if port is None else [f"--port={port}"])])
        return str(server.launch())
    except program.TensorBoardServerException as error:
        raise ValueError(f"port: {error}") from error


if __name__ == "__main__":
    main()
