"""Choose where torch's compiler keeps its results: nowhere, unless something is compiled.

Transformers asks for that folder when it is imported, and torch then makes one that is not there.
"""

from __future__ import annotations

import os
import tempfile

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable of the environment that names the folder; a user's own stays."""


def make_no_cache() -> None:
    """Name a folder that is there already to this process and its children; call it before transformers is imported."""
    os.environ.setdefault(VARIABLE, tempfile.gettempdir())


def keep_compiled() -> None:
    """Let torch choose its own folder again, in this process, where something is to be compiled."""
    if os.environ.get(VARIABLE) == tempfile.gettempdir():
        del os.environ[VARIABLE]
