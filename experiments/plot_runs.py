"""Draw the curves of runs side by side: the same as `focus plot`."""

from focus_agents.cli.plot import main

if __name__ == "__main__":
    main()
