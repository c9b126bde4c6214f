"""Data sets: everything that serves `Episode` records by index."""

from focus_env.datasets.synthetic import SyntheticDataset

__all__ = ["SyntheticDataset"]
