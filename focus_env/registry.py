"""Entries by name: those that are built in, and those that installed packages add.

A policy, a reward term and a data set are one frozen record each. A package adds a record by an entry point, whose name
is that of the record:

    [project.entry-points."focus_env.reward_terms"]
    centre = "my_package.rewards:CENTRE"

Installed packages are asked only for a name that is not built in, or when all entries are listed. A package whose entry
cannot be used is named in that list and in errors, and harms nothing else.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, distributions, entry_points
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

_NAME = re.compile(r"[\w.-]+")
"""Names stand beside colons, commas and parentheses."""


class Entry(Protocol):
    """A record that can be found by its name."""

    @property
    def name(self) -> str:
        """The name by which users ask for it."""

    @property
    def usage(self) -> str:
        """The name with its arguments, as users write both."""

    @property
    def summary(self) -> str:
        """A short description without a full stop."""


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Entries of one kind.

    Args:
        kind: Name of the kind in messages, such as "reward term".
        group: Group of the entry points by which packages add entries.
        entry_type: Class of the records.
        built_in: The entries of this package, in the order in which they are listed.

    Attributes:
        group: Group of the entry points.
        built_in: The entries of this package by name.
    """

    def __init__(self, kind: str, group: str, entry_type: type[E], built_in: Iterable[E]) -> None:
        self._kind = kind
        self.group = group
        self._entry_type = entry_type
        self.built_in: Mapping[str, E] = MappingProxyType({entry.name: entry for entry in built_in})

    def find(self, name: str) -> E | None:
        """Return the entry of a name, or None if there is none that can be used.

        Only a name that is not built in imports the package that adds it.
        """
        if name in self.built_in:
            return self.built_in[name]
        offered, _ = self._offered()
        return self._load(name, offered[name])[0] if name in offered else None

    def load_all(self) -> tuple[dict[str, E], list[str]]:
        """Import what installed packages add.

        Returns:
            All entries by name, the built-in ones first; and a sentence without a full stop for each fault of an
            installed package.
        """
        entries = dict(self.built_in)
        offered, faults = self._offered()
        for name, points in sorted(offered.items()):
            entry, fault = self._load(name, points)
            if entry is None:
                faults.append(fault)
            else:
                entries[name] = entry
        return entries, faults

    def known(self) -> str:
        """Return all entries in one line for an error message, with the faults of installed packages."""
        entries, faults = self.load_all()
        return "; ".join([", ".join(entry.usage for entry in entries.values()), *faults])

    def help(self) -> str:
        """Return a line for each entry and each fault of an installed package, for the help of a command."""
        entries, faults = self.load_all()
        return "\n".join([*(f"- {entry.usage}: {entry.summary}" for entry in entries.values()), *faults])

    def _offered(self) -> tuple[dict[str, list[EntryPoint]], list[str]]:
        """Return the names that installed packages add, nothing of it imported, and the faults of their lists."""
        points, faults = _read_points(self.group)
        offered: dict[str, list[EntryPoint]] = {}
        for point in points:
            if point.name in self.built_in:
                warnings.warn(
                    f"{_package(point)} adds a {self._kind} {point.name!r}, which is built in; its own is ignored",
                    stacklevel=1,  # Python shows it once, whoever asks
                )
            else:
                offered.setdefault(point.name, []).append(point)
        return offered, faults

    def _load(self, name: str, points: list[EntryPoint]) -> tuple[E | None, str]:
        """Return the record behind a name, or None and what is wrong with it."""
        packages = " and ".join(sorted(map(_package, points)))
        fault = f"{self._kind} {name!r} of {packages} cannot be used: "
        if len(points) > 1:  # which of them is found first depends on the path, so neither is taken
            return None, fault + "only one package may add it"
        if not _NAME.fullmatch(name):
            return None, fault + "expected a name of letters, digits, '_', '.' and '-'"
        try:
            entry = points[0].load()
        except (Exception, SystemExit) as error:  # whatever the package's own code raises
            return None, fault + f"importing {points[0].value!r} raised {_reason(error)}"
        if not isinstance(entry, self._entry_type):
            return None, fault + f"expected a {self._entry_type.__name__}, got {type(entry).__name__}"
        try:
            texts = (entry.usage, entry.summary)
        except Exception as error:
            return None, fault + f"describing it raised {_reason(error)}"
        if not all(isinstance(text, str) for text in texts):
            return None, fault + f"expected a usage and a summary in words, got {texts}"
        if entry.name != name:
            return None, fault + f"its record has the name {entry.name!r}; give both one name"
        return entry, ""


def _read_points(group: str) -> tuple[list[EntryPoint], list[str]]:
    """Return the entry points of a group, and a sentence for each package whose list is malformed."""
    try:
        return list(entry_points(group=group)), []
    except Exception:  # the standard library stops at the first malformed list, whatever group it is about
        pass
    points: list[EntryPoint] = []
    faults: list[str] = []
    seen: set[str] = set()
    for package in distributions():
        if package.name in seen:  # found twice on the path: the first one counts
            continue
        seen.add(package.name)
        try:
            points += package.entry_points.select(group=group)
        except Exception as error:
            faults.append(f"the entry points of {package.name} {package.version} cannot be read ({_reason(error)})")
    return points, faults


def _package(point: EntryPoint) -> str:
    """Return the name and version of the package that adds an entry."""
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
