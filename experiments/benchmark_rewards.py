"""Compare rewards by training: the same as `focus rewards`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("rewards")
