"""Show the runs on a Ray cluster by Prometheus and Grafana: the same as `focus monitor`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("monitor")
