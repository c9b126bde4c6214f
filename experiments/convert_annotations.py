"""Annotations from one format into another: the same as `focus convert`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("convert")
