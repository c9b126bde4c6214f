"""A user's own object by its import path, `package.module:name`."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any


class NoSuchObjectError(ValueError):
    """An import path is malformed, or leads to no module or to no name of it."""


def import_object(path: str) -> Any:
    """Import what a user names; this runs the module's code, so the path must come from the user alone.

    Args:
        path: `package.module:name`. The folder of this call is looked into after the installed packages.

    Raises:
        NoSuchObjectError: If the path is malformed, or there is no such module or name; the message says which.
        ValueError: If the module's own code raises.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise NoSuchObjectError(f"import path {path!r}: expected package.module:name")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module's own code raises, `sys.exit` among it
        raised = f"import path {path!r}: importing {module_name!r} raised {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            advice = "a module of your own must lie in the folder of this call or on PYTHONPATH"
            raise NoSuchObjectError(f"{raised}; {advice}") from error
        raise ValueError(raised) from error
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), n=1)
        raise NoSuchObjectError(
            f"import path {path!r}: {module.__file__} has no {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return getattr(module, name)
