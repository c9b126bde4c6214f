"""Which reward trains best?: the same as `focus rewards`."""

from focus_agents.cli.rewards import main

if __name__ == "__main__":
    main()
