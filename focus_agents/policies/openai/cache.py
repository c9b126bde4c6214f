"""Answers on disk, one small file each, so that a run that ended half-way asks only for the rest."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path

from focus_agents.policies.openai.protocol import Answer
from focus_env.files import write_text

logger = logging.getLogger(__name__)


class AnswerCache:
    """A folder of answers that any number of processes may read and write, and be killed at.

    Each file is complete from the moment that it has its name. A damaged one counts as missing.

    Args:
        folder: Made when the first answer is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self) -> None:
        """See that answers can be kept, before one is paid for.

        Raises:
            ValueError: If there is a file in the place of the folder, or the folder cannot be written into.
        """
        place = next((path for path in (self.folder, *self.folder.absolute().parents) if path.exists()), self.folder)
        if not place.is_dir():
            raise ValueError(
                f"cache_dir (`api_cache`): expected a folder, or a place for one, got {self.folder}; {place} is a file"
            )
        if not os.access(place, os.W_OK | os.X_OK):
            raise ValueError(f"cache_dir (`api_cache`): expected a folder that can be written into, got {self.folder}")

    def read(self, key: str) -> Answer | None:
        """Return the answer of that name, if there is one."""
        path = self._path(key)
        try:
            record = json.loads(path.read_bytes())
            text, is_finished = record["text"], record["is_finished"]
            if not isinstance(text, str) or not isinstance(is_finished, bool):
                raise TypeError(f"expected a text and a truth value, got {text!r:.80} and {is_finished!r:.80}")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            logger.warning("%s: damaged, the answer is asked for anew (%s: %s)", path, type(error).__name__, error)
            return None
        return Answer(text, is_finished)

    def write(self, key: str, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            OSError: If the disk does not take it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(
            self._path(key), json.dumps(asdict(answer))
        )  # in ASCII: an answer may hold halves of surrogate pairs

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"
