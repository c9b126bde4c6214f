"""Small hand-written stand-ins: episodes without files, drawing or randomness in what they answer."""

from __future__ import annotations

import numpy as np

from focus_env.types import Box, Episode, Exemplar, Frame

DEFAULT_TARGET = Box(20.0, 10.0, 60.0, 40.0)


def make_frame(name: str, image_wh: tuple[int, int], box: Box | None = None, *, seed: int = 0) -> Frame:
    """A frame of dim noise; a bright patch fills the box."""
    width, height = image_wh
    image = np.random.default_rng(seed).integers(96, size=(height, width, 3), dtype=np.uint8)
    if box is not None:
        image[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = (230, 180, 40)
    return Frame(name=name, image_wh=image_wh, source=image)


def make_episode(
    index: int = 0,
    *,
    shots: int = 2,
    query_wh: tuple[int, int] = (80, 60),
    target_box: Box | None = DEFAULT_TARGET,
) -> Episode:
    """An episode whose support images differ in size from each other and from the query."""
    support = []
    for shot in range(shots):
        box = Box(4.0 + index % 3, 6.0, 20.0, 22.0 + shot)
        frame = make_frame(f"{index}/support-{shot}", (40 + 8 * shot, 32), box, seed=100 * index + shot)
        support.append(Exemplar(frame, box))
    return Episode(
        episode_id=f"fake/{index}",
        support=tuple(support),
        query_frame=make_frame(f"{index}/query", query_wh, target_box, seed=100 * index + 99),
        target_box=target_box,
        identity=f"object-{index}",
        category="secret category",
    )


class FakeDataset:
    """`num_episodes` episodes; the last one's object is absent if `with_absent`. Counts how often it is
    asked."""

    def __init__(self, num_episodes: int = 4, *, shots: int = 2, with_absent: bool = False) -> None:
        self.num_episodes = num_episodes
        self.shots = shots
        self.with_absent = with_absent
        self.num_loads = 0

    def __len__(self) -> int:
        return self.num_episodes

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < self.num_episodes:
            raise IndexError(f"episode {index}")
        self.num_loads += 1
        is_absent = self.with_absent and index == self.num_episodes - 1
        box = None if is_absent else Box(20.0 + index % 30, 10.0, 60.0, 40.0)
        return make_episode(index, shots=self.shots, target_box=box)
