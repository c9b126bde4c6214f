"""From pictures to a box: the same as `focus demo`."""

from focus_agents.cli.demo import main

if __name__ == "__main__":
    main()
