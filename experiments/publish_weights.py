"""Make a run's model one of those that come with the package: the same as `focus publish`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("publish")
