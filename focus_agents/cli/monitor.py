"""Write the settings with which Prometheus and Grafana show the runs on a Ray cluster, and print how to start both.

How to run, during a run in another terminal; if several clusters run, name the folder of the run:
    focus monitor
    focus monitor runs/my-run

On the head of a cluster of several machines:
    focus monitor auto --output-dir monitoring

The command starts nothing, and both servers will listen on this machine only.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import tyro
from annotated_types import Ge, Le

from focus_agents.cli.addresses import AUTO
from focus_agents.cli.command_line import parse
from focus_agents.cli.dashboard import RUN_TOKEN_FILE, TOKEN_FILE
from focus_agents.cli.errors import user_errors
from focus_agents.cli.ray_sessions import Session, find_session, running_sessions
from focus_agents.runs.folder import CONFIG_FILE
from focus_agents.settings import Settings

if TYPE_CHECKING:
    from focus_agents.monitoring.provisioning import Servers

Port = Annotated[int, Ge(1), Le(65535)]
GRAFANA_HOME = Path("/usr/share/grafana")
"""Where Grafana's packages put its own files."""
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Show the runs on a Ray cluster by Prometheus and Grafana."""

    cluster: tyro.conf.Positional[str | None] = None
    """Folder of a run, folder of a session of Ray, or address of a cluster: HOST:PORT, or auto for the cluster that
    started last. The head of the cluster is on this machine. None: the only cluster that runs here."""
    output_dir: Path | None = None
    """Folder to write; None: monitoring/ in the folder of the run, or here."""
    prometheus_port: Port = 9090
    """Port of Prometheus."""
    grafana_port: Port = 3000
    """Port of Grafana."""
    scrape_seconds: Annotated[int, Ge(1)] = 10
    """Seconds between two readings of Prometheus; Ray itself reports every 10 seconds."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        from focus_agents.monitoring.provisioning import Servers, write_provisioning  # here: help comes without NumPy

        session = find_session(args.cluster, running_sessions())
        folder = Path(os.path.abspath(args.output_dir or default_folder(args.cluster)))
        servers = Servers(
            prometheus_port=args.prometheus_port,
            grafana_port=args.grafana_port,
            scrape_seconds=args.scrape_seconds,
        )
        write_provisioning(
            folder,
            session.folder,
            servers,
            endpoints=session.endpoints,
            token_file=token_file(args.cluster) if asks_for_a_token(session) else None,
        )
    print(f"session of Ray: {session.folder}\nwritten: {folder}\n\n{advice(folder, servers)}")
    if args.cluster in (None, AUTO) and (whose := session.whose()) is not None:
        print(f"\nnote: this cluster is not yours, it belongs to {whose}; name the folder of a run to see another one")


def default_folder(cluster: str | None) -> Path:
    """Return where the files go: into the run's folder, if a run is named."""
    is_run = cluster is not None and (Path(cluster) / CONFIG_FILE).is_file()
    return Path(cluster or ".") / "monitoring" if is_run else Path("monitoring")


def token_file(cluster: str | None) -> Path:
    """Return the file with the cluster's token: a run without a home keeps one in its own folder."""
    own = Path(cluster or "") / RUN_TOKEN_FILE
    elsewhere = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = elsewhere or (own if cluster and own.is_file() else TOKEN_FILE)
    return Path(os.path.expanduser(file)).absolute()  # a user without a home has none there


def asks_for_a_token(session: Session) -> bool:
    """Return whether Ray's endpoint answers only those who show the cluster's token; Ray's rules of that change."""
    for endpoint in session.endpoints:
        connection = http.client.HTTPConnection(endpoint, timeout=ANSWER_SECONDS)  # without the proxy for elsewhere
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().status in (401, 403)
        except (OSError, http.client.HTTPException):
            continue  # a node that has gone
        finally:
            connection.close()
    return False


def advice(folder: Path, servers: Servers) -> str:
    """Return what to do with the files, in commands that can be pasted."""
    from focus_agents.monitoring.provisioning import commands

    lines = commands(folder, servers, grafana_home=GRAFANA_HOME)
    text = ["Prometheus keeps the curves:"]
    if shutil.which("prometheus") is None:
        text.append("  apt-get install prometheus")
    text += [f"  {lines['prometheus']}", *busy("prometheus", servers.prometheus_port)]
    text += [f"  some of them without Grafana: {curves_url(servers)}", "", "Grafana draws the board:"]
    if shutil.which("grafana") is None:
        text.append("  install it, see https://grafana.com/grafana/download")
    text += [f"  {lines['grafana']}", *busy("grafana", servers.grafana_port), f"  then open {servers.board_url}"]
    ports = " ".join(f"-L {port}:127.0.0.1:{port}" for port in (servers.prometheus_port, servers.grafana_port))
    return "\n".join(
        [*text, "", "Both listen on this machine only. From another one:", f"  ssh -N {ports} THIS_MACHINE"]
    )


def busy(name: str, port: int) -> list[str]:
    """Return a line about a port that somebody listens at, such as the service that a package of Debian starts."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return []
    return [f"  port {port} is taken: stop who has it (`systemctl stop {name}`), or choose another --{name}-port"]


def curves_url(servers: Servers) -> str:
    """Return the address of a page of Prometheus itself with the first curve of some rows of the board."""
    from focus_agents.monitoring.board import ON_A_PAGE
    from focus_agents.monitoring.endpoint import endpoint_name

    parts = {
        f"g{number}.{key}": value
        for number, name in enumerate(ON_A_PAGE)
        for key, value in (("expr", endpoint_name(name) + '{part=""}'), ("tab", "0"), ("range_input", "1h"))
    }
    return f"{servers.prometheus_url}/graph?{urlencode(parts)}"


if __name__ == "__main__":
    main()
