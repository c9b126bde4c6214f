"""Data sets: everything that serves `Episode` records by index.

`load_dataset` loads one by its name, an entry of `focus_env.datasets.registry.DATASETS`. Several of them are one by
names and weights, as in ``"tao:0.5,got10k:0.3,lasot:0.2"``.

Any sized, indexable collection of episodes will do in their place, see `focus_env.types.EpisodeDataset`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from focus_env.datasets.readers.got10k import Got10kTracks
from focus_env.datasets.readers.iploc_json import IPLocEpisodes
from focus_env.datasets.readers.lasot import LasotTracks
from focus_env.datasets.readers.perseg import PerSegTracks
from focus_env.datasets.readers.tao import TaoTracks
from focus_env.datasets.registry import (
    DATASETS,
    DatasetEntry,
    DatasetRequest,
    dataset_names,
    datasets_help,
    entries_of,
    track_dataset,
)
from focus_env.datasets.sampler import AbsentPolicy, SamplingProtocol, TrackEpisodes
from focus_env.datasets.store import StoreEpisodes
from focus_env.datasets.synthetic import SyntheticDataset
from focus_env.datasets.transforms import EnlargedPictures, JointEpisodes, ShrunkPictures, parse_weights
from focus_env.plain_numbers import require_whole
from focus_env.types import EpisodeDataset

__all__ = [
    "DATASETS",
    "DatasetEntry",
    "DatasetRequest",
    "EnlargedPictures",
    "Got10kTracks",
    "IPLocEpisodes",
    "JointEpisodes",
    "LasotTracks",
    "PerSegTracks",
    "ShrunkPictures",
    "StoreEpisodes",
    "SyntheticDataset",
    "TaoTracks",
    "TrackEpisodes",
    "dataset_names",
    "datasets_help",
    "entries_of",
    "load_dataset",
    "track_dataset",
]

Root = str | Path | Mapping[str, str | Path]


def load_dataset(
    name: str,
    *,
    split: str = "train",
    root: Root | None = None,
    shots: int = 4,
    seed: int = 0,
    protocol: SamplingProtocol = "focus",
    absent: AbsentPolicy = "skip",
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    **options: Any,
) -> EpisodeDataset:
    """Load a data set by name.

    Args:
        name: One of `dataset_names`, or several with weights, as in ``"tao:0.5,got10k:0.5"``.
        split: Which part; each data set names its own. Without effect on iploc_json and store, which are each one part.
        root: Folder of a data set on disk, or the file of iploc_json; not for synthetic. Of several data sets: a folder
            with one for each, by its name, or a mapping from their names.
        shots: Supports per episode, at least 1. Without effect on a store, whose episodes are fixed.
        seed: Seed of whatever the data set draws, at least 0. Without effect on iploc_json and store.
        protocol: How episodes are built from tracks, see `focus_env.datasets.sampler`. Without effect on
            synthetic, whose scenes are independent of each other, and where episodes are fixed.
        absent: What becomes of frames without the object. Without effect on synthetic, which has
            `absent_fraction`, and on a store.
        max_pixels: Most pixels of a picture; larger ones are decoded smaller, and boxes go with them, see
            `ShrunkPictures`. None: all as they are.
        min_pixels: Least pixels of a picture; smaller ones are enlarged, see `EnlargedPictures`. None: all as they are.
        **options: Options of that data set alone, see its entry in `DATASETS`; their meaning is that of the arguments
            of `SyntheticDataset`, `TrackEpisodes` or `IPLocEpisodes`. Of several data sets each gets those it has.

    Raises:
        ValueError: If the name, an option or a value is unknown, or `root` or `image_root` is missing or superfluous.
        DatasetError: If the files are missing or malformed.
    """
    require_whole(shots, "shots")
    require_whole(seed, "seed")
    check_pixels(min_pixels, max_pixels)
    request = DatasetRequest(split=split, shots=shots, seed=seed, protocol=protocol, absent=absent)
    if ":" in name:
        episodes = _load_joint(parse_weights(name), root, request, options)
    else:
        (entry,) = entries_of(name)
        _check_options(name, options, entry.options)
        episodes = _load_one(entry, root, request, options)
    episodes = episodes if max_pixels is None else ShrunkPictures(episodes, max_pixels)
    return episodes if min_pixels is None else EnlargedPictures(episodes, min_pixels)


def _check_options(name: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := sorted(set(options) - set(known)):
        own = f"its own are {', '.join(known)}" if known else "it has none"
        raise ValueError(f"data set {name!r} has no option {', '.join(unknown)}; {own}")


def check_pixels(min_pixels: int | None, max_pixels: int | None) -> None:
    """Check the limits of pictures.

    Args:
        min_pixels: Least pixels of a picture; None: any.
        max_pixels: Most.

    Raises:
        ValueError: If one is no whole number above 0, or the least is above the most.
    """
    for limit, what in ((max_pixels, "max_pixels"), (min_pixels, "min_pixels")):
        if limit is not None:
            require_whole(limit, what)
    if max_pixels is not None and min_pixels is not None and min_pixels > max_pixels:
        raise ValueError(f"min_pixels: expected at most `max_pixels`, {max_pixels}, got {min_pixels}")


def _load_joint(
    weights: Mapping[str, float], root: Root | None, request: DatasetRequest, options: Mapping[str, Any]
) -> EpisodeDataset:
    """Return several data sets, each from its own folder."""
    entries = {name: entries_of(name)[0] for name in weights}
    known = sorted({option for entry in entries.values() for option in entry.options})
    _check_options(",".join(weights), options, known)
    roots: dict[str, Any] = dict.fromkeys(weights)
    if isinstance(root, Mapping):
        roots |= root
    elif root is not None:
        roots = {name: Path(root) / name if entry.needs_root else None for name, entry in entries.items()}
    parts = {}
    for name, entry in entries.items():
        own = {option: value for option, value in options.items() if option in entry.options}
        beside = {other: roots[other] for other in weights if other != name}
        parts[name] = _load_one(entry, roots[name], dataclasses.replace(request, beside=beside), own)
    return JointEpisodes(parts, weights, seed=request.seed)


def _load_one(
    entry: DatasetEntry, root: Root | None, request: DatasetRequest, options: Mapping[str, Any]
) -> EpisodeDataset:
    if not (root is None or isinstance(root, str | Path | Mapping)):
        raise ValueError(f"root: expected a path, got {type(root).__name__}: {root!r:.80}")
    root = Path(os.path.expanduser(root)) if isinstance(root, str | Path) else root
    if not entry.needs_root and root is not None:
        raise ValueError(f"data set {entry.name!r} is {entry.source}: leave out root, got {str(root)!r}")
    if entry.needs_root and (root is None or isinstance(root, Mapping)):
        raise ValueError(f"data set {entry.name!r} is read from files: pass `root`, {entry.source}")
    return entry.load(root, request, **options)
