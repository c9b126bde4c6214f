"""Sentences of workers for the person at the driver's terminal, who must hear them even where the disk takes no more.

They travel by the store of Ray's head process, since the workers' output stays in Ray's logs.
"""

from __future__ import annotations

from pathlib import Path

from ray.experimental import internal_kv
from rich.console import Console

NAMESPACE = "focus_notices"
FAILURE, FULL = "failure", "full"
"""Names of the sentences about what ended the training, and what could not be written then; others go by themselves."""
_here: dict[str, str] = {}
"""Where there is no Ray, and so no other process."""


def post(run: Path, text: str, *, key: str | None = None) -> None:
    """Leave a sentence.

    Args:
        run: The run's folder, the same for all processes.
        text: The sentence.
        key: What it is about, if the driver asks for it by that.
    """
    name = f"{run}\n{key or text}"
    if internal_kv._internal_kv_initialized():
        internal_kv._internal_kv_put(name, text, namespace=NAMESPACE)
    else:
        _here[name] = text


def read(run: Path) -> dict[str, str]:
    """Return what was left so far, by key."""
    prefix = f"{run}\n"
    if internal_kv._internal_kv_initialized():
        names = [name.decode() for name in internal_kv._internal_kv_list(prefix, namespace=NAMESPACE)]
        found = {name: internal_kv._internal_kv_get(name, namespace=NAMESPACE) for name in names}
        texts = {name: text.decode() for name, text in found.items() if text is not None}
    else:
        texts = {name: text for name, text in _here.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): text for name, text in sorted(texts.items())}


def clear(run: Path) -> None:
    """Remove what an earlier run of this folder has left."""
    if internal_kv._internal_kv_initialized():
        internal_kv._internal_kv_del(f"{run}\n", del_by_prefix=True, namespace=NAMESPACE)
    for name in [name for name in _here if name.startswith(f"{run}\n")]:
        del _here[name]


class NoticeConsole(Console):
    """A worker's console: what is printed there is left for the driver's.

    Args:
        run: The run's folder.
    """

    def __init__(self, run: Path) -> None:
        super().__init__(quiet=True)
        self._run = run

    def print(self, *objects: object, **options: object) -> None:
        """Leave texts as a sentence."""
        post(self._run, " ".join(map(str, objects)))
