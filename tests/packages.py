"""Packages of third parties, as pip leaves them: modules, and the metadata in which they name their entries."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest


def install_package(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    name: str,
    group: str,
    entries: Mapping[str, str],
    *,
    modules: Mapping[str, str] | None = None,
) -> None:
    """Put a package on the path for the time of a test.

    Args:
        monkeypatch: Takes it off the path again.
        folder: A folder of this package alone.
        name: Name of the package; its version is 1.0.
        group: Group of its entry points.
        entries: By the name of an entry point, `module:object`.
        modules: By its name, the code of a module; the names are those of no other test.
    """
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "".join(f"{entry} = {value}\n" for entry, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}")
    for module, source in (modules or {}).items():
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(folder)
