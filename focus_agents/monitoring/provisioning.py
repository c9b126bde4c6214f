"""The files by which Prometheus reads a cluster of Ray, and Grafana draws the board of its runs.

<folder>/
  prometheus.yml                      the processes to ask, and the metrics
  grafana/grafana.ini                 Grafana's settings, with all of its own files in this folder
  grafana/provisioning/datasources/   where Grafana finds Prometheus
  grafana/provisioning/dashboards/    and its boards
  grafana/boards/focus.json           the board of training runs
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from focus_agents.monitoring.board import DATASOURCE, UID, board
from focus_agents.runs.files import write_json
from focus_env.files import write_text

LOOPBACK = "127.0.0.1"
DISCOVERY_FILE = "prom_metrics_service_discovery.json"
"""In the folder of a session: where each machine of the cluster offers its metrics, as long as a dashboard runs."""


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The addresses of Prometheus and Grafana, on this machine only, and how often Prometheus asks.

    Attributes:
        prometheus_port: Port of Prometheus.
        grafana_port: Port of Grafana.
        scrape_seconds: Seconds between two questions.
    """

    prometheus_port: int = 9090
    grafana_port: int = 3000
    scrape_seconds: int = 10

    @property
    def prometheus_url(self) -> str:
        """The address of Prometheus."""
        return f"http://{LOOPBACK}:{self.prometheus_port}"

    @property
    def board_url(self) -> str:
        """The address of the board."""
        return f"http://{LOOPBACK}:{self.grafana_port}/d/{UID}"


def write_provisioning(
    folder: Path, session: Path, servers: Servers, *, endpoints: Sequence[str], token_file: Path | None = None
) -> None:
    """Write all files; those that are there are replaced.

    Args:
        folder: Where to, an absolute path.
        session: Folder of the session of Ray.
        servers: The two servers.
        endpoints: Where this machine offers metrics, HOST:PORT; without a dashboard the cluster itself does not say.
        token_file: Holds a token that the cluster's endpoint asks for; None: it asks for none.

    Raises:
        StorageError: If something cannot be written.
        ValueError: If Grafana cannot read the folder's name.
    """
    for path, content in files(folder, session, servers, endpoints=endpoints, token_file=token_file).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, content)
    (folder / "grafana/boards").mkdir(parents=True, exist_ok=True)
    write_json(folder / "grafana/boards/focus.json", board())


def files(
    folder: Path, session: Path, servers: Servers, *, endpoints: Sequence[str], token_file: Path | None
) -> dict[Path, str]:
    """Return the text of each file but the board; arguments as of `write_provisioning`."""
    head = f"# Made by `focus monitor` for the session {session.name} of Ray.\n"
    grafana = folder / "grafana"
    provisioning = grafana / "provisioning"
    return {
        folder / "prometheus.yml": head + _yaml(prometheus(session, servers, endpoints, token_file)),
        provisioning / "datasources/focus.yaml": head + _yaml(_datasource(servers)),
        provisioning / "dashboards/focus.yaml": head + _yaml(_boards(grafana / "boards", session)),
        grafana / "grafana.ini": head + _settings(grafana, servers),
    }


def prometheus(session: Path, servers: Servers, endpoints: Sequence[str], token_file: Path | None) -> dict[str, Any]:
    """Return the settings of Prometheus.

    Clusters on one machine share some of Ray's ports, so that one is asked for another's metrics too. What belongs to
    another session is dropped by its label.
    """
    job: dict[str, Any] = {
        "job_name": "ray",
        # Both may name the same target, which is asked once.
        "file_sd_configs": [{"files": [str(session / DISCOVERY_FILE)], "refresh_interval": "10s"}],
        "static_configs": [{"targets": [*endpoints]}],
        "metric_relabel_configs": [
            {"source_labels": ["SessionName"], "regex": re.escape(session.name), "action": "keep"}
        ],
    }
    if token_file is not None:
        job["authorization"] = {"type": "Bearer", "credentials_file": str(token_file)}
    return {"global": {"scrape_interval": f"{servers.scrape_seconds}s"}, "scrape_configs": [job]}


def commands(folder: Path, servers: Servers, *, grafana_home: Path) -> dict[str, str]:
    """Return the command line that starts each server.

    Args:
        folder: Where their files are.
        servers: Where they listen.
        grafana_home: Where Grafana's own files are installed.
    """
    lines = {
        "prometheus": [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'prometheus-data'}",
            f"--web.listen-address={LOOPBACK}:{servers.prometheus_port}",
        ],
        "grafana": ["grafana", "server", f"--homepath={grafana_home}", f"--config={folder / 'grafana/grafana.ini'}"],
    }
    return {name: shlex.join(words) for name, words in lines.items()}


def _datasource(servers: Servers) -> dict[str, Any]:
    """Return the data source by which Grafana finds Prometheus; Ray's own boards look for the name."""
    source = {
        "name": "Prometheus",
        "uid": DATASOURCE["uid"],
        "type": DATASOURCE["type"],
        "url": servers.prometheus_url,
        "access": "proxy",
        "isDefault": True,
        "jsonData": {"timeInterval": f"{servers.scrape_seconds}s"},
    }
    return {"apiVersion": 1, "datasources": [source]}


def _boards(folder: Path, session: Path) -> dict[str, Any]:
    """Return the settings by which Grafana finds its boards: ours, and Ray's own beside it."""
    paths = {"FOCUS": folder, "Ray": session / "metrics/grafana/dashboards"}
    providers = [
        # Grafana puts variables of the environment in the place of $NAME.
        {"name": name, "folder": name, "type": "file", "options": {"path": str(path).replace("$", "$$")}}
        for name, path in paths.items()
        if name == "FOCUS" or path.is_dir()
    ]
    return {"apiVersion": 1, "providers": providers}


def _ini(path: Path) -> str:
    """Return a path in Grafana's settings, quoted where a part of it would pass for a comment.

    Raises:
        ValueError: If Grafana would read another path, whatever stands around it.
    """
    text = str(path)
    if re.search(r"\$(__\w+)?\{|%\(\w+\)s|[`\n]", text):
        raise ValueError(f"output_dir: expected a folder without ${{...}}, %(...)s or ` in its path, got {text}")
    return f"`{text}`" if re.search(r"[#;\"'\\]|^\s|\s$", text) else text


def _settings(folder: Path, servers: Servers) -> str:
    """Return Grafana's settings: whoever reaches it may look, and it is reached from this machine only."""
    return f"""\
[server]
http_addr = {LOOPBACK}
http_port = {servers.grafana_port}

[paths]
data = {_ini(folder / "data")}
logs = {_ini(folder / "logs")}
provisioning = {_ini(folder / "provisioning")}

[auth.anonymous]
enabled = true
org_role = Viewer

[security]
# Ray's dashboard shows Ray's own boards inside of its pages.
allow_embedding = true

[dashboards]
default_home_dashboard_path = {_ini(folder / "boards/focus.json")}

[analytics]
reporting_enabled = false
check_for_updates = false
"""


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False)
