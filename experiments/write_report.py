"""Write a run, or several side by side, as one HTML file: the same as `focus report`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("report")
