"""Arguments of data sets, each group a box of the help, checked before anything expensive starts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Le

from focus_agents.cli.data_checks import (
    OF_ONE_LOOK,
    OF_RANDOM,
    OPTIONS,
    check_given,
    check_root,
    check_shots,
    check_shots_drawn,
    check_validation,
    not_empty,
)
from focus_agents.evaluation.episodes import supports_per_episode
from focus_agents.settings import Ceiling, Seed, Settings
from focus_env.datasets import datasets_help, entries_of, load_dataset
from focus_env.datasets.sampler import AbsentPolicy, BadPolicy, SamplingProtocol
from focus_env.datasets.synthetic import Scenes
from focus_env.datasets.training import DrawnShots, FirstEpisodes
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.errors import DatasetError
from focus_env.types import EpisodeDataset

DatasetName = Annotated[str, tyro.conf.arg(help=datasets_help())]


@dataclass(frozen=True, kw_only=True)
class DataArguments(Settings):
    """The choice of episodes."""

    dataset: DatasetName = "synthetic"
    data_root: Path | None = None
    """Folder of a data set on disk that holds its splits; for iploc_json, the file; for several data sets, a folder
    with a folder for each, by its name."""
    image_root: Path | None = None
    """Folder of the pictures that an iploc_json names, or your own annotations in another folder."""
    identity: str = "auto"
    """Property that boxes of the same object share in your own pictures: track, label, clip (the label within a clip)
    or the name of an attribute; auto: the first of these that every box has."""
    split: str = "train"
    """Split to use."""
    protocol: SamplingProtocol = "random"
    """Choice of an episode's frames from a video: random, or focus and iploc, as these papers evaluate."""
    episodes_per_track: Annotated[int, Ge(1)] | None = None
    """Random episodes of each track; None: 100."""
    min_gap: Annotated[int, Ge(1)] = 1
    """Least distance of two frames of a random episode, in frames that show the object."""
    absent: AbsentPolicy = "skip"
    """Frames of videos without the object: skip them, keep them as queries, or use the nearest frame that shows the
    object."""
    on_bad: BadPolicy = "raise"
    """A track or picture that cannot be read is an error, or is left out and counted."""
    max_pixels: Annotated[int, Ge(1)] | None = None
    """Most pixels of a picture. Larger pictures are decoded smaller before a model sees them, which is faster; see
    --max-image-tokens for the model's own limit. None: keep their size."""
    min_pixels: Annotated[int, Ge(1)] | None = None
    """Least pixels of a picture. Smaller pictures are enlarged before a model sees them. None: keep their size."""
    scenes: Scenes = "one_look"
    """Kind of synthetic episodes. one_look: one support shows all. parts: a support shows a half that two objects
    share. tracks: frames of a video in which two objects have each look. mixed: these three in turn."""
    level: int = 3
    """Difficulty of synthetic scenes, from 1 (one object) to 5 (many, occluded); 3 has four objects. In parts and
    tracks it sets only rotation, light and background."""
    num_objects: Annotated[int, Ge(1)] | None = None
    """Objects in each synthetic picture, the target included; None: as the level has it."""
    distractors: Literal["near", "same_shape", "any"] = "any"
    """Objects beside the target in synthetic scenes from level 2 on: any objects in other paints (any), objects of the
    target's shape in other paints (same_shape), or objects almost like the target (near), by far the hardest."""
    absent_fraction: Annotated[float, Ge(0), Le(1)] = 0.0
    """Fraction of synthetic queries without the object; see --allow-absent for the prompt."""
    shuffle_supports: bool = False
    """Show the supports of other episodes: a control that measures the score without useful supports."""
    image_size: Annotated[int, Ceiling(4096)] = 64
    """Side of synthetic pictures in pixels."""
    data_seed: Seed = 0
    """Seed of the data set."""

    def load(self, *, shots: int) -> EpisodeDataset:
        """Load the episodes.

        Args:
            shots: Supports per episode.

        Raises:
            ValueError: If an argument is out of its range, or no episode is left.
            DatasetError: If files are missing or malformed.
        """
        check_root(self)
        episodes = not_empty(load_dataset(**self.request(shots=shots)), self.split)
        return ShuffledSupports(episodes) if self.shuffle_supports else episodes

    @property
    def has_own_shots(self) -> bool:
        """Whether the episodes are fixed, and have as many supports as they have."""
        return all("shots" in entry.ignores for entry in entries_of(self.dataset))

    def load_by_shots(
        self, shots: tuple[int, ...], *, default: tuple[int, ...], num_episodes: int
    ) -> dict[int, EpisodeDataset]:
        """Load the episodes with each number of supports; those that are fixed have their own.

        Args:
            shots: Numbers of supports.
            default: The same where nobody asks for some.
            num_episodes: How many of the episodes count.

        Raises:
            ValueError: If an argument is wrong, or fixed episodes have other numbers of supports.
            DatasetError: If files are missing or malformed.
        """
        if not self.has_own_shots:
            return {number: self.load(shots=number) for number in shots}
        episodes = self.load(shots=1)
        found = supports_per_episode(episodes, num_episodes)
        if not found:
            raise ValueError(f"data_root: the data set {self.dataset!r} has no episode that can be read")
        if len(found) > 1:
            raise ValueError(
                f"data_root: the data set {self.dataset!r} has episodes of {' and '.join(map(str, found))} supports; "
                "write a store for each number of them"
            )
        if shots not in (default, found):
            raise ValueError(
                f"shots: the data set {self.dataset!r} has episodes of {found[0]} supports and no others; leave it out"
            )
        return {found[0]: episodes}

    def request(self, *, shots: int) -> dict[str, Any]:
        """Return the arguments of `load_dataset` for these episodes, but for `shuffle_supports`.

        Each setting that the data set knows is among them, also where it is the flag's default, since `load_dataset`
        has other defaults.

        Args:
            shots: Supports per episode.

        Raises:
            ValueError: If there is no such data set.
        """
        known = {option for entry in entries_of(self.dataset) for option in entry.options}
        without_effect = {
            name
            for name in OPTIONS
            if (name in OF_RANDOM and self.protocol != "random")
            or (name in OF_ONE_LOOK and self.scenes != "one_look")
            or getattr(self, name) is None
        }
        return {
            "name": self.dataset,
            "split": self.split,
            "root": None if self.data_root is None else Path(os.path.realpath(os.path.expanduser(self.data_root))),
            "shots": shots,
            "seed": self.data_seed,
            "protocol": self.protocol,
            "absent": self.absent,
            "max_pixels": self.max_pixels,
            "min_pixels": self.min_pixels,
            **{name: getattr(self, name) for name in OPTIONS if name in known - without_effect},
        }

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags of a command line that have no effect; see `focus_agents.cli.data_checks`."""
        check_given(self, given)


@dataclass(frozen=True, kw_only=True)
class TrainingDataArguments(DataArguments):
    """The episodes to train and to validate on."""

    shots: Annotated[int, Ceiling(256)] = 4
    """Support pictures per episode, at least 1."""
    shots_drawn: tuple[Annotated[int, Ge(1), Ceiling(256)], ...] = ()
    """Numbers of supports, up to --shots, e.g. 1 2 4. Each step or iteration of a training draws one of them. Without
    the flag, all show --shots."""
    num_training_episodes: Annotated[int, Ge(1)] | None = None
    """Train on this many episodes from the front of the split, repeatedly; None: on all."""
    validation_root: Path | None = None
    """--data-root of validation; None: the same. A store is one split, so its validation needs another store."""
    validation_split: str = "val"
    """Split to validate on."""
    validation_max_pixels: Annotated[int, Ge(1)] | None = None
    """--max-pixels of validation; None: the same."""

    def load_training(self) -> EpisodeDataset:
        """Load the episodes to train on."""
        episodes = self.load(shots=self.shots)
        check_shots(self, episodes, default=type(self).shots)
        if self.num_training_episodes is not None:
            if self.num_training_episodes > len(episodes):
                raise ValueError(
                    f"num_training_episodes: expected at most {len(episodes)}, as many as the split {self.split!r} of "
                    f"{self.dataset!r} has, got {self.num_training_episodes}; leave it out to train on all"
                )
            episodes = FirstEpisodes(episodes, self.num_training_episodes)
        if self.shots_drawn:
            check_shots_drawn(self, episodes)
            episodes = DrawnShots(episodes, self.shots_drawn, seed=self.data_seed)
        return episodes

    def check_places(self) -> None:
        """See that there is something at the paths that are given, before large libraries are imported.

        Raises:
            ValueError: If not.
        """
        for name in ("data_root", "validation_root", "image_root"):
            if (path := getattr(self, name)) is not None and not path.exists():
                raise ValueError(f"{name}: expected a path at which there is something, got {path}; correct the path")

    def load_validation(self) -> EpisodeDataset:
        """Load the episodes to validate on: those of the paper's protocols, with their own supports.

        Of pictures of one's own, which are few, they are random ones.

        Raises:
            ValueError: If they would be those to train on.
            DatasetError: As `load` does.
        """
        check_validation(self)
        protocols = {entry.validation_protocol for entry in entries_of(self.dataset)}
        usual: SamplingProtocol = "random" if protocols == {"random"} else "focus"
        validation = dataclasses.replace(
            self,
            split=self.validation_split,
            data_root=self.validation_root or self.data_root,
            protocol="iploc" if self.protocol == "iploc" else usual,
            shuffle_supports=False,
            max_pixels=self.validation_max_pixels or self.max_pixels,
        )
        try:
            return validation.load(shots=self.shots)
        except DatasetError as error:
            if self.validation_root is None:
                raise
            raise DatasetError(str(error).replace("`root`", "`validation_root`")) from error
