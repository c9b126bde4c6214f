"""Records of the answers that an evaluation keeps, and the check that a line of a file is such a record."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_type_hints

from focus_agents.runs.answers import read_answer
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus

MAX_TEXT = 2000
"""Characters kept of an answer."""
_MAX_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the table.

    Attributes:
        policy: Its name in tables, as the user wrote it.
        dataset: Likewise.
        shots: Supports per episode.
        num_episodes: How many are to be answered, from index 0 on.
    """

    policy: str
    dataset: str
    shots: int
    num_episodes: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{file_name(self.policy)}__{file_name(self.dataset)}__{self.shots}-shot"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """One answered episode.

    Attributes:
        policy: As in `Cell`.
        dataset: As in `Cell`.
        shots: As in `Cell`.
        index: Of the episode in its data set.
        text: What the policy wrote, at most `MAX_TEXT` characters of it.
        error: Why there is no answer, see `focus_agents.rollout.records.Completion`.
        seconds: What the policy took for the episode's batch, divided by the episodes of the batch.
        is_cut: Whether it was cut at the limit of tokens.
        score: How sure the policy is of it, see `focus_agents.rollout.scores`; None: it does not say.
        answer: How it was scored.
    """

    policy: str
    dataset: str
    shots: int
    index: int
    text: str
    error: str | None
    seconds: float
    answer: ScoredAnswer
    is_cut: bool = False
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as one flat object."""
        own = {name: getattr(self, name) for name in self.__slots__ if name != "answer"}
        return {**own, **asdict(self.answer)}

    @classmethod
    def from_json(cls, line: Any) -> AnswerRecord:
        """Back from `to_json`.

        Raises:
            ValueError: If a value is missing, or is none that `to_json` can have written.
        """
        if not isinstance(line, Mapping):
            raise ValueError(f"expected an object, got {line!r:.80}")
        # Not in files of earlier releases.
        line = {"is_cut": False, "numbers": None, "image_wh": None, "score": None, **line}
        if missing := [name for name in _kinds() if name not in line]:
            raise ValueError(f"expected a value of {missing[0]!r}, found none")
        for name, kind in _kinds().items():
            if not is_value(line[name], kind):
                raise ValueError(f"{name}: expected {_EXPECTED[kind]}, got {line[name]!r:.80}")
        if line["index"] < 0 or not 0 <= line["iou"] <= 1 or line["seconds"] < 0:
            raise ValueError(
                "expected an index and seconds of 0 or more and an iou from 0 to 1, got "
                f"{line['index']}, {line['seconds']} and {line['iou']}"
            )
        if line["score"] is not None and not 0 <= line["score"] <= 1:
            raise ValueError(f"expected a score from 0 to 1, got {line['score']}")
        own = {name: line[name] for name in cls.__slots__ if name != "answer"}
        return cls(**own, answer=read_answer(line))


_EXPECTED: Mapping[Any, str] = {
    str: "a text",
    str | None: "a text or null",
    int: "a whole number",
    float: "a finite number",
    float | None: "a finite number or null",
    bool: "true or false",
    ParseStatus: f"one of {', '.join(ParseStatus)}",
    Box | None: "four finite numbers or null",
    tuple[float, float, float, float] | None: "four finite numbers or null",
    tuple[int, int] | None: "two whole numbers or null",
}


@functools.cache
def _kinds() -> Mapping[str, Any]:
    """Return by name of a value of a line the kinds that it may have; values of other kinds are not looked at."""
    own = {name: kind for name, kind in get_type_hints(AnswerRecord).items() if name != "answer"}
    return {name: kind for name, kind in (own | get_type_hints(ScoredAnswer)).items() if kind in _EXPECTED}


def is_value(value: Any, kind: Any) -> bool:
    """Return whether a value out of JSON is of a kind, one of those that `AnswerRecord` and `Cell` have."""
    if kind in (Box | None, tuple[float, float, float, float] | None, tuple[int, int] | None):
        count, of = (2, int) if kind == (tuple[int, int] | None) else (4, float)
        is_list = isinstance(value, list) and len(value) == count and all(is_value(number, of) for number in value)
        return value is None or is_list
    if kind == (float | None):
        return value is None or is_value(value, float)
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and -math.inf < value < math.inf
    if kind is ParseStatus:
        return value in list(ParseStatus)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def file_name(text: str) -> str:
    """Return a text as part of a file's name; one that loses more than a first colon gets a digest, so that none clash.

    A text with a dash and no colon could be another one's whose colon has become a dash; `ResultsFolder.open` sees to
    that.
    """
    name = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-")
    if name == text.replace(":", "-") and len(name) <= _MAX_NAME:
        return name
    return f"{name[-_MAX_NAME:]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
