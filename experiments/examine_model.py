"""See whether a model, a data set and a prompt fit together: the same as `focus doctor`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("doctor")
