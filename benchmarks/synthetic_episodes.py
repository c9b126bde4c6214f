"""Measure how many synthetic episodes are drawn a second, against a plain drawing of the same scenes.

    python benchmarks/synthetic_episodes.py [--seconds 5] [--workers 2] [--shots 4] [--image-size 112]

Both sides place the same objects at the same places and give the same boxes. The peer draws them as one would
at first: masks as large as the picture, each texture evaluated at each pixel, a new noise background for each
picture, light as a float product, nothing kept from one picture to the next. The sides take turns within one
run, in `--workers` processes, so that what else the machine does falls on both.

Prints one JSON line per level, then a table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from focus_env.datasets import SyntheticDataset
from focus_env.datasets.synthetic import dataset as dataset_module
from focus_env.datasets.synthetic.drawing import draw_scene
from focus_env.datasets.synthetic.paints import COLOURS, texture_at
from focus_env.datasets.synthetic.scenes import LEVELS, Level, PlacedObject
from focus_env.types import ImageArray

ROUNDS = 3
SEED = 0


def draw_scene_plainly(
    objects: Sequence[PlacedObject],
    *,
    background_draws: Sequence[float],
    light_draws: Sequence[float],
    level: Level,
    size: int,
) -> ImageArray:
    """Return the peer of `drawing.draw_scene`: same arguments, same picture but for the grain of the background."""
    canvas = plain_background(background_draws, size)
    columns, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    for item in objects:
        mask = Image.new("L", (2 * size, 2 * size))
        ImageDraw.Draw(mask).polygon((item.points * 2 - 0.5).ravel().tolist(), fill=255)
        coverage = np.asarray(mask.resize((size, size), Image.Resampling.BOX))[..., None] / 255
        canvas += coverage * (plain_fill(item, columns, rows) - canvas)
    gain = level.light + light_draws[0] * (1 - level.light)
    fall_x, fall_y = ((gain - level.light) * (2 * draw - 1) / 2 for draw in light_draws[1:3])
    light = gain - (abs(fall_x) + abs(fall_y)) / 2 + fall_x * (columns / size - 0.5) + fall_y * (rows / size - 0.5)
    tint = 1 - level.tint * np.array(light_draws[3:6])
    pixels: ImageArray = np.clip(canvas * light[..., None] * tint, 0, 255).astype(np.uint8)
    return pixels


def plain_fill(
    item: PlacedObject, columns: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return [size, size, 3]: the object's texture and its rim, all over the picture."""
    identity, size = item.identity, len(rows)
    inverse = np.linalg.inv(np.array(item.matrix).reshape(2, 2))
    dx, dy = columns - item.centre[0], rows - item.centre[1]
    x, y = inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy
    mix = texture_at(identity.texture, identity.texture_variant, x, y)[..., None]
    ground, pattern = (np.array(COLOURS[name], dtype=float) for name in (identity.colours[0], identity.colours[-1]))
    fill: npt.NDArray[np.float64] = ground + (pattern - ground) * mix
    rim = Image.new("1", (size, size))
    ImageDraw.Draw(rim).polygon((item.points - 0.5).ravel().tolist(), outline=1)
    fill[np.asarray(rim)] = 0.35 * ground
    return fill


def plain_background(draws: Sequence[float], size: int) -> npt.NDArray[np.float64]:
    """Return [size, size, 3]: three octaves of noise between two muted colours."""
    rng = np.random.default_rng(int(draws[0] * 2**32))
    noise = np.zeros((size, size))
    for octave in range(3):
        coarse = Image.fromarray(rng.random((4 * 3**octave,) * 2, dtype=np.float32))
        noise += 0.5**octave * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    noise = (noise - noise.min()) / np.ptp(noise)
    dark = np.array(draws[3:6]) * 50 + (40 + 90 * draws[6])
    bright = dark + 20 + np.array(draws[7:10]) * 50
    colours: npt.NDArray[np.float64] = dark + noise[..., None] * (bright - dark)
    return colours


SIDES = {"ours": draw_scene, "peer": draw_scene_plainly}


def measure(side: str, options: dict[str, Any], seconds: float, worker: int) -> float:
    """Return episodes per second of one worker, each with its own range of indices; the first ones only warm up."""
    dataset = SyntheticDataset(**options)
    index = worker * 400_000
    with mock.patch.object(dataset_module, "draw_scene", SIDES[side]):
        for _ in range(5):
            dataset[index]
            index += 1
        start = time.perf_counter()
        count = 0
        while (elapsed := time.perf_counter() - start) < seconds:
            dataset[index + count]
            count += 1
    return count / elapsed


def check_same_episodes(options: dict[str, Any]) -> None:
    """Check that the peer does the same work: same boxes, and pictures that differ by the grain of the background."""
    dataset = SyntheticDataset(**options)
    for index in range(5):
        ours = dataset[index]
        with mock.patch.object(dataset_module, "draw_scene", draw_scene_plainly):
            peer = dataset[index]
        assert [e.box for e in ours.support] == [e.box for e in peer.support]
        for one, other in zip(ours.support, peer.support, strict=True):
            gap = np.abs(one.frame.image().astype(int) - other.frame.image()).mean()
            assert gap < 25, f"the peer draws something else: mean difference {gap:.1f} of 255"


def machine() -> dict[str, str | int | None]:
    """Return the facts of the machine on which the figures depend."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "shapely")}
    return {
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="per level and side")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=112)
    arguments = parser.parse_args()
    table = Table("level", "ours", "peer", "ratio", title="synthetic episodes per second")
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
        for level in LEVELS:
            options = {
                "level": level,
                "shots": arguments.shots,
                "image_size": arguments.image_size,
                "seed": SEED,
            }
            check_same_episodes(options)
            rates = dict.fromkeys(SIDES, 0.0)
            for _ in range(ROUNDS):
                for side in SIDES:
                    jobs = [
                        pool.submit(measure, side, options, arguments.seconds / ROUNDS, worker)
                        for worker in range(arguments.workers)
                    ]
                    rates[side] += math.fsum(job.result() for job in jobs) / ROUNDS
            result = {
                "case": f"level {level}",
                **{side: round(rate, 1) for side, rate in rates.items()},
                "ratio": round(rates["ours"] / rates["peer"], 2),
                "unit": "episodes/s",
                "peer_name": "plain NumPy drawing of the same scenes",
                **options,
                "workers": arguments.workers,
                "machine": machine(),
                "command": " ".join(["python", *sys.argv]),
            }
            print(json.dumps(result), flush=True)
            table.add_row(str(level), *(f"{result[key]:,}" for key in ("ours", "peer", "ratio")))
    Console().print(table)


if __name__ == "__main__":
    main()
