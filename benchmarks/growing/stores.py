"""Stores of episodes and orders of them, as episodes become more."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.growing.slopes import Axis, Step
from focus_env.datasets import store_writer
from focus_env.datasets.order import shuffled_indices
from focus_env.datasets.store import StoreEpisodes
from focus_env.datasets.store_writer import write_store
from focus_env.types import Box, Episode, Exemplar, Frame

SIDE = 16
NUM_READ, NUM_DRAWN = 20, 32


class SmallEpisodes:
    """Episodes of two small pictures, which are an array in memory under as many names."""

    def __init__(self, num_episodes: int) -> None:
        self._num_episodes = num_episodes
        self._picture = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return self._num_episodes

    def __getitem__(self, index: int, /) -> Episode:
        box = Box(2, 2, SIDE - 2, SIDE - 2)
        support, query = (Frame(f"{index}-{name}", (SIDE, SIDE), self._picture) for name in ("support", "query"))
        return Episode(f"small/{index}", (Exemplar(support, box),), query, box, f"thing {index}")


def _folder(stack: contextlib.ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory()))


def _written(stack: contextlib.ExitStack, num_episodes: int) -> Path:
    folder = _folder(stack)
    write_store(SmallEpisodes(num_episodes), folder, source={})
    return folder


def _write(stack: contextlib.ExitStack, num_episodes: int) -> Step:
    folder, number = _folder(stack), itertools.count()
    return lambda: write_store(SmallEpisodes(num_episodes), folder / str(next(number)), source={})


def _open(stack: contextlib.ExitStack, num_episodes: int) -> Step:
    folder = _written(stack, num_episodes)
    return lambda: StoreEpisodes(folder)


def _shards(stack: contextlib.ExitStack, num_shards: int) -> Step:
    with mock.patch.object(store_writer, "MAX_SHARD_EPISODES", 5):
        return _open(stack, 5 * num_shards)


def _read(stack: contextlib.ExitStack, num_episodes: int) -> Step:
    episodes = StoreEpisodes(_written(stack, num_episodes))
    rng = np.random.default_rng(0)

    def step() -> None:
        for index in rng.integers(num_episodes, size=NUM_READ).tolist():
            episode = episodes[index]
            for frame in (episode.support[0].frame, episode.query_frame):
                frame.image()

    return step


def _draw(stack: contextlib.ExitStack, num_episodes: int) -> Step:
    used = itertools.count(step=NUM_DRAWN)
    return lambda: shuffled_indices(next(used), NUM_DRAWN, num_episodes=num_episodes, seed=0)


AXES = (
    Axis(
        "stores", "writing a store", "episodes", (250, 500, 1000), _write,
        {"time": (0, 1)}, "one after the other", rounds=2,
    ),
    Axis(
        "stores", "opening a store", "episodes", (500, 1000, 2000), _open,
        {"time": (0, 0)}, "the manifest alone is read", steps=20,
    ),
    Axis(
        "stores", "opening a store", "shards", (8, 16, 32, 64), _shards,
        {"time": (0, 1)}, "a look at the two files of each, which holds 10,000 episodes", steps=5,
    ),
    Axis(
        "stores", f"reading {NUM_READ} episodes at random", "episodes", (3000, 6000), _read,
        {"time": (0, 0)}, "one row group for each", steps=2,
    ),
    Axis(
        "stores", f"drawing the next {NUM_DRAWN} indices", "episodes", (10_000, 100_000, 1_000_000), _draw,
        {"time": (0, 0)}, "the order of an epoch is kept", steps=100,
    ),
)  # fmt: skip
