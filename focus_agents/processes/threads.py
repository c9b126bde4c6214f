"""Threads that wait for each other: they sleep meanwhile, where OpenMP would let them spin.

torch computes each operation with several threads, which meet at its end. OpenMP's own threads look again and again
whether the others are there. Beside anything else that computes, they then hold a core that the last one needs, and a
step of a small model takes several times as long.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""The standard's own variable, which GNU's and LLVM's libraries read."""
SETTINGS = (*PASSIVE, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables of the environment by which a user says how threads wait: the standard's, GNU's and LLVM's."""

_chosen: dict[str, str] = {}


def wait_passively() -> None:
    """Let threads of this process, and of those that it starts, sleep while they wait, unless a user says otherwise.

    OpenMP reads its settings when torch is imported, so this has an effect before that only.
    """
    if not any(name in os.environ for name in SETTINGS):
        os.environ.update(PASSIVE)
        _chosen.update(PASSIVE)


def chosen_settings() -> Mapping[str, str]:
    """Return what `wait_passively` has set, for processes that do not inherit it: those of a cluster that is joined."""
    return dict(_chosen)
