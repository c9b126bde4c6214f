"""W&B, MLflow and trackio: each point once, the same run after `--resume`, all files in the run's folder."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
from rich.console import Console

from focus_agents.monitoring.recorder import Recorder
from focus_agents.monitoring.services import SERVICES, open_service
from focus_agents.runs.folder import RunDirectory
from tests.focus_agents.monitoring.services import Server, modules

PICTURE = np.zeros((2, 2, 3), dtype=np.uint8)
VARIABLES = (
    "WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR",
    "WANDB_ARTIFACT_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_DIR", "TRACKIO_LOGO_DIR",
    "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "NETRC", "WANDB_BASE_URL", "MLFLOW_DISABLE_TELEMETRY",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run, in a home and a folder of its own."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    return RunDirectory.create(tmp_path / "runs/mine", {"lr": 0.5, "output_dir": Path("runs")})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    known = Server()
    for name, module in modules(known).items():
        monkeypatch.setitem(sys.modules, name, module)
    return known


def live(service: str, run: RunDirectory, positions: range) -> str:
    """A life of a run, as a training has it; returns what the console shows."""
    sink, output = open_service(service, run), io.StringIO()
    if positions.start:
        run.rewind(positions.start - 1, counter="iteration")
    recorder = Recorder(run, Console(file=output, width=500), [sink])
    for position in positions:
        recorder.log({"iteration": position, "reward": position / 8, "reward/iou_at(0.5)": 1.0})
        if position % 2 == 0:
            recorder.show("validation", PICTURE, position)
    recorder.close()
    return output.getvalue()


@pytest.mark.parametrize("service", SERVICES)
def test_a_run_that_is_gone_on_with_is_the_same_and_no_point_is_shown_twice(
    service: str, run: RunDirectory, server: Server
) -> None:
    assert live(service, run, range(5)) + live(service, run, range(3, 7)) == ""
    ((name, points),) = server.points.items()
    assert [step for step, values in points if "reward" in values] == [0, 1, 2, 3, 4, 5, 6]
    part = "reward/iou_at_0.5_" if service == "mlflow" else "reward/iou_at(0.5)"
    assert [step for step, values in points if part in values] == [0, 1, 2, 3, 4, 5, 6]
    assert server.pictures == {name: [(n, "validation") for n in (0, 2, 4, 6)]}
    assert server.ended == [name, name]


@pytest.mark.parametrize("service", SERVICES)
def test_without_a_key_or_a_server_all_of_it_is_in_the_runs_folder(
    service: str, run: RunDirectory, server: Server
) -> None:
    live(service, run, range(1))
    (options,) = server.options
    asked = {"wandb": ("mode", "offline"), "mlflow": ("uri", f"sqlite:///{run.path}/mlflow/mlflow.db")}
    if service in asked:
        name, value = asked[service]
        assert options[name] == value
    assert options.get("dir", str(run.path)) == str(run.path)
    assert (run.path / service / "focus.json").is_file()


def test_a_key_means_online(run: RunDirectory, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert open_service("wandb", run).place == "https://there"
    assert server.options[0]["mode"] == "online"


@pytest.mark.parametrize("service", SERVICES)
def test_the_real_one(service: str, run: RunDirectory, tmp_path: Path) -> None:
    """Where it is installed: it takes what it is told, twice, and writes into the run's folder only."""
    if importlib.util.find_spec(service) is None:  # not imported here: trackio reads its folder's name as it is
        pytest.skip(f"{service} is not installed")
    assert live(service, run, range(3)) + live(service, run, range(2, 5)) == ""
    assert [path.name for path in (tmp_path / "home").rglob("*")] == []
    assert len(list((run.path / service).rglob("*"))) > 1


@pytest.mark.parametrize("service", ["wandb", "trackio"])
def test_each_run_of_a_process_writes_into_its_own_folder(
    service: str, run: RunDirectory, server: Server, tmp_path: Path
) -> None:
    sys.modules["trackio"].MEDIA_DIR = run.path / "trackio/media"  # type: ignore[attr-defined]
    live(service, run, range(1))
    variable = {"wandb": "WANDB_DATA_DIR", "trackio": "TRACKIO_DIR"}[service]
    first = os.environ[variable]
    other = RunDirectory.create(tmp_path / "runs/other", {"lr": 0.5})
    live(service, other, range(1))
    assert os.environ[variable] == first.replace(str(run.path), str(other.path)) != first
    if service == "trackio":
        assert other.path / "trackio/media" == sys.modules["trackio"].MEDIA_DIR


@pytest.mark.parametrize("service", ["wandb", "trackio"])
def test_a_place_of_the_users_own_stays(
    service: str, run: RunDirectory, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = {"wandb": "WANDB_DATA_DIR", "trackio": "TRACKIO_DIR"}[service]
    monkeypatch.setenv(variable, "/mine")
    live(service, run, range(1))
    assert os.environ[variable] == "/mine"


@pytest.mark.parametrize("is_decoded", [True, False])
@pytest.mark.parametrize("name", ["a?b", "a#b", "a b%20c", "é"])
def test_the_database_of_mlflow_is_the_runs_whatever_it_is_called(
    name: str, is_decoded: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy takes what stands before a question mark, and its newer versions decode it."""
    engine = ModuleType("sqlalchemy.engine")

    def make_url(url: str) -> SimpleNamespace:
        database = url.removeprefix("sqlite:///").partition("?")[0]
        return SimpleNamespace(database=unquote(database) if is_decoded else database)

    engine.make_url = make_url  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sqlalchemy", ModuleType("sqlalchemy"))
    monkeypatch.setitem(sys.modules, "sqlalchemy.engine", engine)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = RunDirectory.create(tmp_path / name, {"lr": 0.5})
    if not is_decoded and name in ("a?b", "a#b"):
        with pytest.raises(ValueError, match=r"^name: expected one without \? and #"):
            open_service("mlflow", run)
        return
    open_service("mlflow", run)
    assert make_url(server.options[0]["uri"]).database == str(run.path / "mlflow/mlflow.db")
    assert "#" not in server.options[0]["uri"]
