"""A study as plain records: variants by seeds, and a folder for each run whose name has a digest of its settings.

A finished run is not run again; a stopped run continues from its checkpoint. Each study starts its runs in its own way:
the ablation starts processes that wait for each other, the rewards are trials of Ray Tune.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.provenance import provenance


@dataclass(frozen=True, slots=True)
class Run:
    """One variant with one seed.

    Attributes:
        variant: Name of the variant in its study.
        seed: Seed of the training.
        folder: The run's folder; its name ends with a digest of all that decides the run.
    """

    variant: str
    seed: int
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether the training is finished."""
        return (self.folder / "summary.json").exists()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return any((self.folder / "checkpoints").glob("*_[0-9]*"))


@dataclass(frozen=True, kw_only=True)
class Study(abc.ABC):
    """Variants that are trained with several seeds each and then compared.

    Attributes:
        folder: The folder of runs and results, an absolute path.
        seeds: Seeds of the trainings; different numbers, 0 or more.
    """

    folder: Path
    seeds: tuple[int, ...]

    @abc.abstractmethod
    def run(self, variant: str, seed: int) -> Run:
        """Return the run of a variant with a seed, without starting it."""

    @abc.abstractmethod
    def runs(self) -> Sequence[Run]:
        """Return all runs, seed by seed, so that an interrupted study has something to compare."""

    def changes_of_code(self, *used: Any) -> list[str]:
        """Name the finished runs that were started with other code than the present code; they are compared anyway.

        Args:
            used: A user's own objects; see `provenance`.
        """
        now = provenance(*used)
        runs: dict[str, list[str]] = {}
        for run in self.runs():
            if run.is_done:
                with contextlib.suppress(CheckpointError):  # nothing is known of its code
                    for line in RunDirectory(run.folder).changes_of_code(now):
                        runs.setdefault(line, []).append(run.folder.name)
        return [f"since {', '.join(names)}: {line}" for line, names in runs.items()]

    def check_seeds(self) -> None:
        """Check the seeds.

        Raises:
            ValueError: If there is none, or one is negative or stands twice.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds: expected different numbers, 0 or more, got {self.seeds}")

    def run_folder(self, name: str, seed: int, decides: Any) -> Path:
        """Return the folder of a run.

        Args:
            name: Name of the variant; characters that a file's name cannot have are replaced.
            seed: Seed of the training.
            decides: All that decides the run, as plain values.
        """
        digest = hashlib.sha256(json.dumps(decides, default=str).encode()).hexdigest()[:8]
        slug = re.sub(r"[^\w.-]+", "-", name).strip("-")
        return self.folder / f"{slug}-seed{seed}-{digest}"
