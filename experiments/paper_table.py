"""The paper's tables for what is on this disk: the same as `focus paper`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("paper")
