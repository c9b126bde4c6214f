"""`python -m focus_agents`: the same as `focus`."""

from focus_agents.cli.main import main

if __name__ == "__main__":
    main()
