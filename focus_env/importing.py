"""A user's own object by its import path, `package.module:name`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def import_object(path: str) -> Any:
    """Import what a user names; this runs the module's code, so the path must come from the user alone.

    Args:
        path: `package.module:name`. The folder of this call is looked into after the installed packages.

    Raises:
        ValueError: If the path is malformed, or there is no such module or name; the message says which.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ValueError(f"import path {path!r}: expected package.module:name")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"import path {path!r}: could not import {module_name!r} ({error})") from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ValueError(f"import path {path!r}: the module {module_name!r} has no {name!r}") from None
