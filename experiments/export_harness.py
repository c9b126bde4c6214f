"""Our episodes for lmms-eval and VLMEvalKit: the same as `focus harness`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("harness")
