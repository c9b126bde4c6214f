"""How well policies localize: the same as `focus evaluate`."""

from focus_agents.cli.evaluate import main

if __name__ == "__main__":
    main()
