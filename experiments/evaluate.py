"""Evaluate policies: the same as `focus evaluate`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("evaluate")
