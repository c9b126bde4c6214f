"""Stage 2: GRPO: the same as `focus grpo`."""

from focus_agents.cli.grpo import main

if __name__ == "__main__":
    main()
