"""The commands of a table, run one after the other: the same as `focus recipe`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("recipe")
