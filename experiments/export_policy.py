"""Write a policy as a folder that transformers, PEFT and vLLM load: the same as `focus export`."""

from focus_agents.cli.main import run_command

if __name__ == "__main__":
    run_command("export")
