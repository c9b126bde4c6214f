"""Procedural episodes: a scene generator that needs no file and never runs out."""

from focus_env.datasets.synthetic.dataset import Scenes, SyntheticDataset

__all__ = ["Scenes", "SyntheticDataset"]
