"""Labelled pictures of one's own as tracks, from any format of `focus_env.annotations`.

Files are read by `focus_env.annotations`, which says what becomes of their defects. An object through its pictures is
a track. Which boxes show the same object is said by `identity`:

    auto          the first of these that every box has: a track; an attribute identity, instance, instance_id or
                  object_id; its label
    track         the track. Where it is a number, which most tools count from 0 in each file, it is one of its clip and
                  label; a name is one of all pictures
    label         the label, in all pictures
    clip          the label within a clip, for names of classes: the dog of one video is not that of another
    any other     the attribute of this name

Where files or folders say which split a picture belongs to, for two splits at least, that counts. Else clips are
split, see `focus_env.datasets.clips`. The split ``"all"`` is all pictures.

Counted in `LabelledEpisodes.skipped`, beside what the annotations themselves count:

    pictures_no_split     some pictures have a split, this one has none
    pictures_several      a picture with two boxes of one identity, which has no one answer
    boxes_no_identity     a box without the track or attribute that was asked for
    boxes_crowd           COCO's iscrowd, a box around many
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from focus_env.annotations import LabelledBox, LabelledPicture, read_annotations
from focus_env.datasets.clips import clip_of, find_clips, split_clips
from focus_env.datasets.sampler import MAX_BAD_SHOWN, BadPolicy, TrackEpisodes
from focus_env.errors import DatasetError
from focus_env.types import Box, Frame, Note, Track

SPLITS = ("train", "val", "test", "all")
IDENTITIES = ("auto", "track", "label", "clip")
ATTRIBUTES = ("identity", "instance", "instance_id", "object_id")
"""Attributes that say which object a box shows."""


@dataclass(frozen=True)
class LabelledTracks:
    """The tracks of a split.

    Attributes:
        tracks: By the names of their identities.
        skipped: What was left out, by reason.
        faults: What is wrong with it, with file and line.
        rule: How pictures were split and objects told apart, in words.
    """

    tracks: tuple[Track, ...]
    skipped: Mapping[str, int]
    faults: tuple[str, ...]
    rule: str


class LabelledEpisodes(TrackEpisodes):
    """Episodes of labelled pictures.

    Attributes:
        described: How pictures were split and objects told apart, in words.

    Args:
        labelled: The tracks.
        options: Those of `TrackEpisodes`.
    """

    def __init__(self, labelled: LabelledTracks, **options: Any) -> None:
        super().__init__(labelled.tracks, **options)
        self.described = labelled.rule
        self.bad = [*labelled.faults, *self.bad][:MAX_BAD_SHOWN]
        self._left_out = dict(labelled.skipped)

    @property
    def skipped(self) -> Mapping[str, int]:
        """See the module and `TrackEpisodes`."""
        return MappingProxyType(dict(Counter(self._left_out) + Counter(super().skipped)))


def read_tracks(
    root: str | Path,
    *,
    format: str,
    split: str,
    identity: str = "auto",
    image_root: str | Path | None = None,
    on_bad: BadPolicy = "raise",
) -> LabelledTracks:
    """Read the tracks of a split.

    Args:
        root: The file or folder of the annotations.
        format: A name of `focus_env.annotations.FORMATS`.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        identity: What says which object a box shows, see the module.
        image_root: The folder of the pictures; None: see `focus_env.annotations.read_annotations`.
        on_bad: Whether what cannot be used is an error or is left out, and counted.

    Raises:
        ValueError: If the split does not exist, also where files or folders say the splits and this is none of them; or
            if nothing has the attribute that `identity` names.
        DatasetError: If the files are missing or malformed.
    """
    if split not in SPLITS:
        raise ValueError(f"the split of labelled pictures must be one of {SPLITS}, got {split!r}")
    read = read_annotations(root, format=format, image_root=image_root, needs_pictures=True, on_bad=on_bad)
    if not any(picture.objects for picture in read.pictures):
        told = read.faults[0].message if read.faults else "no picture has a box"
        raise DatasetError(f"{root}: expected pictures with boxes, found none: {told}")
    skipped = Counter(read.skipped)
    chosen, split_rule = _chosen(read.pictures, split, skipped)
    chosen.sort(key=lambda picture: (clip_of(picture), natural(picture.name)))
    tell, identity_rule = _teller(read.pictures, identity)
    tracks = _tracks(chosen, tell, skipped)
    faults = tuple(fault.message for fault in read.faults)
    return LabelledTracks(tuple(tracks), skipped, faults, f"{split_rule}; objects by {identity_rule}")


def _chosen(
    pictures: Sequence[LabelledPicture], split: str, skipped: Counter[str]
) -> tuple[list[LabelledPicture], str]:
    """Return the pictures of a split, and how they were split."""
    told = {picture.split for picture in pictures} - {""}
    if split == "all":
        return list(pictures), "all pictures"
    if len(told) > 1:
        if split not in told:
            raise ValueError(
                f"split: expected one of {', '.join(sorted(told))}, as the files and folders say, got {split!r}"
            )
        if without := sum(not picture.split for picture in pictures):
            skipped["pictures_no_split"] += without
        return [picture for picture in pictures if picture.split == split], "splits as files and folders say"
    clips = find_clips(pictures)
    splits = split_clips(clips.names)
    counts = Counter(splits.values())
    rule = f"{len(splits)} clips ({clips.rule}) split into " + ", ".join(
        f"{counts[name]} {name}" for name in SPLITS[:3] if counts[name]
    )
    if not counts[split]:
        raise ValueError(
            f"split: {rule}, which leaves none for {split!r}; pass 'all', add pictures of other clips, or sort "
            "pictures into folders train, val and test"
        )
    return [picture for picture, clip in zip(pictures, clips.names, strict=True) if splits[clip] == split], rule


class _Teller:
    """Tells which object a box shows."""

    def __init__(self, kind: str, attribute: str = "") -> None:
        self.kind, self.attribute = kind, attribute

    def __call__(self, one: LabelledBox, clip: str) -> str:
        """Return the identity; empty where nothing says it."""
        if self.kind == "label":
            return one.label
        if self.kind == "clip":
            return f"{clip}/{one.label}" if clip else one.label
        if self.kind == "attribute":
            return one.attributes.get(self.attribute, "")
        is_number = one.track.isdecimal()
        return "/".join(filter(None, (clip, one.label, one.track))) if one.track and is_number else one.track


def _teller(pictures: Sequence[LabelledPicture], identity: str) -> tuple[_Teller, str]:
    everything = [one for picture in pictures for one in picture.objects if not _is_crowd(one)]
    if identity == "auto":
        if all(one.track for one in everything):
            return _Teller("track"), "their tracks"
        for name in ATTRIBUTES:
            if all(one.attributes.get(name) for one in everything):
                return _Teller("attribute", name), f"the attribute {name!r}"
        return _Teller("label"), "their labels"
    if identity == "label":
        return _Teller("label"), "their labels"
    if identity == "clip":
        return _Teller("clip"), "their labels within a clip"
    if identity == "track":
        if not any(one.track for one in everything):
            raise ValueError("identity: expected boxes with a track, found none; pass 'label', 'clip' or an attribute")
        return _Teller("track"), "their tracks"
    known = sorted({name for one in everything for name in one.attributes})
    if identity not in known:
        raise ValueError(
            f"identity: expected one of {', '.join(IDENTITIES)}, or an attribute that boxes have "
            f"({', '.join(known[:12]) or 'they have none'}), got {identity!r}"
        )
    return _Teller("attribute", identity), f"the attribute {identity!r}"


def _is_crowd(one: LabelledBox) -> bool:
    return one.attributes.get("iscrowd") == "true"


def _tracks(chosen: Sequence[LabelledPicture], tell: _Teller, skipped: Counter[str]) -> list[Track]:
    """Return one track for each identity."""
    frames: dict[str, list[tuple[Frame, LabelledBox]]] = {}
    for picture in chosen:
        assert picture.path is not None, f"{picture.name} was read without its file"
        found: dict[str, list[LabelledBox]] = {}
        for one in picture.objects:
            name = "" if _is_crowd(one) else tell(one, clip_of(picture))
            if name:
                found.setdefault(name, []).append(one)
            else:
                skipped["boxes_crowd" if _is_crowd(one) else "boxes_no_identity"] += 1
        frame = Frame(picture.name, picture.image_wh, picture.path)
        for name, several in found.items():
            if len(several) > 1:
                skipped["pictures_several"] += 1
            else:
                frames.setdefault(name, []).append((frame, several[0]))
    return [_track(name, frames[name]) for name in sorted(frames, key=natural)]


def _track(name: str, shown: Sequence[tuple[Frame, LabelledBox]]) -> Track:
    boxes: tuple[Box | None, ...] = tuple(one.box for _, one in shown)
    notes: tuple[Note, ...] = tuple("" if one.box is not None else "flagged_absent" for _, one in shown)
    return Track(name, tuple(frame for frame, _ in shown), boxes, category=shown[0][1].label, notes=notes)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key by which names are in the order that people expect: frame_2 before frame_10.

    >>> sorted(["frame_10", "frame_2", "b"], key=natural)
    ['b', 'frame_2', 'frame_10']
    """
    parts = re.split(r"([0-9]+)", name)
    return tuple((1, int(part), part) if part.isdigit() and part.isascii() else (2, 0, part) for part in parts)
