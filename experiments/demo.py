"""From pictures to a box: the same as `focus demo`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("demo")
