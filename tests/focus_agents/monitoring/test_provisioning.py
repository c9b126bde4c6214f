"""What is written for Prometheus and Grafana."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from focus_agents.monitoring.board import DATASOURCE, board
from focus_agents.monitoring.provisioning import Servers, commands, files, write_provisioning

SERVERS = Servers(prometheus_port=9191, grafana_port=3131, scrape_seconds=1)


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """The folder of a session, with its boards, in a folder whose name has a blank and a character of YAML."""
    folder = tmp_path / "tmp #1: ray" / "session_2026-01-01_00-00-00_1_7"
    (folder / "metrics/grafana/dashboards").mkdir(parents=True)
    return folder


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_prometheus_asks_the_cluster_and_keeps_its_session_only(session: Path, tmp_path: Path) -> None:
    write_provisioning(tmp_path / "out", session, SERVERS, endpoints=["127.0.0.1:4321"])
    settings = read(tmp_path / "out/prometheus.yml")
    (job,) = settings["scrape_configs"]
    assert settings["global"]["scrape_interval"] == "1s"
    assert job["file_sd_configs"][0]["files"] == [str(session / "prom_metrics_service_discovery.json")]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:4321"]}]
    assert "authorization" not in job
    (rule,) = job["metric_relabel_configs"]
    assert (rule["source_labels"], rule["action"]) == (["SessionName"], "keep")
    assert re.fullmatch(rule["regex"], session.name)
    assert not re.fullmatch(rule["regex"], f"{session.name}0")


def test_a_token_is_shown_where_the_cluster_asks_for_one(session: Path, tmp_path: Path) -> None:
    write_provisioning(tmp_path / "out", session, SERVERS, endpoints=[], token_file=tmp_path / "token")
    (job,) = read(tmp_path / "out/prometheus.yml")["scrape_configs"]
    assert job["authorization"] == {"type": "Bearer", "credentials_file": str(tmp_path / "token")}


def test_grafana_finds_prometheus_and_the_boards_and_stays_here(session: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # again over what is there
        write_provisioning(out, session, SERVERS, endpoints=[])
    (source,) = read(out / "grafana/provisioning/datasources/focus.yaml")["datasources"]
    assert {"uid": source["uid"], "type": source["type"]} == DATASOURCE
    assert (source["url"], source["name"]) == ("http://127.0.0.1:9191", "Prometheus")
    providers = read(out / "grafana/provisioning/dashboards/focus.yaml")["providers"]
    assert {part["name"]: part["options"]["path"] for part in providers} == {
        "FOCUS": str(out / "grafana/boards"),
        "Ray": str(session / "metrics/grafana/dashboards"),
    }
    assert [file.name for file in (out / "grafana/boards").iterdir()] == ["focus.json"]
    assert json.loads((out / "grafana/boards/focus.json").read_text()) == board()
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(out / "grafana/grafana.ini")
    assert dict(settings["server"]) == {"http_addr": "127.0.0.1", "http_port": "3131"}
    assert all(Path(path).is_relative_to(out) for path in settings["paths"].values())
    assert Path(settings["dashboards"]["default_home_dashboard_path"]).is_file()


def test_commands_can_be_pasted(tmp_path: Path) -> None:
    lines = commands(tmp_path / "a folder", SERVERS, grafana_home=Path("/usr/share/grafana"))
    assert lines["prometheus"].startswith("prometheus '--config.file=")
    assert lines["prometheus"].endswith("--web.listen-address=127.0.0.1:9191")
    assert f"'--config={tmp_path}/a folder/grafana/grafana.ini'" in lines["grafana"]


def test_without_rays_boards_ours_is_there_alone(session: Path, tmp_path: Path) -> None:
    (session / "metrics/grafana/dashboards").rmdir()
    write_provisioning(tmp_path / "out", session, SERVERS, endpoints=[])
    providers = read(tmp_path / "out/grafana/provisioning/dashboards/focus.yaml")["providers"]
    assert [part["name"] for part in providers] == ["FOCUS"]


@pytest.mark.parametrize("name", ["a #1", "a;b", "it's", "$HOME", "a=b", " a "])
def test_any_folder_is_read_as_it_is(name: str, session: Path, tmp_path: Path) -> None:
    """Grafana takes what stands between backticks as it is, and $$ in its other files as a dollar."""
    folder = tmp_path / name / "end"
    found = files(folder, session, Servers(), endpoints=[], token_file=None)
    lines = found[folder / "grafana/grafana.ini"].splitlines()
    (data,) = (line.removeprefix("data = ") for line in lines if line.startswith("data = "))
    if set(name) & set("#;'"):
        assert data == f"`{folder}/grafana/data`"
    assert data.strip("`") == f"{folder}/grafana/data"
    boards = yaml.safe_load(found[folder / "grafana/provisioning/dashboards/focus.yaml"])
    assert boards["providers"][0]["options"]["path"].replace("$$", "$") == f"{folder}/grafana/boards"
    assert boards["providers"][0]["options"]["path"].count("$") == 2 * name.count("$")


@pytest.mark.parametrize("name", ["${HOME}", "$__env{HOME}", "%(data)s", "a`b", "a\nb"])
def test_a_folder_that_grafana_would_rename_is_refused(name: str, session: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^output_dir: expected a folder without"):
        files(tmp_path / name, session, Servers(), endpoints=[], token_file=None)
