"""Sinks for tracking services, through their own writers, each an extra of the package.

Whatever they write on this machine lies in the run's folder, with the identifier by which a run that is gone on with
stays the same run. A service takes nothing back, so a point that it was shown before an
interruption is not shown again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import netrc
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from focus_agents.errors import CheckpointError
from focus_agents.monitoring.recorder import Sink
from focus_agents.runs.files import read_json, write_json
from focus_agents.runs.folder import COUNTERS, RunDirectory
from focus_env.types import ImageArray

PROJECT = "focus"
"""Project under which the runs are filed, where the service's own variable names no other."""
STATE_FILE = "focus.json"
"""In a service's folder: the identifier of its run."""


class Writer(Protocol):
    """The part in which services differ.

    Attributes:
        place: Where a person finds the run, or what makes it be seen.
    """

    place: str

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Log a line; see `Sink.log`."""

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Show a picture; see `Sink.show`."""

    def close(self) -> None:
        """Close the sink; see `Sink.close`."""


class ServiceSink(Sink):
    """Shows a run to a service, each point once.

    Args:
        name: Of the service.
        writer: Its writer.
        shown: The last position that it was shown in an earlier life of the run; -1: none.
    """

    def __init__(self, name: str, writer: Writer, *, shown: int = -1) -> None:
        self.name, self._writer, self._shown, self._pictures = name, writer, shown, dict[str, int]()
        self._first = shown

    @property
    def place(self) -> str:
        """Where a person finds the run."""
        return self._writer.place

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Pass on what is new; `Sink.log`."""
        if position > self._shown:
            self._writer.log(metrics, position)
            self._shown = position

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Pass on what is new; `Sink.show`."""
        if position > self._pictures.get(name, self._first):
            self._writer.show(name, picture, position)
            self._pictures[name] = position

    def close(self) -> None:
        """Tell the service that the run has ended; `Sink.close`."""
        self._writer.close()


class Wandb:
    """Weights & Biases; without a key it writes files that `wandb sync` uploads later.

    Args:
        folder: For its files.
        name: The run's name.
        config: The run's arguments.
        run_id: Of the run to go on with; None: a new one.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], run_id: str | None) -> None:
        for variable in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
            _place(variable, folder / "local")
        import wandb

        self._wandb = wandb
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=run_id,
            resume="allow" if run_id else None,
            dir=str(folder.parent),  # it adds its own name
            config=dict(config),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )
        self.run_id = self._run.id
        upload = f"offline; upload by `wandb sync {Path(self._run.dir).parent}`"
        self.place = upload if mode == "offline" else str(self._run.url)

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Log a line; see `Sink.log`."""
        self._run.log(dict(metrics), step=position)

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Show a picture; see `Sink.show`."""
        self._run.log({name: self._wandb.Image(picture)}, step=position)

    def close(self) -> None:
        """Close the sink; see `Sink.close`."""
        self._run.finish()


class Mlflow:
    """MLflow; without MLFLOW_TRACKING_URI it writes a database in the run's folder. Arguments as those of `Wandb`."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], run_id: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        server = os.environ.get("MLFLOW_TRACKING_URI")
        address = server or _sqlite_url(folder / "mlflow.db")
        self._client = MlflowClient(address)
        self.place = server or f"`MLFLOW_BACKEND_STORE_URI={shlex.quote(address)} mlflow ui`"
        if run_id is None:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(title)
            artifacts = None if server else (folder / "artifacts").as_uri()
            experiment = found.experiment_id if found else self._client.create_experiment(title, artifacts)
            run_id = self._client.create_run(experiment, run_name=name).info.run_id
            for key, value in config.items():
                self._client.log_param(run_id, key, value)
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id: str = run_id

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Log a line; see `Sink.log`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(
            self.run_id, [Metric(_mlflow_name(name), value, now, position) for name, value in metrics.items()]
        )

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Show a picture; see `Sink.show`."""
        self._client.log_image(self.run_id, picture, key=_mlflow_name(name), step=position)

    def close(self) -> None:
        """Close the sink; see `Sink.close`."""
        self._client.set_terminated(self.run_id)


class Trackio:
    """trackio, which writes a database in the run's folder, or to the server that its variables name.

    Arguments as those of `Wandb`.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], run_id: str | None) -> None:
        for variable in ("TRACKIO_DIR", "TRACKIO_LOGO_DIR"):
            _place(variable, folder)
        with contextlib.redirect_stdout(io.StringIO()):
            import trackio

            self._trackio = trackio
            self.run_id = run_id or name
            self._run = trackio.init(
                project=PROJECT,
                name=self.run_id,
                config=dict(config),
                resume="never" if run_id is None else "allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.place = f"`TRACKIO_DIR={shlex.quote(os.environ['TRACKIO_DIR'])} trackio show`"

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Log a line; see `Sink.log`."""
        self._run.log(dict(metrics), step=position)

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Show a picture; see `Sink.show`."""
        self._run.log({name: self._trackio.Image(picture)}, step=position)

    def close(self) -> None:
        """Close the sink; see `Sink.close`."""
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                self._trackio.finish()
            except RuntimeError:  # it knows runs of the thread that started them only
                self._run.finish()


SERVICES: Mapping[str, Any] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}
"""Writers by the name of their package, which is that of the extra, too."""


def open_service(name: str, run: RunDirectory) -> ServiceSink:
    """Start a run at a service, or go on with the one that the run's folder names.

    Args:
        name: A key of `SERVICES`.
        run: The run; its arguments are shown beside it.

    Raises:
        Exception: Whatever the service's writer raises.
    """
    folder = (run.path / name).absolute()
    folder.mkdir(exist_ok=True)
    run_id, shown = None, -1
    with contextlib.suppress(CheckpointError):
        run_id = str(read_json(folder / STATE_FILE, "the run of a service")["id"])
        shown = max((int(line[key]) for line in run.read_metrics() for key in COUNTERS if key in line), default=-1)
    writer = SERVICES[name](folder, run.path.absolute().name, run.config(), run_id)
    write_json(folder / STATE_FILE, {"id": writer.run_id})
    return ServiceSink(name, writer, shown=shown)


def _has_key() -> bool:
    """Return whether W&B knows, without asking, who uploads."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return "WANDB_API_KEY" in os.environ or netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False


_placed: dict[str, Path] = {}
"""By variable, the folder that the last run of this process has set it to."""


def _place(variable: str, folder: Path) -> None:
    """Let a service write into a run's folder, unless the user's own variable names another place."""
    before = _placed.get(variable)
    if os.environ.get(variable) not in (None, str(before)):
        return
    os.environ[variable], _placed[variable] = str(folder), folder
    if before is None or before == folder:
        return
    # trackio reads its variables when it is imported, and passes what it has read to its other modules.
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] == "trackio":
            for key, value in [*vars(module).items()]:
                if isinstance(value, Path) and value.is_relative_to(before):
                    setattr(module, key, folder / value.relative_to(before))


def _sqlite_url(file: Path) -> str:
    """Return the address of a database in a file, whatever its folders are called.

    Raises:
        ValueError: If the installed SQLAlchemy has no address for it.
    """
    plain = f"sqlite:///{file}"
    if re.fullmatch(r"[\w/. -]*", str(file)):
        return plain
    from sqlalchemy.engine import make_url

    for url in (plain, f"sqlite:///{quote(str(file))}"):  # newer versions decode it
        if make_url(url).database == str(file) and "#" not in url:
            return url
    raise ValueError(f"name: expected one without ? and # for MLflow's database, got {file}")


def _mlflow_name(name: str) -> str:
    """Return a name with what MLflow admits in one; it refuses the brackets of a reward term such as iou_at(0.5)."""
    return "".join(letter if letter.isalnum() or letter in "_-./: " else "_" for letter in name)
