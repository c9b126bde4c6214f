"""A page to try it: boxes drawn in some pictures, answers in all others: the same as `focus app`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("app")
