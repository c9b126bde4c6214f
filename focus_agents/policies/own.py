"""A user's own policy by its import path: imported, looked at before any work, and made."""

from __future__ import annotations

import inspect
from typing import Any

from focus_env.importing import NoSuchObjectError, import_object

EXPECTED = (
    "an object with a method `generate` (focus_agents.Policy) or a function from an observation and a random generator "
    "to a box"
)


def import_policy(path: str, text: str) -> Any:
    """Import a policy, or a class that makes one, and look at its calls without making any.

    Args:
        path: `package.module:Name`.
        text: The policy as the user wrote it, for messages.

    Raises:
        NoSuchObjectError: If there is no such module or name.
        ValueError: If the module's own code raises, or what it names is no policy, localizer, or class of these.
    """
    try:
        found = import_object(path)
    except NoSuchObjectError:
        raise
    except ValueError as error:
        reason = str(error).removeprefix(f"import path {path!r}: ")
        raise ValueError(f"policy {text!r}: {reason}") from error
    check_calls(found, text)
    return found


def make_policy(path: str, argument: str, text: str) -> Any:
    """Import a policy, and make it where the path names a class.

    Args:
        path: `package.module:Name`.
        argument: What the class is given; "": nothing.
        text: The policy as the user wrote it, for messages.

    Raises:
        ValueError: As `import_policy` does, or if the class raises.
    """
    found = import_policy(path, text)
    if not isinstance(found, type):
        if argument:
            raise ValueError(f"policy {text!r}: expected {path} alone; this object is no class, and takes no argument")
        return found
    try:
        made = found(argument) if argument else found()
    except (Exception, SystemExit) as error:
        raise ValueError(f"policy {text!r}: making it raised {type(error).__name__}: {error}") from error
    check_calls(made, text)
    return made


def check_calls(found: Any, text: str) -> None:
    """See that an object, or what a class makes, can be called as a policy or as a localizer.

    Args:
        found: The object or the class.
        text: The policy as the user wrote it, for messages.

    Raises:
        ValueError: If not.
    """
    is_class = isinstance(found, type)
    call = getattr(found, "generate", None)
    is_policy = call is not None
    if not is_policy:
        has_call = any("__call__" in vars(base) for base in found.__mro__) if is_class else callable(found)
        call = (found.__call__ if is_class else found) if has_call else None  # of a class: that of its objects
    if not callable(call):
        raise ValueError(f"policy {text!r}: expected {EXPECTED}, got {_kind(found)}")
    is_static = isinstance(inspect.getattr_static(found, "generate", None), staticmethod | classmethod)
    of_self = (None,) if is_class and not is_static else ()
    keywords = dict.fromkeys(("num_completions", "sampling", "seeds")) if is_policy else {}
    try:
        inspect.signature(call).bind(*of_self, *((None,) if is_policy else (None, None)), **keywords)
    except TypeError as error:
        asked = "generate(prompts, num_completions=, sampling=, seeds=)" if is_policy else "call(observation, rng)"
        raise ValueError(
            f"policy {text!r}: expected {EXPECTED}, called as {asked}, which it does not take: {error}"
        ) from None
    except ValueError:
        return  # a function without a signature to look at, of an extension


def _kind(found: Any) -> str:
    return f"{found.__name__}, a class whose objects are neither" if isinstance(found, type) else type(found).__name__
