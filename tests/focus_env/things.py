"""An entry of a registry that exists in tests alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    name: str
    summary: str = "a thing"

    @property
    def usage(self) -> str:
        return f"{self.name}()"
