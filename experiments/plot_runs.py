"""Draw the curves of runs side by side: the same as `focus plot`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("plot")
