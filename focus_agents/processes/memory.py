"""Measure the memory that a process holds."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

MEMORY = "memory_gib"
"""The metric."""
_STATUS = Path("/proc/self/statm")


def memory_gib() -> float:
    """Return the resident memory of this process in GiB; where the system does not say it, the most it ever was."""
    try:
        pages = int(_STATUS.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2 ** (30 if sys.platform == "darwin" else 20)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30
