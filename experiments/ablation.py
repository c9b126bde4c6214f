"""The paper's ablation on synthetic scenes: the same as `focus ablation`."""

from focus_agents.cli.ablation import main

if __name__ == "__main__":
    main()
