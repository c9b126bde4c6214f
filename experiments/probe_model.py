"""Read a model's hidden states by a linear probe: the same as `focus probe`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("probe")
