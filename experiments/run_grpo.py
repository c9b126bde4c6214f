"""Stage 2: GRPO: the same as `focus grpo`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("grpo")
