"""The paper's ablation on synthetic scenes: the same as `focus ablation`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("ablation")
