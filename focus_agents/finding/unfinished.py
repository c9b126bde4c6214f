"""The answers of an unfinished search: a folder beside the output, removed when the output is written.

    found.json.unfinished/
      config.json       all that decides the answers, and the outputs that the search may replace
      answers.jsonl     a line for each picture

A batch of pictures depends on their places alone, and counts when all of its lines are written. So a search that
continues asks the same questions together, and writes the same bytes in the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from focus_agents.finding.answers import Looked, from_json
from focus_agents.runs.files import append_json_lines, keep_json_lines, read_json, read_json_lines, to_json, write_json
from focus_agents.runs.lock import hold_folder

ENDING = ".unfinished"
_EXPECTED = "what an unfinished search looks for"


class Unfinished:
    """The answers of a search that is under way.

    Args:
        out: The file or folder that the search will write.
        identity: All that decides the answers, as plain values.
        batch_size: Pictures of a batch.
        outputs: Other outputs of the search, which did not exist at its start.
        overwrite: Whether an unfinished search with other arguments is removed.

    Attributes:
        looked: The pictures of whole batches, in their order.
        is_resumed: Whether an unfinished search continues.
        outputs: Outputs that the search may replace.

    Raises:
        ValueError: If there is an unfinished search with other arguments, or another process is running this one.
        CheckpointError: If the files of an unfinished search cannot be read.
    """

    def __init__(
        self, out: Path, identity: Mapping[str, Any], *, batch_size: int, outputs: Sequence[Path], overwrite: bool
    ) -> None:
        self.folder = folder_of(out)
        self._answers = self.folder / "answers.jsonl"
        self._identity, self._batch_size = json.loads(to_json(identity)), batch_size  # as it will be read
        before: dict[str, Any] = {}
        if (config := self.folder / "config.json").exists():
            hold_folder(self.folder, setting="out")
            before = read_json(config, _EXPECTED)
        if before and before.get("identity") != self._identity:
            if not overwrite:
                changed = _first_change(before.get("identity"), self._identity)
                raise ValueError(
                    f"{self.folder}: expected the unfinished search of the same, found one in which {changed} differs; "
                    "repeat that command, choose another `out`, or throw it away with `overwrite`"
                )
            before = {}
        self.is_resumed = bool(before)
        self.outputs = sorted({*map(str, outputs), *before.get("outputs", [])})
        self.looked = [from_json(line) for line in self._whole_batches()] if before else []

    def start(self) -> None:
        """Make the folder, and keep in it the answers that the search continues from."""
        hold_folder(self.folder, setting="out")
        if not self.is_resumed:  # before the config says whose answers these are
            self._answers.unlink(missing_ok=True)
        elif self._answers.exists():
            kept = {int(line["index"]) for line in self._whole_batches()}
            keep_json_lines(self._answers, lambda line: int(line["index"]) in kept)
        write_json(self.folder / "config.json", {"identity": self._identity, "outputs": self.outputs})

    def _whole_batches(self) -> list[dict[str, Any]]:
        """Return the lines of the batches that are whole."""
        lines = read_json_lines(self._answers)
        is_ended = bool(lines) and bool(lines[-1].get("is_last"))
        return lines if is_ended else lines[: len(lines) // self._batch_size * self._batch_size]

    def append(self, batch: Sequence[Looked], *, is_last: bool) -> None:
        """Keep the answers of one batch."""
        lines = [one.as_json() for one in batch]
        if is_last and lines:
            lines[-1]["is_last"] = True
        append_json_lines(self._answers, lines)
        self.looked += batch

    def remove(self) -> None:
        """Remove the folder, since the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def outputs_of(out: Path) -> list[str]:
    """Return the outputs that an unfinished search of a file may replace."""
    config = folder_of(out) / "config.json"
    return list(read_json(config, _EXPECTED).get("outputs", [])) if config.exists() else []


def folder_of(out: Path) -> Path:
    """Return the folder of the answers until the output is written."""
    return out.with_name(out.name + ENDING)


def _first_change(before: object, now: Mapping[str, Any]) -> str:
    known = before if isinstance(before, dict) else {}
    return next((name for name in [*now, *known] if known.get(name) != now.get(name)), "something")
