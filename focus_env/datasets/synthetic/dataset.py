"""The synthetic data set: endless in-context localization episodes, drawn when they are asked for."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from focus_env.datasets.synthetic.drawing import BACKGROUND_DRAWS, LIGHT_DRAWS, draw_scene
from focus_env.datasets.synthetic.identities import (
    Identity,
    identity_from_number,
    num_identities,
    repainted,
    reshaped,
    stranger,
)
from focus_env.datasets.synthetic.paints import Split
from focus_env.datasets.synthetic.parts import parts_stills
from focus_env.datasets.synthetic.scenes import DRAWS_PER_OBJECT, LEVELS, arrange
from focus_env.datasets.synthetic.stills import EpisodeStills
from focus_env.datasets.synthetic.tracks import NUM_FRAMES, tracks_stills
from focus_env.plain_numbers import require_whole
from focus_env.types import Box, Episode, Exemplar, Frame

Distractors = Literal["near", "same_shape", "any"]
"""The objects beside the target: of the target's shape and in its paint in turn ("near"), of the target's shape in
other paints ("same_shape"), or any objects in other paints, which texture and colours alone tell from it ("any")."""

Scenes = Literal["one_look", "parts", "tracks", "mixed"]
"""Kinds of episodes: one support shows all that there is to know; each shows a half that two objects share, see
`parts`; or they are frames of a video in which each look is there twice, see `tracks`. Mixed ones are of these three in
turn, by their index."""

_SPLITS = get_args(Split)
_KINDS: tuple[Scenes, ...] = get_args(Scenes)
_MIXED = _KINDS[:3]
_SCENE_DRAWS = 1 + BACKGROUND_DRAWS + LIGHT_DRAWS  # the number of objects, and what lies behind and above them

DEFAULT_NUM_EPISODES = {"train": 1_000_000, "val": 1_000, "test": 1_000, "test_shapes": 1_000}

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 56, 4096
"""Below the first, the smallest objects have too few pixels to be told apart. More than the second is a typo."""


MAX_NUM_OBJECTS = 8
"""More objects have no room in a picture."""


class SyntheticDataset:
    """Procedural episodes of textured shapes, a pure function of the arguments and the index.

    An identity is a shape with its parameters, a texture with its parameters, and the order of its colours.
    In all pictures of an episode the object looks the same, except for place, size, rotation, shear, light and the
    objects that cover it. The box is the tight bound of the object's visible part, the rim included, sub-pixel exact.

    From level 2 on every picture, support or query, also shows distractors, the same ones throughout an
    episode: one of the target's shape in another texture or other colours, and one of the target's paint in
    another shape. (Level 2 shows the first kind in episodes of even index, the second in the others.) So
    neither category, nor colour, nor salience, nor recurrence gives the answer; the boxes do.

    ======  =======  ==========  ==============  ===============  =============  ======================
    level   objects  rotation    radius / side   least light      occlusion      distractors resemble
    ======  =======  ==========  ==============  ===============  =============  ======================
    1       1        30 degrees  0.18 to 0.28    0.85             none           (none)
    2       2        60 degrees  0.14 to 0.22    0.75             hardly any     shape or paint
    3       4        any         0.12 to 0.21    0.70             hardly any     shape and paint
    4       4 to 5   any         0.12 to 0.22    0.60             some           each other, too
    5       6 to 8   any         0.10 to 0.25    0.45             much           each other, too
    ======  =======  ==========  ==============  ===============  =============  ======================

    At level 1 backgrounds are dark and faint, at the others of any lightness and plainly textured.
    "Hardly any": two boxes overlap a little in one picture of fifty, for want of room. At every level at
    least 60 % of the target's area is seen. The exact figures are in
    `focus_env.datasets.synthetic.scenes.LEVELS`.

    Splits: a paint, that is a texture with an unordered choice of colours, belongs to one of train, val and
    test, so their identities are disjoint by construction, distractors included; their shape families are
    the same. The split test_shapes has the paints of test and shape families that no other split shows.

    The query of an episode does not depend on `shots`, and fewer shots are the first of more (but for tracks, whose
    supports lie evenly in the video).

    All this is of ``scenes="one_look"``. The scenes ``"parts"`` and ``"tracks"`` have four objects of their own rules,
    which the modules `focus_env.datasets.synthetic.parts` and `tracks` state; a level is rotation, light and background
    there. Of ``"mixed"`` the episodes 0, 3, 6 … are those of one_look with ``distractors="any"``, 1, 4, 7 … those of
    parts, and 2, 5, 8 … those of tracks, as the data sets of these kinds have them under the same index.

    Args:
        split: ``"train"``, ``"val"``, ``"test"`` or ``"test_shapes"``.
        num_episodes: Length; None is a million for train and a thousand for the others. Items are drawn when
            asked for, so a large number costs nothing.
        shots: Supports per episode, at least 1.
        level: 1 (easiest) .. 5.
        image_size: Side of the square pictures in pixels, from `MIN_IMAGE_SIZE` to `MAX_IMAGE_SIZE`.
        num_objects: Objects in each picture, the target included, at most `MAX_NUM_OBJECTS`; None: as the level has it.
        distractors: The objects beside the target, see `Distractors`; the table and the text above describe ``"near"``.
        absent_fraction: Probability, 0 .. 1, that the query lacks the target. It shows another distractor in
            its place, so that the number of objects tells nothing. In parts and tracks a distractor is missing as
            often, so that a newcomer tells nothing either. Supports are the same whatever the fraction, and so are
            the queries of one_look that have their target.
        scenes: The kind of episodes, see `Scenes`. Only with ``"one_look"`` may `num_objects` and `distractors` be
            given; tracks, and so mixed, have at most 24 supports.
        seed: At least 0. Seeds the choice of identities and all scenes; the splits do not depend on it.

    Raises:
        ValueError: If an argument is none of the above.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        num_episodes: int | None = None,
        shots: int = 4,
        level: int = 1,
        image_size: int = 112,
        num_objects: int | None = None,
        distractors: Distractors = "near",
        absent_fraction: float = 0.0,
        scenes: Scenes = "one_look",
        seed: int = 0,
    ) -> None:
        if split not in _SPLITS:
            raise ValueError(f"split must be one of {_SPLITS}, got {split!r}")
        if level not in LEVELS:
            raise ValueError(f"level must be one of {tuple(LEVELS)}, got {level!r}; 1 is the easiest")
        whole = {"shots": shots, "image_size": image_size, "seed": seed}
        optional = {"num_objects": num_objects, "num_episodes": num_episodes}
        for name, value in (whole | {name: value for name, value in optional.items() if value is not None}).items():
            require_whole(value, name)
        if image_size < MIN_IMAGE_SIZE:
            raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE} pixels, got {image_size!r}")
        if image_size > MAX_IMAGE_SIZE:
            raise ValueError(f"image_size must be at most {MAX_IMAGE_SIZE} pixels, got {image_size!r}")
        if num_objects is not None and not 1 <= num_objects <= MAX_NUM_OBJECTS:
            raise ValueError(f"num_objects must be from 1 to {MAX_NUM_OBJECTS}, or None, got {num_objects!r}")
        if distractors not in get_args(Distractors):
            raise ValueError(f"distractors must be one of {get_args(Distractors)}, got {distractors!r}")
        if not 0 <= absent_fraction <= 1:
            raise ValueError(f"absent_fraction must be a share in [0, 1], got {absent_fraction!r}")
        if num_episodes is not None and num_episodes < 0:
            raise ValueError(f"num_episodes must not be negative, got {num_episodes!r}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed!r}")
        if scenes not in _KINDS:
            raise ValueError(f"scenes must be one of {_KINDS}, got {scenes!r}")
        if scenes != "one_look":
            own: dict[str, Any] = {"num_objects": (num_objects, None), "distractors": (distractors, "near")}
            for name, (value, default) in own.items():
                if value != default:
                    raise ValueError(
                        f"{name}: scenes {scenes!r} have objects of their own rule, got {value!r}; leave it out"
                    )
        self._split: Split = split  # type: ignore[assignment]
        self._num_episodes = DEFAULT_NUM_EPISODES[split] if num_episodes is None else num_episodes
        self._shots = shots
        self._level = level
        self._image_size = image_size
        self._num_objects = LEVELS[level].num_objects if num_objects is None else (num_objects, num_objects)
        self._distractor_kind: Distractors = distractors
        self._absent_fraction = absent_fraction
        self._scenes = scenes
        self._seed = seed
        self._check_shots(shots)
        self._mixed: tuple[SyntheticDataset, ...] = ()
        if scenes == "mixed":
            self._mixed = tuple(
                SyntheticDataset(
                    split=split,
                    num_episodes=num_episodes,
                    shots=shots,
                    level=level,
                    image_size=image_size,
                    distractors="any" if kind == "one_look" else "near",
                    absent_fraction=absent_fraction,
                    scenes=kind,
                    seed=seed,
                )
                for kind in _MIXED
            )

    @property
    def scenes(self) -> Scenes:
        """The kind of all episodes."""
        return self._scenes

    def kind_of(self, index: int) -> Scenes:
        """Return the kind of an episode; in mixed scenes, one of the three kinds that are drawn."""
        return _MIXED[index % len(_MIXED)] if self._mixed else self._scenes

    @property
    def absent_fraction(self) -> float:
        """Probability that a query lacks its target."""
        return self._absent_fraction

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self._image_size

    def __len__(self) -> int:
        return self._num_episodes

    def __getitem__(self, index: int, /) -> Episode:
        return self.with_shots(index, self._shots)

    def with_shots(self, index: int, shots: int) -> Episode:
        """Return the episode of an index with another number of supports, as a data set of so many shots has it.

        Raises:
            IndexError: If there is no such episode.
            ValueError: If there cannot be so many supports.
        """
        self._check_shots(shots)
        if self._mixed:
            return self._mixed[self._checked(index) % len(_MIXED)].with_shots(index, shots)
        if self._scenes == "one_look":
            return self._one_look(self._checked(index), shots)
        return self._drawn(self.stills(index, shots), index)

    def stills(self, index: int, shots: int | None = None) -> EpisodeStills:
        """Return the objects in the pictures of an episode, before they are drawn; for oracles, never for a policy.

        Args:
            index: The episode's index.
            shots: Number of supports; None: that of the data set.

        Raises:
            IndexError: If there is no such episode.
            ValueError: If the episode is of one_look, which are drawn as they are arranged.
        """
        if self._mixed:
            return self._mixed[self._checked(index) % len(_MIXED)].stills(
                index, self._shots if shots is None else shots
            )
        if self._scenes == "one_look":
            raise ValueError("stills: expected scenes 'parts' or 'tracks', got 'one_look'")
        key = (*self._key(self._checked(index)), _KINDS.index(self._scenes))
        draw = parts_stills if self._scenes == "parts" else tracks_stills
        return draw(
            key,
            split=self._split,
            level=LEVELS[self._level],
            size=self._image_size,
            shots=self._shots if shots is None else shots,
            absent_fraction=self._absent_fraction,
        )

    def _check_shots(self, shots: int) -> None:
        if shots < 1:
            raise ValueError(f"shots must be at least 1, got {shots!r}; an episode needs an exemplar")
        if self._scenes in ("tracks", "mixed") and shots >= NUM_FRAMES:
            raise ValueError(f"shots must be at most {NUM_FRAMES - 1} with scenes {self._scenes!r}, got {shots!r}")

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._num_episodes:
            raise IndexError(f"episode index must be in 0 .. {self._num_episodes - 1}, got {index}")
        return index

    def _key(self, index: int) -> tuple[int, ...]:
        """Return the seed of an episode."""
        return (_SPLITS.index(self._split), self._seed, self._level, self._image_size, index)

    def _drawn(self, stills: EpisodeStills, index: int) -> Episode:
        """Draw the pictures of an episode."""
        size = self._image_size
        episode_id = f"synthetic/{self._scenes}/{self._split}/level{self._level}/seed{self._seed}/{index}"
        pictures = [
            (Frame(f"{episode_id}/{name}", (size, size), still.pixels(stills.level, size)), still.box(0, size))
            for name, still in zip(stills.names, (stills.query, *stills.supports), strict=True)
        ]
        (query_frame, target_box), *supports = pictures
        return Episode(
            episode_id=episode_id,
            support=tuple(Exemplar(*picture) for picture in supports),
            query_frame=query_frame,
            target_box=None if stills.is_absent else target_box,
            identity=str(stills.identity),
            category=stills.identity.family,
        )

    def _one_look(self, index: int, shots: int) -> Episode:
        split, seed, level = self._split, self._seed, self._level
        rng = np.random.default_rng(self._key(index))
        pool_size = self._num_objects[1]
        head = rng.random(2 + pool_size).tolist()
        # One row per picture, the query first: a larger number of shots only adds rows.
        rows = rng.random((1 + shots, _SCENE_DRAWS + pool_size * DRAWS_PER_OBJECT)).tolist()
        target = identity_from_number(split, int(head[0] * num_identities(split)))
        distractors = self._distractors(target, head[2:], first=index % 2)
        is_absent = head[1] < self._absent_fraction
        episode_id = f"synthetic/{split}/level{level}/seed{seed}/{index}"
        query_frame, query_box = self._picture(f"{episode_id}/query", target, distractors, rows[0], is_absent)
        return Episode(
            episode_id=episode_id,
            support=tuple(
                Exemplar(*self._picture(f"{episode_id}/support{shot}", target, distractors, row))
                for shot, row in enumerate(rows[1:])
            ),
            query_frame=query_frame,
            target_box=None if is_absent else query_box,
            identity=str(target),
            category=target.family,
        )

    def _distractors(self, target: Identity, draws: list[float], *, first: int) -> list[Identity]:
        """Return one object per draw, all different.

        Near distractors have the target's shape (from `first` = 0 on) and its paint (1) in turn. The third and the
        fourth differ from the target in both, and resemble the first two.
        """
        pool: list[Identity] = []
        for number, draw in enumerate(draws):
            if self._distractor_kind == "near":
                near = (repainted, reshaped)[(first + number) % 2]
                anchor = pool[number - 1] if number in (2, 3) else target
                pool.append(near(self._split, anchor, draw, (target, *pool)))
                continue
            other = stranger(self._split, draw, (target, *pool))
            if self._distractor_kind == "same_shape":
                other = other._replace(family=target.family, shape_variant=target.shape_variant)
            pool.append(other)
        return pool

    def _picture(
        self,
        name: str,
        target: Identity,
        distractors: list[Identity],
        draws: list[float],
        is_absent: bool = False,
    ) -> tuple[Frame, Box]:
        """Draw a picture, and return it with the box of the target or of the distractor in the target's place."""
        level, size = LEVELS[self._level], self._image_size
        fewest, most = self._num_objects
        count = fewest + int(draws[0] * (most - fewest + 1))
        shown = distractors[:count] if is_absent else [target, *distractors[: count - 1]]
        starts = range(_SCENE_DRAWS, _SCENE_DRAWS + count * DRAWS_PER_OBJECT, DRAWS_PER_OBJECT)
        scene = arrange(shown, [draws[start : start + DRAWS_PER_OBJECT] for start in starts], level, size)
        pixels = draw_scene(
            scene.objects,
            background_draws=draws[1 : 1 + BACKGROUND_DRAWS],
            light_draws=draws[1 + BACKGROUND_DRAWS : _SCENE_DRAWS],
            level=level,
            size=size,
        )
        return Frame(name, (size, size), pixels), scene.target_box
