"""Episodes of any data set as a store: the same as `focus data`."""

from focus_agents.cli.data import main

if __name__ == "__main__":
    main()
