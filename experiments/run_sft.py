"""Stage 1: supervised fine-tuning with attention loss: the same as `focus sft`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("sft")
