"""Share a policy on the hub, with a card: the same as `focus push`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("push")
