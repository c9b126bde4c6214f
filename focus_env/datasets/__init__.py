"""Data sets: everything that serves `Episode` records by index.

    name        what it holds                              options of its own
    synthetic   procedural scenes, nothing to download     num_episodes, level, image_size, num_objects,
                                                           distractors, absent_fraction
    got10k      one object per video; needs `root`         episodes_per_track, min_gap, on_bad
    perseg      one object per folder; needs `root`; its   episodes_per_track, min_gap, on_bad
                only split is "test"
    iploc_json  IPLoc's episodes; `root` is the JSON file  image_root (needed), on_bad

Any sized, indexable collection of episodes will do in their place, see `focus_env.types.EpisodeDataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from focus_env.datasets.got10k import Got10kTracks
from focus_env.datasets.iploc_json import IPLocEpisodes
from focus_env.datasets.perseg import PerSegTracks
from focus_env.datasets.sampler import AbsentPolicy, SamplingProtocol, TrackEpisodes
from focus_env.datasets.synthetic import SyntheticDataset
from focus_env.types import EpisodeDataset, Track

__all__ = [
    "Got10kTracks",
    "IPLocEpisodes",
    "PerSegTracks",
    "SyntheticDataset",
    "TrackEpisodes",
    "dataset_names",
    "load_dataset",
]

_TRACK_READERS: dict[str, Callable[..., Sequence[Track]]] = {"got10k": Got10kTracks, "perseg": PerSegTracks}
"""Adapters, called as ``reader(root, split=split)``."""

_OPTIONS = {
    "synthetic": ("num_episodes", "level", "image_size", "num_objects", "distractors", "absent_fraction"),
    "iploc_json": ("image_root", "on_bad"),
    **dict.fromkeys(_TRACK_READERS, ("episodes_per_track", "min_gap", "on_bad")),
}


def dataset_names() -> tuple[str, ...]:
    """The names that `load_dataset` knows."""
    return tuple(_OPTIONS)


def load_dataset(
    name: str,
    *,
    split: str = "train",
    root: str | Path | None = None,
    shots: int = 4,
    seed: int = 0,
    protocol: SamplingProtocol = "focus",
    absent: AbsentPolicy = "skip",
    **options: Any,
) -> EpisodeDataset:
    """Load a data set by name.

    Args:
        name: One of `dataset_names`.
        split: Which part; each data set names its own. Without effect on iploc_json, whose files are each one part.
        root: Folder of a data set on disk, or the file of iploc_json; not for synthetic.
        shots: Supports per episode, at least 1.
        seed: Seed of whatever the data set draws, at least 0. Without effect on iploc_json.
        protocol: How episodes are built from tracks, see `focus_env.datasets.sampler`. Without effect on
            synthetic, whose scenes are independent of each other, and on iploc_json, whose episodes are fixed.
        absent: What becomes of frames without the object. Without effect on synthetic, which has
            `absent_fraction`.
        **options: Options of that data set alone, see the table above; their meaning is that of the arguments of
            `SyntheticDataset`, `TrackEpisodes` or `IPLocEpisodes`.

    Raises:
        ValueError: If the name, an option or a value is unknown, or `root` or `image_root` is missing or superfluous.
        DatasetError: If the files are missing or malformed.
    """
    if name not in _OPTIONS:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(_OPTIONS)}")
    unknown = sorted(set(options) - set(_OPTIONS[name]))
    if unknown:
        raise ValueError(
            f"data set {name!r} has no option {', '.join(unknown)}; its own are {', '.join(_OPTIONS[name])}"
        )
    if name == "synthetic":
        if root is not None:
            raise ValueError(f"data set 'synthetic' is drawn, not read: leave out root, got {str(root)!r}")
        return SyntheticDataset(split=split, shots=shots, seed=seed, **options)
    if root is None:
        what = "one of IPLoc's JSON files" if name == "iploc_json" else "the folder where it was unpacked"
        raise ValueError(f"data set {name!r} is read from files: pass root, {what}")
    if name == "iploc_json":
        if options.get("image_root") is None:
            raise ValueError(
                "data set 'iploc_json' names its pictures only: pass image_root, the folder they are below"
            )
        return IPLocEpisodes(root, shots=shots, absent=absent, **options)
    tracks = _TRACK_READERS[name](root, split=split)
    return TrackEpisodes(tracks, shots=shots, seed=seed, protocol=protocol, absent=absent, **options)
