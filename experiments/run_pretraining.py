"""Pretrain the small base model: the same as `focus pretrain`."""

from focus_agents.cli.pretrain import main

if __name__ == "__main__":
    main()
