"""Commands alone and beside a busy core, with threads that sleep while they wait for each other, and that spin.

    python benchmarks/busy_core.py [--commands grpo sft evaluate] [--units 8] [--rounds 2]

Ours is a command as a user starts it, whose threads wait passively (`focus_agents.processes.threads`). Peer is the same
command under the setting that GNU's OpenMP has by itself, under which they spin for 3 ms before they sleep. Each runs
alone and beside a load: a process of this benchmark that computes without a pause as long as the command runs, and so
keeps one core busy. The four take turns in each round.

grpo and sft are the median seconds of an iteration and of a step, without the first ones. A step excludes the wait for
its episodes, which another process draws. "evaluate" is the mean seconds of the policy for an episode.
`command` is the whole command by the wall clock, from the start of Python to the end of Ray: in runs as short as these,
most of it is imports.

Both must do the same: the same metrics but for times and memory, and the same answers.

Prints one JSON line per command, then a table. `slower` is how many times longer a unit takes beside the load than
alone, the median of the rounds; `ratio` is peer / ours. `load` is the machine's load average over the last minute, this
benchmark's own processes included: figures are worth little where others compute, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import command, machine, print_line
from focus_agents.cli.errors import user_errors
from focus_agents.processes.threads import SETTINGS
from focus_agents.runs.folder import RunDirectory

CommandName = Literal["grpo", "sft", "evaluate"]
Side = tuple[str, str]
"""The owner of a setting, and the place of the run."""

SPINNING = {"GOMP_SPINCOUNT": "300000"}
"""Behaviour of GNU's OpenMP where nothing is set; said aloud, since a command would else choose for itself."""
ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {"ours": {}, "peer": SPINNING}
PLACES = ("alone", "busy")
SIDES: tuple[Side, ...] = tuple((side, place) for place in PLACES for side in ENVIRONMENTS)
NUM_WARM = 3
"""Iterations or steps that are not counted."""
EPISODES_PER_UNIT = 32
"""Of an evaluation."""
UNITS = {"grpo": "iteration", "sft": "step", "evaluate": "episode"}
TIMES = ("seconds", "_per_second", "memory_gib")
"""Parts of the names of metrics that differ from run to run."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Commands alone and beside a busy core."""

    commands: tuple[CommandName, ...] = ("grpo", "sft", "evaluate")
    """Commands to run."""
    units: int = 8
    """Iterations and steps that are counted; of an evaluation, 32 episodes each."""
    rounds: int = 2
    """Rounds in which each side has one turn."""

    def __post_init__(self) -> None:
        for name in ("units", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Turn:
    """One run of a command.

    Attributes:
        unit: Seconds of an iteration, a step or an episode.
        command: Seconds of the whole.
        outcome: Metrics or answers without times: all that must not depend on how threads wait.
    """

    unit: float
    command: float
    outcome: list[dict[str, Any]]


def words_of(name: CommandName, folder: Path, units: int) -> list[str]:
    """Return the words that a user types behind `focus`."""
    if name == "evaluate":
        return [name, "--output-dir", str(folder), "--num-episodes", str(EPISODES_PER_UNIT * units), "--shots", "4"]
    place = ["--output-dir", str(folder.parent), "--name", folder.name, "--no-dashboard"]
    schedule = ["--num-validation-episodes", "8", "--validation-interval", "0", "--checkpoint-interval", "0"]
    length = "--num-iterations" if name == "grpo" else "--num-steps"
    return [name, *place, *schedule, length, str(NUM_WARM + units)]


@contextlib.contextmanager
def load(place: str) -> Iterator[None]:
    """Keep a core busy, if that is the place."""
    if place == "alone":
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def take_turn(name: CommandName, side: str, place: str, units: int) -> Turn:
    """Run a command in a folder of its own."""
    inherited = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    environment = {**inherited, "HF_HUB_OFFLINE": "1", **ENVIRONMENTS[side]}
    with tempfile.TemporaryDirectory() as parent, load(place):
        folder = Path(parent) / "run"
        words = [sys.executable, "-m", "focus_agents", *words_of(name, folder, units)]
        started = time.perf_counter()
        result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if result.returncode:
            raise RuntimeError(f"focus {name} ended with exit code {result.returncode}: {result.stderr}")
        return read_turn(name, folder, seconds)


def read_turn(name: CommandName, folder: Path, seconds: float) -> Turn:
    """Read the files that a run has left behind."""
    if name == "evaluate":
        (file,) = (folder / "answers").glob("*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        unit = statistics.fmean(line["seconds"] for line in lines)
    else:
        lines = RunDirectory(folder).read_steps()
        unit = statistics.median(line["seconds"] for line in lines[NUM_WARM:])
    outcome = [{key: value for key, value in line.items() if not any(part in key for part in TIMES)} for line in lines]
    return Turn(unit, seconds, outcome)


def measure(name: CommandName, args: Args) -> dict[Side, list[Turn]]:
    """Take all turns of a command, and return them by side and place."""
    turns: dict[Side, list[Turn]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for side, place in SIDES:
            turns[side, place].append(take_turn(name, side, place, args.units))
    first = turns[SIDES[0]][0].outcome
    assert all(turn.outcome == first for found in turns.values() for turn in found), f"{name}: the sides differ"
    return turns


def compare(name: CommandName, turns: Mapping[Side, Sequence[Turn]]) -> dict[str, Any]:
    """Return the JSON line of a command, but for what all lines have in common."""
    units = {side: [turn.unit for turn in found] for side, found in turns.items()}
    line: dict[str, Any] = {"case": name, "unit": f"s per {UNITS[name]}"}
    for side in ENVIRONMENTS:
        ratios = [busy / alone for busy, alone in zip(units[side, "busy"], units[side, "alone"], strict=True)]
        line[side] = {place: round(statistics.median(units[side, place]), 4) for place in PLACES}
        line[side]["slower"] = round(statistics.median(ratios), 3)
        line[side]["slower_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
        line[side]["command"] = {
            place: round(statistics.median(turn.command for turn in turns[side, place]), 1) for place in PLACES
        }
    for place in PLACES:
        ratios = [peer / ours for peer, ours in zip(units["peer", place], units["ours", place], strict=True)]
        line[f"ratio_{place}"] = round(statistics.median(ratios), 3)
        line[f"ratio_{place}_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return line


def build_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Compare both settings, side by side."""
    table = Table(
        title="Seconds of a unit, alone and beside a busy core",
        caption="ours waits passively, peer spins; ratio: peer / ours",
        box=SIMPLE,
        padding=0,
    )
    for column in ("command", "unit", "ours\nalone", "ours\nbusy", "slower", "peer\nalone", "peer\nbusy", "slower"):
        table.add_column(column, justify="left" if column in ("command", "unit") else "right")
    for column in ("ratio\nalone", "ratio\nbusy"):
        table.add_column(column, justify="right")
    for line in lines:
        sides = [
            text
            for side in ENVIRONMENTS
            for text in (*(f"{line[side][place]:.3g}" for place in PLACES), f"{line[side]['slower']:.2f}")
        ]
        ratios = (f"{line[f'ratio_{place}']:.2f}" for place in PLACES)
        table.add_row(line["case"], line["unit"].removeprefix("s per "), *sides, *ratios)
    return table


def main() -> None:
    with user_errors(Args):
        args = tyro.cli(Args)
    common = {"units": args.units, "rounds": args.rounds, "machine": machine("cpu"), "command": command()}
    lines = []
    for name in args.commands:
        line = {**compare(name, measure(name, args)), **common, "load": round(os.getloadavg()[0], 2)}
        print_line(line)
        lines.append(line)
    Console().print(build_table(lines))


if __name__ == "__main__":
    main()
