"""The synthetic data set: endless in-context localization episodes, drawn when they are asked for."""

from __future__ import annotations

from typing import get_args

import numpy as np

from focus_env.datasets.synthetic.identities import (
    Identity,
    identity_from_number,
    num_identities,
    repainted,
    reshaped,
)
from focus_env.datasets.synthetic.paints import Split
from focus_env.datasets.synthetic.scenes import (
    DRAWS_PER_OBJECT,
    DRAWS_PER_SCENE,
    LEVELS,
    arrange,
    draw_scene,
    visible_box,
)
from focus_env.types import Box, Episode, Exemplar, Frame

DEFAULT_NUM_EPISODES = {"train": 1_000_000, "val": 1_000, "test": 1_000, "test_shapes": 1_000}

MIN_IMAGE_SIZE = 56
"""Below this, the smallest objects are too few pixels to be told apart."""

_EPISODE_DRAWS = 16


class SyntheticDataset:
    """Procedural episodes of textured shapes; an item is a pure function of the arguments and its index."""

    def __init__(
        self,
        *,
        split: str = "train",
        num_episodes: int | None = None,
        shots: int = 4,
        level: int = 1,
        image_size: int = 112,
        absent_fraction: float = 0.0,
        seed: int = 0,
    ) -> None:
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {get_args(Split)}, got {split!r}")
        if level not in LEVELS:
            raise ValueError(f"level must be one of {tuple(LEVELS)}, got {level!r}; 1 is the easiest")
        if shots < 1:
            raise ValueError(f"shots must be at least 1, got {shots!r}; an episode needs an exemplar")
        if image_size < MIN_IMAGE_SIZE:
            raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE} pixels, got {image_size!r}")
        if not 0 <= absent_fraction <= 1:
            raise ValueError(f"absent_fraction must be a share in [0, 1], got {absent_fraction!r}")
        if num_episodes is not None and num_episodes < 0:
            raise ValueError(f"num_episodes must not be negative, got {num_episodes!r}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed!r}")
        self._split: Split = split  # type: ignore[assignment]
        self._num_episodes = DEFAULT_NUM_EPISODES[split] if num_episodes is None else num_episodes
        self._shots = shots
        self._level = level
        self._image_size = image_size
        self._absent_fraction = absent_fraction
        self._seed = seed

    def __len__(self) -> int:
        return self._num_episodes

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < self._num_episodes:
            raise IndexError(f"episode {index} of a data set with {self._num_episodes} episodes")
        level = LEVELS[self._level]
        key = (get_args(Split).index(self._split), self._seed, self._level, self._image_size, index)
        rng = np.random.default_rng(key)
        head = rng.random(_EPISODE_DRAWS).tolist()
        pool_size = level.num_objects[1]
        scenes = rng.random((1 + self._shots, DRAWS_PER_SCENE + pool_size * DRAWS_PER_OBJECT)).tolist()
        target = identity_from_number(self._split, int(head[0] * num_identities(self._split)))
        distractors = self._distractors(target, head[2:], pool_size, start=index % 2)
        is_absent = head[1] < self._absent_fraction
        episode_id = f"synthetic/{self._split}/level{self._level}/seed{self._seed}/{index}"
        query, target_box = self._scene(f"{episode_id}/query", target, distractors, scenes[0], is_absent)
        support = []
        for shot in range(self._shots):
            frame, box = self._scene(
                f"{episode_id}/support{shot}", target, distractors, scenes[1 + shot], False
            )
            assert box is not None
            support.append(Exemplar(frame, box))
        return Episode(episode_id, tuple(support), query, target_box, str(target), target.family)

    def _distractors(self, target: Identity, draws: list[float], count: int, start: int) -> list[Identity]:
        """Objects easily mistaken for the target, by shape and by paint in turn."""
        pool: list[Identity] = []
        for number in range(count):
            near = (repainted, reshaped)[(start + number) % 2]
            anchor = target if number < 2 or number >= 4 else pool[number - 1]
            pool.append(near(self._split, anchor, draws[number], (target, *pool)))
        return pool

    def _scene(
        self, name: str, target: Identity, distractors: list[Identity], draws: list[float], is_absent: bool
    ) -> tuple[Frame, Box | None]:
        """One picture and the box of the target in it."""
        level, size = LEVELS[self._level], self._image_size
        fewest, most = level.num_objects
        count = fewest + int(draws[13] * (most - fewest + 1))
        shown = distractors[:count] if is_absent else [target, *distractors[: count - 1]]
        placed = arrange(shown, draws, level, size)
        frame = Frame(name, (size, size), draw_scene(placed, draws, level, size))
        if is_absent:
            return frame, None
        place = next(i for i, item in enumerate(placed) if item.identity is target)
        box, _ = visible_box(placed[place], placed[place + 1 :], size)
        return frame, box
