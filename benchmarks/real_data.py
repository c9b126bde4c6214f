"""Measure the cost of reading pictures and stores.

    python benchmarks/real_data.py [--cases pictures store] [--num-rows 1000000]

pictures: 1280x720 JPEGs, decoded at the training budget of 276,480 pixels (the paper's 0.3 of 1280x720), against
Pillow's open, convert, resize to the same size. Three cases: the size that `shown_wh` takes, which a JPEG decoder gives
by itself; 701x394, all that the budget admits; and pictures that were decoded lately. `gap` is the mean difference of
the two results in grey levels. The pictures are synthetic scenes of level 5 at 720 pixels, in quality 90. Both sides
take turns; times are CPU times of one thread.

store: a store of so many episodes with four supports each, opened and read at random in a process of its own, against
pyarrow's read_table of the same files and a row of that. Memory is what the process had grown by after opening, and
after reading (Linux only).

Prints one JSON line per case, then a table. `ratio` is how many times more ours does in a second; for memory, how many
times less it takes.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import command, machine, print_line
from focus_env.datasets import SyntheticDataset
from focus_env.datasets.store import StoreEpisodes
from focus_env.datasets.store_writer import write_store
from focus_env.images import RECENT, decode, shown_wh
from focus_env.types import Box, Episode, Exemplar, Frame, ImageArray

CaseName = Literal["pictures", "store"]
IMAGE_WH = (1280, 720)
MAX_PIXELS = 276_480
SHOTS = 4


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the cost of reading pictures and stores."""

    cases: tuple[CaseName, ...] = ("pictures", "store")
    """Cases to measure."""
    num_pictures: int = 16
    """Different pictures."""
    repetitions: int = 5
    """Rounds, in each of which every picture is decoded by each side."""
    num_rows: int = 1_000_000
    """Episodes of the store."""
    num_reads: int = 2000
    """Episodes read at random."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    lines: list[dict[str, Any]] = []
    if "pictures" in args.cases:
        lines += picture_lines(args)
    if "store" in args.cases:
        lines += store_lines(args)
    table = Table("case", "ours", "peer", "ratio", "unit")
    for line in lines:
        print_line(line | {"machine": machine("cpu", ("pillow", "pyarrow")), "command": command()})
        table.add_row(*(f"{line[key]:,.3g}" if key in ("ours", "peer", "ratio") else line[key] for key in LINE_KEYS))
    Console().print(table)


LINE_KEYS = ("case", "ours", "peer", "ratio", "unit")


def picture_lines(args: Args) -> list[dict[str, Any]]:
    """Decoding, of files and of what was decoded lately."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), args.num_pictures)
        free_wh = shown_wh(IMAGE_WH, MAX_PIXELS)
        scale = (MAX_PIXELS / (IMAGE_WH[0] * IMAGE_WH[1])) ** 0.5
        full_wh = int(IMAGE_WH[0] * scale), int(IMAGE_WH[1] * scale)
        frames = [Frame(path.name, free_wh, path, file_wh=IMAGE_WH) for path in paths]
        RECENT.max_bytes = 2 * args.num_pictures * free_wh[0] * free_wh[1] * 3
        for frame in frames:
            frame.image()
        cases: list[tuple[str, tuple[int, int], Callable[[int], ImageArray]]] = [
            (f"decode at {free_wh[0]}x{free_wh[1]}", free_wh, lambda i: decode_at(paths[i], free_wh)),
            (f"decode at {full_wh[0]}x{full_wh[1]}", full_wh, lambda i: decode_at(paths[i], full_wh)),
            ("decoded lately", free_wh, lambda i: frames[i].image()),
        ]
        return [picture_line(name, size, ours, paths, args.repetitions) for name, size, ours in cases]


def decode_at(path: Path, image_wh: tuple[int, int]) -> ImageArray:
    """Measure ours, without what is remembered."""
    return decode(path, file_wh=IMAGE_WH, image_wh=image_wh, name=path.name)


def open_convert_resize(path: Path, image_wh: tuple[int, int]) -> ImageArray:
    """Return the peer."""
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB").resize(image_wh))


def picture_line(
    name: str, image_wh: tuple[int, int], ours: Callable[[int], ImageArray], paths: list[Path], repetitions: int
) -> dict[str, Any]:
    """Return frames a second of both sides, in turns."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repetitions):
        for side in seconds:
            start = time.thread_time()
            for index, path in enumerate(paths):
                ours(index) if side == "ours" else open_convert_resize(path, image_wh)
            seconds[side].append(time.thread_time() - start)
    gaps = [
        float(np.abs(ours(index).astype(int) - open_convert_resize(path, image_wh)).mean())
        for index, path in enumerate(paths)
    ]
    ratios = [peer / own for own, peer in zip(seconds["ours"], seconds["peer"], strict=True)]
    return {
        "case": name,
        **{side: round(len(paths) / statistics.median(values), 1) for side, values in seconds.items()},
        "ratio": round(statistics.median(ratios), 2),
        "unit": "pictures/s",
        "peer_name": "Pillow's open, convert, resize",
        "gap": round(statistics.mean(gaps), 2),
        "kilobytes": round(statistics.mean(path.stat().st_size for path in paths) / 1000),
    }


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Return scenes side by side, as JPEGs."""
    scenes = SyntheticDataset(split="train", num_episodes=count, shots=1, level=5, image_size=IMAGE_WH[1])
    paths = []
    for index in range(count):
        episode = scenes[index]
        left, right = episode.query_frame.image(), episode.support[0].frame.image()
        pixels = np.concatenate([left, right], axis=1)[:, : IMAGE_WH[0]]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        paths.append(folder / f"{index}.jpg")
        paths[-1].write_bytes(buffer.getvalue())
    return paths


class Rows:
    """Many episodes that share a few pictures of one pixel: what counts here is their number."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._frames = [Frame(f"video/{number:08d}.jpg", (1, 1), np.zeros((1, 1, 3), np.uint8)) for number in range(50)]

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> Episode:
        place = index % (len(self._frames) - SHOTS)
        box = Box(0.0, 0.0, 1.0 / (1 + index), 1.0)
        return Episode(
            episode_id=f"video-{index}/random/seed0/{index}",
            support=tuple(Exemplar(frame, box) for frame in self._frames[place : place + SHOTS]),
            query_frame=self._frames[place + SHOTS],
            target_box=box,
            identity=f"video-{index}",
            category="object",
        )


def store_lines(args: Args) -> list[dict[str, Any]]:
    """Opening a store, and reading from it."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        write_store(Rows(args.num_rows), store, source={"made for": "a benchmark"})
        order = np.random.default_rng(0).integers(args.num_rows, size=args.num_reads).tolist()
        found = {}
        for side, read in (("ours", read_store), ("peer", read_table)):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[side] = pool.submit(read, store, order).result()
    measures = {
        "open": ("stores/s", True),
        "read": ("episodes/s", True),
        "memory, opened": ("megabytes", False),
        "memory, read": ("megabytes", False),
    }
    lines = []
    for name, (unit, is_rate) in measures.items():
        ours, peer = (1 / found[side][name] if is_rate else found[side][name] for side in ("ours", "peer"))
        lines.append(
            {
                "case": f"store of {args.num_rows:,} rows: {name}",
                "ours": round(ours, 3),
                "peer": round(peer, 3),
                "ratio": round(ours / peer if is_rate else peer / max(ours, 1e-9), 2),
                "unit": unit,
                "peer_name": "pyarrow's read_table, and a row of it",
            }
        )
    return lines


def read_store(store: Path, order: list[int]) -> dict[str, float]:
    """Read by our code; see `read_with`."""
    return read_with(lambda: StoreEpisodes(store), lambda episodes, index: episodes[index], order)


def read_table(store: Path, order: list[int]) -> dict[str, float]:
    """Read by the peer; see `read_with`."""
    return read_with(
        lambda: pq.read_table(store / "episodes"), lambda table, index: table.slice(index, 1).to_pylist(), order
    )


def read_with(
    open_all: Callable[[], Any], read_one: Callable[[Any, int], object], order: list[int]
) -> dict[str, float]:
    """Return seconds to open and of a read, and megabytes."""
    before = megabytes()
    start = time.perf_counter()
    opened = open_all()
    figures = {"open": time.perf_counter() - start, "memory, opened": megabytes() - before}
    start = time.perf_counter()
    for index in order:
        read_one(opened, index)
    return figures | {"read": (time.perf_counter() - start) / len(order), "memory, read": megabytes() - before}


def megabytes() -> float:
    """Return the megabytes that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
