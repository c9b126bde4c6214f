"""Findings of an examination: sections of notes, each with its verdict, and the verdict of all."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


class Verdict(enum.StrEnum):
    """The verdict of a note or a section; the worst of a section's notes is its own."""

    OK = "ok"
    SKIPPED = "not done"
    WARNING = "warning"
    FAULT = "fault"


_RANK = list(Verdict)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence, and what it means for the user."""

    verdict: Verdict
    text: str


@dataclass(slots=True)
class Section:
    """One part of an examination.

    Attributes:
        name: A word for programs.
        title: For people.
        notes: In the order in which they were found.
        facts: The same in numbers, as plain values for JSON.
    """

    name: str
    title: str
    notes: list[Note] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def ok(self, text: str) -> None:
        """Add what is as it should be."""
        self.notes.append(Note(Verdict.OK, text))

    def skip(self, text: str) -> None:
        """Add what was not looked at, and why."""
        self.notes.append(Note(Verdict.SKIPPED, text))

    def warn(self, text: str) -> None:
        """Add what may be meant, and likely is not."""
        self.notes.append(Note(Verdict.WARNING, text))

    def fault(self, text: str) -> None:
        """Add what has to be mended."""
        self.notes.append(Note(Verdict.FAULT, text))

    @property
    def verdict(self) -> Verdict:
        """The worst of the notes; one without notes was not done."""
        found = [note.verdict for note in self.notes]
        if Verdict.OK in found and max(map(_RANK.index, found)) == _RANK.index(Verdict.SKIPPED):
            return Verdict.OK
        return max(found, key=_RANK.index, default=Verdict.SKIPPED)

    def of(self, verdict: Verdict) -> list[str]:
        """Return the sentences with a verdict."""
        return [note.text for note in self.notes if note.verdict is verdict]

    def as_dict(self) -> dict[str, Any]:
        """Return the section as plain values for JSON."""
        notes = [{"verdict": str(note.verdict), "text": note.text} for note in self.notes]
        return {
            "name": self.name, "title": self.title, "verdict": str(self.verdict), "notes": notes,
            "facts": _plain(self.facts),
        }  # fmt: skip


def _plain(value: Any) -> Any:
    """Return facts as JSON has them: a number that is not finite, which JSON has no word for, as text."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def overall(sections: Iterable[Section]) -> Verdict:
    """Return the worst verdict; what was not done is no fault."""
    found = [s.verdict for s in sections if s.verdict is not Verdict.SKIPPED]
    return max(found, key=_RANK.index, default=Verdict.SKIPPED)


def conclusion(sections: Sequence[Section]) -> str:
    """Return what an examination comes to, in one sentence."""
    by_verdict = {verdict: [s for s in sections if s.verdict is verdict] for verdict in Verdict}
    if faults := by_verdict[Verdict.FAULT]:
        first = faults[0].of(Verdict.FAULT)[0].rstrip(".")
        others = f" (and in: {', '.join(s.title for s in faults[1:])})" if len(faults) > 1 else ""
        return f"fault in {faults[0].title}{others}: {first}."
    if warnings := by_verdict[Verdict.WARNING]:
        first = "; ".join(text.rstrip(".") for text in warnings[0].of(Verdict.WARNING))
        others = f" (see also: {', '.join(s.title for s in warnings[1:])})" if len(warnings) > 1 else ""
        return f"the model can be used, with a warning on {warnings[0].title}{others}: {first}."
    return "the model, the data and the prompt fit together."
