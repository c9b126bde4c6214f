"""Record the code behind a result: versions of packages and digests of source, and the differences of two times.

Whoever goes on with a run or an evaluation compares what was recorded at its start with what is there now. A digest is
over the bytes of the source, so a changed comment counts as a change; whether it matters is for a person to say.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import focus_env

PACKAGES = ("focus_env", "focus_agents")
DISTRIBUTIONS = (
    "numpy", "pillow", "shapely", "pyarrow", "gymnasium", "torch", "transformers", "tokenizers", "peft", "ray",
)  # fmt: skip
"""Packages whose versions may change figures."""
_ROOT = Path(__file__).parents[2]
"""The folder that holds both packages."""
_DIGITS = 12
_DEPTH = 3
_MOST_PARTS = 64
"""How far objects of the project's own are looked into for a user's objects."""


def provenance(*used: Any) -> dict[str, Any]:
    """Return which code is there now, as plain values for a JSON file.

    Args:
        used: A user's own policies, reward terms and data sets: the objects, or their import paths
            (`package.module:name`), whose modules must be imported already. Objects of the project itself are welcome.

    Returns:
        `versions`, by name of the package; `commit`, Git's description of the project's checkout (None outside of one);
        and `sources`, digests by folder or file of the project's packages (`focus_env/rewards`), and by name of each of
        the user's modules.
    """
    return {
        "versions": _versions(),
        "commit": _commit(),
        "sources": {**_own_sources(), **sources_of_users(used)},
    }


def differences(old: Any, new: Mapping[str, Any]) -> list[str]:
    """Say what has changed between two states of the code, a sentence without a full stop for each difference.

    Args:
        old: What `provenance` gave at the start, as JSON gives it back; anything else, such as None, is of a version
            of this package that did not record it.
        new: What it gives now.
    """
    if not (isinstance(old, Mapping) and all(isinstance(old.get(key), Mapping) for key in ("versions", "sources"))):
        return ["which code it was started with is not recorded, so what has changed since cannot be said"]
    lines = []
    versions, sources = ((old[key], new[key]) for key in ("versions", "sources"))
    for name in _changed(*versions):
        before, now = (side.get(name, "not installed") for side in versions)
        lines.append(f"{name} was {before} and is {now} now")
    packages: dict[str, list[str]] = {}
    for name in _changed(*sources):
        package, _, part = name.partition("/")
        packages.setdefault(package, []).append(part)
    for package, parts in packages.items():
        where = f" ({', '.join(parts)})" if any(parts) else ""
        is_gone = package in sources[0] and package not in sources[1]
        lines.append(
            f"the source of {package}{where} is not in use any more"
            if is_gone
            else f"the source of {package}{where} is another than before"
        )
    return lines


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ, those of both sides."""
    return [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]


def _versions() -> dict[str, str]:
    """Return versions by package, also of packages that are not imported, and without importing one."""
    versions = {"python": platform.python_version(), "focus": focus_env.__version__}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """Return the commit of a checkout, with `-dirty` behind it if tracked files differ from it."""
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "-C", str(_ROOT), "describe", "--always", "--dirty"]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return outcome.stdout.strip() or None


def _own_sources() -> dict[str, str]:
    """Return a digest for each file and folder at the top of the project's packages."""
    return {
        f"{package}/{part.name}": _digest(part)
        for package in PACKAGES
        for part in sorted((_ROOT / package).iterdir())
        if part.suffix == ".py" or (part.is_dir() and any(part.rglob("*.py")))
    }


def sources_of_users(used: Iterable[Any]) -> dict[str, str]:
    """Return a digest for each module of a user's own, by its name, and for those of the user's that these use.

    Args:
        used: As for `provenance`.
    """
    waiting = [name for thing in used for name in _modules_of(thing, _DEPTH)]
    files: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if name in files or file is None or name.partition(".")[0] in PACKAGES or not Path(file).is_file():
            continue
        files[name] = Path(file)
        waiting += [other for other in _names_used_by(module) if _belongs(other, name)]
    return {name: _digest(files[name]) for name in sorted(files)}


def _modules_of(thing: Any, depth: int) -> Iterator[str]:
    """Yield the name of the module that an object comes from; and those of what our wrappers hold."""
    if isinstance(thing, str):
        yield thing.partition(":")[0]
    elif isinstance(thing, ModuleType):
        yield thing.__name__
    elif isinstance(thing, functools.partial):
        yield from _modules_of(thing.func, depth)
    elif isinstance(thing, type) or hasattr(thing, "__qualname__"):
        yield str(thing.__module__)
    else:
        module = str(type(thing).__module__)
        yield module
        if module.partition(".")[0] in PACKAGES and depth > 0:
            for held in _flatten(getattr(thing, "__dict__", {})):
                yield from _modules_of(held, depth - 1)


def _flatten(value: Any) -> Iterator[Any]:
    """Yield the objects in mappings and tuples, unless these are long, as those of tracks; texts name no imports."""
    if isinstance(value, Mapping | tuple):
        parts = value.values() if isinstance(value, Mapping) else value
        for part in parts if len(parts) <= _MOST_PARTS else ():
            yield from _flatten(part)
    elif not isinstance(value, str):
        yield value


def _names_used_by(module: Any) -> Iterator[str]:
    """Yield the modules from which a module has taken something."""
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str):
            yield name


def _belongs(name: str, user: str) -> bool:
    """Return whether a module is of the user's own code: of the same package, or installed nowhere."""
    if name.partition(".")[0] == user.partition(".")[0]:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    installed = {Path(path) for key, path in sysconfig.get_paths().items() if key.endswith(("lib", "stdlib"))}
    return file is not None and installed.isdisjoint(Path(file).parents)


def _digest(path: Path) -> str:
    """Return SHA-256 of a file, or of all Python files under a folder with their names; its first digits."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*.py")):
        whole.update(f"{file.relative_to(path).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()[:_DIGITS]
