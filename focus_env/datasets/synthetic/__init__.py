"""Procedural episodes: a scene generator that needs no file and never runs out."""

from focus_env.datasets.synthetic.dataset import SyntheticDataset

__all__ = ["SyntheticDataset"]
