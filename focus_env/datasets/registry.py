"""Data sets by name: one entry each, with how it is loaded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focus_env.annotations import FORMATS
from focus_env.datasets.labelled import LabelledEpisodes, read_tracks
from focus_env.datasets.readers.got10k import Got10kTracks
from focus_env.datasets.readers.iploc_json import IPLocEpisodes
from focus_env.datasets.readers.lasot import LasotTracks
from focus_env.datasets.readers.perseg import PerSegTracks
from focus_env.datasets.readers.tao import TaoTracks, tao_held_out_lasot_videos
from focus_env.datasets.sampler import AbsentPolicy, SamplingProtocol, TrackEpisodes
from focus_env.datasets.store import StoreEpisodes
from focus_env.datasets.synthetic import SyntheticDataset
from focus_env.datasets.transforms import parse_weights
from focus_env.registry import Registry
from focus_env.types import EpisodeDataset, Track

TRACK_OPTIONS = ("episodes_per_track", "min_gap", "on_bad")
"""Options of `TrackEpisodes`."""
LABELLED_OPTIONS = (*TRACK_OPTIONS, "identity", "image_root")
"""Options of labelled pictures, see `focus_env.datasets.labelled`."""


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """Settings that `load_dataset` hands to a data set, which leaves aside what has no meaning for its episodes.

    Attributes:
        split: Which part.
        shots: Supports per episode.
        seed: Seed of whatever is drawn.
        protocol: How episodes are built from tracks, see `focus_env.datasets.sampler`.
        absent: What becomes of frames without the object.
        beside: Roots of the data sets that are loaded together with this one, by name.
    """

    split: str
    shots: int
    seed: int
    protocol: SamplingProtocol
    absent: AbsentPolicy
    beside: Mapping[str, str | Path | None] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """A data set that is known by name.

    Attributes:
        name: As users write it.
        help: A short description without a full stop.
        load: Called as ``load(root, request, **options)``, with those of `options` that the user gives; `root` is None
            for a data set that needs none.
        options: Names of the options that this data set has of its own.
        ignores: Names of the settings of `DatasetRequest` that have no effect on its episodes.
        needs_root: Whether it is read from files that the user names by `root`.
        source: For messages: the thing that `root` must be; or where no root is needed, the reason in a few words.
        validation_protocol: How episodes are built that a training validates on, unless it asks for IPLoc's: focus, or
            random where there are too few tracks for one episode of each.
    """

    name: str
    help: str
    load: Callable[..., EpisodeDataset]
    options: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    needs_root: bool = True
    source: str = "the folder where it was unpacked"
    validation_protocol: SamplingProtocol = "focus"

    @property
    def usage(self) -> str:
        """The name; a data set takes no argument."""
        return self.name

    @property
    def summary(self) -> str:
        """The help, with the thing that `root` must be."""
        return f"{self.help}; {f'read from {self.source}' if self.needs_root else self.source}"


def track_dataset(name: str, reader: Callable[..., Sequence[Track]], *, help: str) -> DatasetEntry:
    """Return the entry of a data set that is read as tracks and sampled by `TrackEpisodes`.

    Args:
        name: As users write it.
        reader: Called as ``reader(root, split=split)``.
        help: A short description without a full stop.
    """
    return DatasetEntry(name=name, help=help, load=functools.partial(_load_tracks, reader), options=TRACK_OPTIONS)


def _load_tracks(
    reader: Callable[..., Sequence[Track]], root: str | Path, request: DatasetRequest, **options: Any
) -> EpisodeDataset:
    return TrackEpisodes(
        reader(root, split=request.split),
        shots=request.shots,
        seed=request.seed,
        protocol=request.protocol,
        absent=request.absent,
        **options,
    )


def _labelled_dataset(name: str, help: str) -> DatasetEntry:
    """Return the entry of labelled pictures of one's own in a format."""
    return DatasetEntry(
        name=name,
        help=f"pictures of your own: {help}",
        load=functools.partial(_load_labelled, name),
        options=LABELLED_OPTIONS,
        source="the file or folder of the annotations",
        validation_protocol="random",
    )


def _load_labelled(
    format: str,
    root: str | Path,
    request: DatasetRequest,
    *,
    identity: str = "auto",
    image_root: str | Path | None = None,
    **options: Any,
) -> EpisodeDataset:
    tracks = read_tracks(
        root,
        format=format,
        split=request.split,
        identity=identity,
        image_root=image_root,
        on_bad=options.get("on_bad", "raise"),
    )
    return LabelledEpisodes(
        tracks, shots=request.shots, seed=request.seed, protocol=request.protocol, absent=request.absent, **options
    )


def _load_lasot(root: str | Path, request: DatasetRequest, **options: Any) -> EpisodeDataset:
    reader: Callable[..., Sequence[Track]] = LasotTracks
    tao = request.beside.get("tao")
    if tao is not None and "test" not in request.split:
        # TAO's test and validation sets hold sequences of LaSOT's training set.
        reader = functools.partial(LasotTracks, exclude=tao_held_out_lasot_videos(tao))
    return _load_tracks(reader, root, request, **options)


def _load_tao(root: str | Path, request: DatasetRequest, **options: Any) -> EpisodeDataset:
    reader = functools.partial(TaoTracks, skips=options.get("on_bad") == "skip")
    return _load_tracks(reader, root, request, **options)


def _load_synthetic(root: None, request: DatasetRequest, **options: Any) -> EpisodeDataset:
    return SyntheticDataset(split=request.split, shots=request.shots, seed=request.seed, **options)


def _load_iploc_json(
    root: str | Path, request: DatasetRequest, *, image_root: str | Path | None = None, **options: Any
) -> EpisodeDataset:
    if image_root is None:
        raise ValueError("data set 'iploc_json' names its pictures only: pass `image_root`, the folder they are below")
    return IPLocEpisodes(root, image_root=image_root, shots=request.shots, absent=request.absent, **options)


def _load_store(root: str | Path, request: DatasetRequest) -> EpisodeDataset:
    return StoreEpisodes(root)


DATASETS: Registry[DatasetEntry] = Registry(
    "data set",
    "focus_env.datasets",
    DatasetEntry,
    [
        DatasetEntry(
            name="synthetic",
            help="procedural scenes",
            load=_load_synthetic,
            options=("num_episodes", "level", "image_size", "num_objects", "distractors", "absent_fraction", "scenes"),
            ignores=("protocol", "absent"),
            needs_root=False,
            source="drawn, not read",
        ),
        track_dataset("got10k", Got10kTracks, help="GOT-10k, one object per video"),
        DatasetEntry(
            name="lasot", help="LaSOT, one object per video, long ones", load=_load_lasot, options=TRACK_OPTIONS
        ),
        DatasetEntry(name="tao", help="TAO, several objects per video", load=_load_tao, options=TRACK_OPTIONS),
        track_dataset("perseg", PerSegTracks, help="PerSeg, one object per folder, for tests alone"),
        DatasetEntry(
            name="iploc_json",
            help="episodes that IPLoc published",
            load=_load_iploc_json,
            options=("image_root", "on_bad"),
            ignores=("split", "seed", "protocol"),
            source="one of IPLoc's JSON files",
        ),
        *(_labelled_dataset(entry.name, entry.help) for entry in FORMATS.built_in.values()),
        DatasetEntry(
            name="store",
            help="episodes that were written as a store",
            load=_load_store,
            ignores=("split", "shots", "seed", "protocol", "absent"),
            source="the folder of the store, which has a manifest.json",
        ),
    ],
)
"""The data sets that `load_dataset` knows by name; installed packages add theirs, see `focus_env.registry`."""


def entries_of(name: str) -> list[DatasetEntry]:
    """Return the entries of one data set, or of several with weights.

    Args:
        name: As `load_dataset` takes it.

    Raises:
        ValueError: If a name is unknown.
    """
    entries = []
    for part in parse_weights(name) if ":" in name else (name,):
        if (entry := DATASETS.find(part)) is None:
            raise ValueError(f"unknown data set {part!r}; there are {DATASETS.known()}")
        entries.append(entry)
    return entries


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` knows."""
    return tuple(DATASETS.load_all()[0])


def datasets_help() -> str:
    """Return what `--help` says of data sets: a line for each of `DATASETS`."""
    return f"One of these, or several with weights, e.g. tao:0.5,got10k:0.5.\n{DATASETS.help()}"
