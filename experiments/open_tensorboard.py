"""Open TensorBoard on runs: the same as `focus tensorboard`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("tensorboard")
