"""Stage 1: supervised fine-tuning with attention loss: the same as `focus sft`."""

from focus_agents.cli.sft import main

if __name__ == "__main__":
    main()
