"""Pretrain the small base model: the same as `focus pretrain`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("pretrain")
