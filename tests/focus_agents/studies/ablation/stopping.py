"""A study of three trainings that never end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focus_agents.studies.ablation.runs import ArmRun

ENDLESS = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(number, frame):
    (folder / "checkpoint").write_text(str(number))
    time.sleep(0.5)
    (folder / "ended").touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
folder.mkdir()
(folder / "started").touch()
time.sleep(600)
"""


@dataclass(frozen=True)
class Endless:
    """What `run_arms` takes of a study."""

    folder: Path
    jobs: int = 2

    def runs(self) -> list[ArmRun]:
        return [
            ArmRun(name, 0, self.folder / name, model="", command=("-c", ENDLESS, str(self.folder / name)))
            for name in ("first", "second", "third")
        ]


def ignore(run: Any) -> None:
    """Say nothing of a run that is done."""
