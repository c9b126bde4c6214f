"""Choose a run's folder, and the settings of a resumed run: flags beside `--resume` have an effect or are refused."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from focus_agents.cli.command_line import flat, parse, restore_arguments
from focus_agents.cli.errors import print_warning
from focus_agents.errors import CheckpointError
from focus_agents.runs.files import write_json
from focus_agents.runs.folder import CONFIG_FILE, RunDirectory
from focus_agents.runs.lock import claimed_folder, hold_folder
from focus_agents.settings import Settings

HONOURED = ("checkpoint_interval", "num_data_workers", "update_timeout_s", "max_update_attempts", "verbose")
"""Settings beside the cluster's that no figure depends on, so that a run that is gone on with may have others."""

START = "start_weights"
"""In config.json, the digest of the weights that a run started from; see `weights_digest`."""

LENGTHS = ("num_steps", "num_iterations")
"""Settings that say how long a run is."""

A = TypeVar("A", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class RunArguments(Settings):
    """The place of the run's folder."""

    name: str | None = None
    """Name of the run's folder; None: the command and the time of the start."""
    output_dir: Path = Path("runs")
    """Folder of the run folders."""
    resume: Path | None = None
    """Folder of a run to continue, with that run's own arguments. A larger number of steps or iterations makes the run
    longer. Other flags that would change the run are refused."""

    def path(self, prefix: str) -> Path:
        """Return the run's folder: the one to go on with, by its name, or by the time at which it starts."""
        return self.resume or run_path(self.output_dir, self.name, prefix)

    def check_folder(self, prefix: str, *, command: str) -> None:
        """Look at the run's folder before large libraries are imported: it is free, or holds the run to go on with.

        Raises:
            OSError, CheckpointError: As `RunDirectory.check_new` and `stored_config` do.
        """
        run = RunDirectory(self.path(prefix))
        if self.resume is None:
            run.check_new()
        else:
            stored_config(run, command)

    def claim(self, prefix: str) -> contextlib.AbstractContextManager[None]:
        """Hold the run's folder while the arguments are checked, and after; one that is refused leaves nothing there.

        Raises:
            ValueError: If another process is at work in it.
            OSError: If it cannot be made.
        """
        return claimed_folder(self.path(prefix), setting=self._other_folder)

    @property
    def _other_folder(self) -> str | None:
        """The setting that names another folder; a run that is gone on with has no other."""
        return "name" if self.resume is None else None

    def open(
        self, path: Path, arguments: Mapping[str, Any], *used: Any, command: str, model: str | None = None
    ) -> RunDirectory:
        """Open the folder to go on with, or make a new one, for this process alone.

        Args:
            path: The folder.
            arguments: Of the run, for its config.json; a run that becomes longer has its new length noted there.
            used: Objects that may be a user's own code, whose source decides the run.
            command: The command's name, which its config.json holds too.
            model: The model that the run starts from; None: it starts from new weights.

        Raises:
            ValueError, OSError, CheckpointError: As `RunDirectory.open` and `check_start` do.
        """
        config, is_resumed = {"command": command, **arguments}, self.resume is not None
        from focus_agents.models.loading import weights_digest  # brings torch

        start = None if model is None else weights_digest(model)
        if start is not None:
            config[START] = start
        if is_resumed and path.is_dir():
            hold_folder(path, setting=self._other_folder)
            check_start(RunDirectory(path), start)
        run = RunDirectory.open(path, config, is_resumed=is_resumed, used=used, warn=print_warning)
        if self.resume is None:
            return run
        file = self.resume / CONFIG_FILE
        stored = json.loads(file.read_text(encoding="utf-8"))
        changes = {name: arguments[name] for name in LENGTHS if name in stored and arguments[name] != stored[name]}
        if changes:
            write_json(file, stored | changes)
            for name, length in changes.items():
                print(f"{name} {stored[name]} -> {length}; from here on the learning rate follows the new length")
            if not set(changes) & set(summary_of(run)):  # it does not say by itself that it is the shorter run's
                with contextlib.suppress(FileNotFoundError):
                    (run.path / "summary.json").rename(run.path / f"summary_{run.num_done}.json")
        return run


def check_start(run: RunDirectory, start: str | None) -> None:
    """See that a run goes on from the weights that it was started from: checkpoints leave out what is not trained.

    Args:
        run: The run to go on with; one of an earlier release has no note of its start, and is taken as it is.
        start: Digest of the weights that its model has now.

    Raises:
        CheckpointError: If they are others.
    """
    stored = run.config().get(START)
    if stored is not None and start != stored:
        raise CheckpointError(
            f"run {run.path}: expected the weights that it was started from, of digest {stored[:12]}, but its model "
            f"has others by now, of digest {str(start)[:12]}; put the former ones back, or start a new run"
        )


def run_path(output_dir: Path, name: str | None, prefix: str) -> Path:
    """Folder of a run: by its name, or by the time at which this process has first asked for one.

    Raises:
        ValueError: If the name is more than that of one folder.
    """
    if name is not None and (name in (".", "..") or Path(name).name != name or "\0" in name):
        raise ValueError(f"name: expected the name of one folder, got {name!r}; where it lies is said by `output_dir`")
    return output_dir / (name or f"{prefix}-{_time_of_start():%Y%m%d-%H%M%S}")


@functools.cache
def _time_of_start() -> datetime.datetime:
    return datetime.datetime.now()


def resumed(args: A, *, command: str, words: list[str] | None = None, plain: Callable[[A], A] = lambda args: args) -> A:
    """Return the arguments of the run to go on with: its own, and those of this call that may be others.

    Args:
        args: Those of this call, with a group `run` and perhaps one `cluster`, which is this call's.
        command: The command's name.
        words: The command line; None: this process's.
        plain: Brings arguments into the form that config.json holds.

    Raises:
        ValueError: If a flag would change the run otherwise than by making it longer.
        CheckpointError: If the folder is no run of this command.
    """
    group: RunArguments = args.run  # type: ignore[attr-defined]
    assert group.resume is not None
    run = RunDirectory(group.resume)
    config = stored_config(run, command)
    stored = restore_arguments(args, config, keep=("run", "cluster"))
    given = plain(parse(type(args), None, default=stored, words=words))
    check_place(group, config)
    old, new = flat(stored), flat(given)
    free = {*flat(group), *HONOURED}
    free |= {name for part in ("cluster", "watch") if hasattr(args, part) for name in flat(getattr(args, part))}
    changed = [name for name in old if name not in free and old[name] != new[name]]
    for name in changed:
        if name not in LENGTHS:
            raise ValueError(
                f"{name}: expected {old[name]}, which the run {run.path} was started with, got {new[name]}; leave it "
                "out, or start a new run"
            )
        check_length(run, name, new[name], old=old[name])
    return given


def stored_config(run: RunDirectory, command: str) -> dict[str, Any]:
    """Return the arguments that a run was started with.

    Raises:
        CheckpointError: If the folder is not there, is no run's, or is that of another command.
    """
    if not run.path.is_dir():
        raise CheckpointError(f"run {run.path}: expected a run's folder with config.json, but there is no such folder")
    config = run.config()
    # Runs of earlier releases do not name their command.
    guess = "grpo" if "group_size" in config else "sft" if "attention_target" in config else "pretrain"
    found = config.get("command", guess)
    if found != command:
        raise CheckpointError(
            f"run {run.path}: expected one of `focus {command}`, got one of `focus {found}`; go on with it by that "
            f"command, or start from its policy by `init_from` {run.checkpoints / 'final'}"
        )
    return config


def check_place(group: RunArguments, config: Mapping[str, Any]) -> None:
    """See that nobody asks for another folder beside the one to go on with.

    Raises:
        ValueError: If somebody does.
    """
    for name, default in (("name", RunArguments.name), ("output_dir", RunArguments.output_dir)):
        value = getattr(group, name)
        if value != default and str(value) not in (str(config.get(name)), group.resume and group.resume.name):
            raise ValueError(f"{name}: expected none beside `resume`, which names the folder already, got {value}")


def check_length(run: RunDirectory, name: str, length: int, *, old: int) -> None:
    """See that a run can become as long as is asked for.

    Raises:
        ValueError: If it is as long already, or has stopped by itself before.
    """
    if length <= (run.num_done or 0):
        raise ValueError(f"{name}: expected more than the {run.num_done} that {run.path} has done, got {length}")
    if stopped := stopped_early(run, name, old):
        raise ValueError(
            f"{name}: {run.path} stopped early, at {stopped} of {old}, by its `patience`, and would at once again; "
            f"start a new run from its policy by `init_from` {run.checkpoints / 'final'}"
        )


def stopped_early(run: RunDirectory, name: str, length: int) -> int | None:
    """Return where a run has ended by itself before its length; None if it has not."""
    at: int = summary_of(run).get(name, length)
    has_patience = run.config().get("patience", 0) > 0
    return at if has_patience and at < length and at >= (run.num_done or 0) else None


def summary_of(run: RunDirectory) -> dict[str, Any]:
    """Return the summary of a run; an empty one if it has none that can be read."""
    try:
        summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def nothing_to_do(run: RunDirectory, args: Any) -> str | None:
    """Return what to say of a run that is finished and not to become longer; None if there is something to do."""
    values = flat(args)
    (name,) = (name for name in LENGTHS if name in values)
    length, summary = values[name], summary_of(run)
    if not summary or length != run.config().get(name, length):
        return None
    if summary.get(name, length) != length and stopped_early(run, name, length) is None:
        return None
    return f"{run.path} is finished, there is nothing to do; a larger `{name}` than {length} makes it longer"


def after_a_stop(run: RunDirectory) -> str:
    """Return what a person can do with a run that was stopped; what cannot be gone on with frees its name."""
    run.abandon()
    if run.is_blank:
        return f"there was no checkpoint yet, and {run.path} may be used again: start as before"
    return f"go on from its last checkpoint by `resume` {run.path}"
