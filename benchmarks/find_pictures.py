"""Pictures a second, and memory, of `focus find` on folders of different sizes.

    python benchmarks/find_pictures.py [--num-pictures 100 1000] [--policies center match]

Each case is `focus find` as a process of its own: one support, pictures of 640x480 in JPEG, COCO as output. `center`
answers at once, so its time is what the search itself costs: reading and decoding pictures, keeping answers, writing
the file. `memory` is the most that the process held, in MB, as the system counts it; `growth` is how many times more
that is than with the fewest pictures, and would be as many times more as there are pictures if they were kept.
Pictures a second are by the wall clock, without the start of the process, which is that of a folder of one picture.

Prints one JSON line per case, then a table. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import command, machine, print_line
from focus_env.datasets import SyntheticDataset
from focus_env.types import Box

IMAGE_WH = (640, 480)
NUM_SCENES = 16
"""Different pictures; files repeat them."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Pictures a second, and memory, of `focus find`."""

    num_pictures: tuple[int, ...] = (100, 1000)
    """Pictures of a folder, fewest first."""
    policies: tuple[str, ...] = ("center", "match")
    """Policies that answer."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    table = Table("policy", "pictures", "pictures/s", "memory, MB", "growth")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        support = write_pictures(place, max(args.num_pictures))
        for policy in args.policies:
            for line in policy_lines(place, support, policy, args.num_pictures):
                print_line(line | {"machine": machine("cpu", ("pillow", "numpy")), "command": command()})
                table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else f"{value}" for value in line.values()))
    Console().print(table)


def write_pictures(place: Path, num_pictures: int) -> str:
    """Write the pictures, and return the support that is looked for."""
    episodes = SyntheticDataset(split="test", shots=1, level=3, image_size=IMAGE_WH[1])
    scenes = [Image.fromarray(episodes[index].query_frame.image()).resize(IMAGE_WH) for index in range(NUM_SCENES)]
    (place / "all").mkdir()
    for index in range(num_pictures):
        scenes[index % NUM_SCENES].save(place / "all" / f"{index:06}.jpg", quality=90)
    shown = episodes[0].support[0]
    Image.fromarray(shown.frame.image()).save(place / "support.png")
    box = Box(*(round(value) for value in shown.box))
    return f"{place / 'support.png'}:{box.x1:.0f},{box.y1:.0f},{box.x2:.0f},{box.y2:.0f}"


def policy_lines(place: Path, support: str, policy: str, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a case for each number of pictures."""
    start_s, _ = search(place, support, policy, 1)
    lines: list[dict[str, Any]] = []
    for number in numbers:
        seconds, num_bytes = search(place, support, policy, number)
        memory = num_bytes / 1e6
        lines.append(
            {
                "policy": policy,
                "pictures": number,
                "pictures_per_s": number / max(seconds - start_s, 1e-9),
                "memory_mb": memory,
                "growth": memory / lines[0]["memory_mb"] if lines else 1.0,
            }
        )
    return lines


def search(place: Path, support: str, policy: str, num_pictures: int) -> tuple[float, int]:
    """Return the seconds and the most bytes of a search among the first pictures."""
    folder = place / f"first_{num_pictures}"
    if not folder.exists():
        folder.mkdir()
        for path in sorted((place / "all").iterdir())[:num_pictures]:
            os.link(path, folder / path.name)
    words = ["find", "--support", support, "--in", str(folder), "--policy", policy, "--overwrite"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "focus_agents", *words, "--out", str(place / "found.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    num_bytes = 0
    while process.poll() is None:
        num_bytes = max(num_bytes, most_bytes(process.pid))
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(process.communicate()[1])
    return seconds, num_bytes


def most_bytes(pid: int) -> int:
    """Return the most bytes of memory that a process has held since it was started; 0 if it is gone.

    The system's account of a child that has ended would count what this process held when it forked.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
