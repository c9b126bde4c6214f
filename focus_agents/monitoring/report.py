"""`report.html` in a run's folder: written anew while the run goes on, so that one that dies leaves it, too."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from focus_agents.reports.run_page.page import render_page
from focus_agents.reports.run_page.pictures import PictureBook
from focus_agents.reports.run_page.records import read_run
from focus_env.files import write_text
from focus_env.types import EpisodeDataset, ImageArray

REPORT_FILE = "report.html"
SHARE = 0.01
"""Share of the time that writing may take, but for the first and the last time."""
LEAST_SECONDS = 10.0
"""Between two times."""


class ReportSink:
    """Writes the report of a run, from what is in its folder, when there is news and time for it.

    Args:
        run: The run's folder.
        training: The episodes that are trained on, for pictures.
        validation: Those that are validated on, likewise.
    """

    name = REPORT_FILE

    def __init__(
        self, run: Path, *, training: EpisodeDataset | None = None, validation: EpisodeDataset | None = None
    ) -> None:
        self._run = run
        given = {"training": training, "validation": validation}
        self._episodes = {name: episodes for name, episodes in given.items() if episodes is not None}
        self._next = 0.0

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Write the report, unless that was done lately for what it costs."""
        if time.monotonic() >= self._next:
            self.write()

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Nothing: the report draws its own pictures."""

    def close(self) -> None:
        """Write the report as it stands at the end."""
        self.write()

    def write(self) -> None:
        """Write the report.

        Raises:
            StorageError: If it cannot be written.
            CheckpointError: If the folder is no run's.
        """
        started = time.monotonic()
        try:
            book = PictureBook(self._run, self._episodes)
            write_text(self._run / REPORT_FILE, render_page([read_run(self._run)], [book]))
            book.forget_unused()
        finally:
            ended = time.monotonic()
            self._next = ended + max(LEAST_SECONDS, (ended - started) / SHARE)
