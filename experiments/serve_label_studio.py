"""Boxes proposed in Label Studio, from those that are labelled so far: the same as `focus labelstudio`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("labelstudio")
