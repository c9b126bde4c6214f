"""An object that is shown once, found in many pictures: the same as `focus find`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("find")
