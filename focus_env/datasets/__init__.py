"""Data sets: everything that serves `Episode` records by index.

    name        what it holds                              options of its own
    synthetic   procedural scenes, nothing to download     num_episodes, level, image_size, num_objects,
                                                           distractors, absent_fraction
    got10k      one object per video                       episodes_per_track, min_gap, on_bad
    lasot       one object per video, long ones            episodes_per_track, min_gap, on_bad
    tao         several objects per video                  episodes_per_track, min_gap, on_bad
    perseg      one object per folder; split "test" alone  episodes_per_track, min_gap, on_bad
    iploc_json  IPLoc's episodes; `root` is the JSON file  image_root (needed), on_bad
    store       what `focus_env.datasets.store` wrote

All but synthetic need `root`. Several of them are one by names and weights, as in ``"tao:0.5,got10k:0.3,lasot:0.2"``.

Any sized, indexable collection of episodes will do in their place, see `focus_env.types.EpisodeDataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from focus_env.datasets.readers.got10k import Got10kTracks
from focus_env.datasets.readers.iploc_json import IPLocEpisodes
from focus_env.datasets.readers.lasot import LasotTracks
from focus_env.datasets.readers.perseg import PerSegTracks
from focus_env.datasets.readers.tao import TaoTracks, tao_held_out_lasot_videos
from focus_env.datasets.sampler import AbsentPolicy, SamplingProtocol, TrackEpisodes
from focus_env.datasets.store import StoreEpisodes
from focus_env.datasets.synthetic import SyntheticDataset
from focus_env.datasets.transforms import JointEpisodes, ShrunkPictures, parse_weights
from focus_env.types import EpisodeDataset, Track

__all__ = [
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
    "load_dataset",
]

Root = str | Path | Mapping[str, str | Path]

_TRACK_READERS: dict[str, Callable[..., Sequence[Track]]] = {
    "got10k": Got10kTracks,
    "lasot": LasotTracks,
    "tao": TaoTracks,
    "perseg": PerSegTracks,
}
"""Adapters, called as ``reader(root, split=split)``."""

_OPTIONS: dict[str, tuple[str, ...]] = {
    "synthetic": ("num_episodes", "level", "image_size", "num_objects", "distractors", "absent_fraction"),
    **dict.fromkeys(_TRACK_READERS, ("episodes_per_track", "min_gap", "on_bad")),
    "iploc_json": ("image_root", "on_bad"),
    "store": (),
}


def dataset_names() -> tuple[str, ...]:
    """The names that `load_dataset` knows."""
    return tuple(_OPTIONS)


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
        **options: Options of that data set alone, see the table above; their meaning is that of the arguments of
            `SyntheticDataset`, `TrackEpisodes` or `IPLocEpisodes`. Of several data sets each gets those it has.

    Raises:
        ValueError: If the name, an option or a value is unknown, or `root` or `image_root` is missing or superfluous.
        DatasetError: If the files are missing or malformed.
    """
    common: dict[str, Any] = {"split": split, "shots": shots, "seed": seed, "protocol": protocol, "absent": absent}
    if ":" in name:
        episodes = _load_joint(parse_weights(name), root, common, options)
    else:
        _check_name(name)
        _check_options(name, options, _OPTIONS[name])
        episodes = _load_one(name, root, **common, **options)
    return episodes if max_pixels is None else ShrunkPictures(episodes, max_pixels)


def _check_name(name: str) -> None:
    if name not in _OPTIONS:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(_OPTIONS)}")


def _check_options(name: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := sorted(set(options) - set(known)):
        own = f"its own are {', '.join(known)}" if known else "it has none"
        raise ValueError(f"data set {name!r} has no option {', '.join(unknown)}; {own}")


def _load_joint(
    weights: Mapping[str, float], root: Root | None, common: Mapping[str, Any], options: Mapping[str, Any]
) -> EpisodeDataset:
    """Several data sets, each from its own folder."""
    for name in weights:
        _check_name(name)
    _check_options(",".join(weights), options, sorted({option for name in weights for option in _OPTIONS[name]}))
    roots: dict[str, Any] = dict.fromkeys(weights)
    if isinstance(root, Mapping):
        roots |= root
    elif root is not None:
        roots = {name: None if name == "synthetic" else Path(root) / name for name in weights}
    parts = {}
    for name in weights:
        own = {option: value for option, value in options.items() if option in _OPTIONS[name]}
        if name == "lasot" and "tao" in weights and roots["tao"] is not None and "test" not in common["split"]:
            own["exclude"] = tao_held_out_lasot_videos(roots["tao"])
        parts[name] = _load_one(name, roots[name], **common, **own)
    return JointEpisodes(parts, weights, seed=common["seed"])


def _load_one(
    name: str,
    root: Root | None,
    *,
    split: str,
    shots: int,
    seed: int,
    protocol: SamplingProtocol,
    absent: AbsentPolicy,
    **options: Any,
) -> EpisodeDataset:
    if name == "synthetic":
        if root is not None:
            raise ValueError(f"data set 'synthetic' is drawn, not read: leave out root, got {str(root)!r}")
        return SyntheticDataset(split=split, shots=shots, seed=seed, **options)
    if root is None or isinstance(root, Mapping):
        what = "one of IPLoc's JSON files" if name == "iploc_json" else "the folder where it was unpacked"
        raise ValueError(f"data set {name!r} is read from files: pass root, {what}")
    if name == "store":
        return StoreEpisodes(root)
    if name == "iploc_json":
        if options.get("image_root") is None:
            raise ValueError(
                "data set 'iploc_json' names its pictures only: pass image_root, the folder they are below"
            )
        return IPLocEpisodes(root, shots=shots, absent=absent, **options)
    exclude = {"exclude": options.pop("exclude")} if "exclude" in options else {}
    tracks = _TRACK_READERS[name](root, split=split, **exclude)
    return TrackEpisodes(tracks, shots=shots, seed=seed, protocol=protocol, absent=absent, **options)
