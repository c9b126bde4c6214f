"""Episodes of any data set as a store: the same as `focus data`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("data")
