"""Choose the places that show a run during training."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from rich.console import Console

from focus_agents.settings import Settings
from focus_env.errors import MissingDependencyError

if TYPE_CHECKING:  # a command line is read without torch and what draws
    from focus_agents.monitoring.recorder import Sink
    from focus_agents.runs.folder import RunDirectory

TENSORBOARD: Final = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class WatchArguments(Settings):
    """The places that show the run during training; metrics.jsonl and metrics.csv are always written."""

    log_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = (TENSORBOARD,)
    """Places for curves and pictures. tensorboard: files in the run's folder, which `focus tensorboard` opens. wandb,
    mlflow, trackio: extras of the package, offline in the run's folder unless their own variables name a server.
    Without a value: none."""
    log_pictures: bool = True
    """Also send pictures of validation episodes to these places."""

    def check_installed(self) -> None:
        """See that what is asked for is installed, before any work.

        Raises:
            ValueError: If a place is named twice.
            MissingDependencyError: If a package is missing; the message says how it is installed.
        """
        for name in self.log_to:
            if self.log_to.count(name) > 1:
                raise ValueError(f"log_to: expected each place once, got {name} {self.log_to.count(name)} times")
            if name != TENSORBOARD and importlib.util.find_spec(name) is None:
                raise MissingDependencyError(
                    f"log_to: {name} needs the package {name}, which is not installed; "
                    f"run: pip install 'focus-localization[{name}]'"
                )

    def open(self, run: RunDirectory, console: Console) -> Sequence[Sink]:
        """Open the places; one that cannot be opened is told, and the run goes on without it.

        Args:
            run: The run, as it was before it is gone on with.
            console: Where to say how each is looked at.
        """
        sinks: list[Sink] = []
        for name in self.log_to:
            try:
                sink, place = _open(name, run)
            except Exception as error:  # of somebody else's library, whatever it is
                reason = f"{type(error).__name__}: {error}"
                console.print(
                    f"warning: {name} shows nothing ({reason}); the training goes on", style="yellow", soft_wrap=True
                )
                continue
            console.print(f"{name}: {place}", soft_wrap=True)
            sinks.append(sink if self.log_pictures else _WithoutPictures(sink))
        return sinks


def _open(name: str, run: RunDirectory) -> tuple[Sink, str]:
    """Return a place by its name, and where a person finds it."""
    if name == TENSORBOARD:
        from focus_agents.monitoring.tensorboard import TensorBoardSink

        return TensorBoardSink(run.path, done=run.num_done), f"`focus tensorboard {run.path}`"
    from focus_agents.monitoring.services import open_service

    sink = open_service(name, run)
    return sink, sink.place


class _WithoutPictures:
    """A sink that is shown metrics only.

    Args:
        sink: The sink.
    """

    def __init__(self, sink: Sink) -> None:
        self.name, self.log, self.close = sink.name, sink.log, sink.close

    def show(self, name: str, picture: Any, position: int) -> None:
        """Show nothing."""
