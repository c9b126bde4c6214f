"""Settings records: frozen dataclasses that declare a field once, with its meaning, its default and its range.

    @dataclass(frozen=True, kw_only=True)
    class SamplingSettings(Settings):
        group_size: Annotated[int, Ge(2)] = 8
        (here stands its docstring, which `--help` shows)

A record checks itself when it is made. RLlib's configuration carries such a record, a command reads it, a study varies
it: none of them repeats a name, a default or a range.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import numbers
import reprlib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True)
class Ceiling:
    """A bound beyond which a value is a slip of the pen: it would end in an overflow, in no memory, or never.

    Attributes:
        most: The largest size that is taken.
    """

    most: float


WHOLE_CEILING, CEILING = Ceiling(2**31 - 1), Ceiling(1e9)
"""Ceilings of whole numbers and of others, where a setting declares no `Ceiling` of its own."""

Seed = Annotated[int, Ge(0), Ceiling(2**32 - 1)]
"""Of random draws; NumPy's and RLlib's generators take no larger one."""
LearningRate = Annotated[float, Gt(0), Ceiling(1)]
"""AdamW moves every weight by about so much in each step, and weights are mostly smaller than 1."""
TokenCount = Annotated[int, Ge(1), Ceiling(2**17)]
"""Tokens of an answer; no model that is known writes longer ones."""

_is_deferred: ContextVar[bool] = ContextVar("is_deferred", default=False)


class Settings:
    """Base of all settings records, which are frozen dataclasses and check themselves when they are made.

    Raises:
        ValueError: If a field is out of its range.
    """

    def __post_init__(self) -> None:
        if not _is_deferred.get():
            self.check()

    def check(self) -> None:
        """Check each field; a subclass adds what concerns several fields, after `super().check()`.

        Raises:
            ValueError: If a field is out of its range.
        """
        record: Any = type(self)
        for name, annotation in _annotations(record).items():
            value = getattr(self, name)
            if isinstance(value, Settings):
                value.check()
            else:
                check_value(name, value, annotation)


@contextlib.contextmanager
def deferred_checks() -> Iterator[None]:
    """Let records be made without a check, for who has several to make first and then calls `check`."""
    token = _is_deferred.set(True)
    try:
        yield
    finally:
        _is_deferred.reset(token)


S = TypeVar("S", bound=Settings)


def join(record: type[S], *parts: Settings) -> S:
    """Return the record that has the fields of several parts.

    Args:
        record: Inherits from the class of each part, and has no field beyond theirs that lacks a default.
        parts: Records without a field in common.
    """
    values = {name: value for part in parts for name, value in as_dict(part).items()}
    return record(**values)


def as_dict(settings: Any) -> dict[str, Any]:
    """Return the fields of a record by name, as they are."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def names_of(record: Any) -> frozenset[str]:
    """Return the names of a record's fields."""
    return frozenset(field.name for field in dataclasses.fields(record))


@functools.cache
def _annotations(record: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(record, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


def check_value(name: str, value: Any, annotation: Any) -> None:
    """Check a value against the annotation of its field: its kind of number, its bounds, its choices.

    Args:
        name: Names the field in messages.
        value: The value.
        annotation: A type; `Annotated` with `Ge`, `Gt`, `Le` and `Ceiling`; a `Literal`; a tuple of any number of one
            of these; or a union of these with None.

    Raises:
        ValueError: If the value is none of these. An infinite number is in no range, nor is nan, nor one beyond the
            ceiling.
    """
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = typing.get_args(annotation)
        if value is None and type(None) in members:
            return
        annotation = next(member for member in members if member is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        choices = typing.get_args(annotation)
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
        return
    if typing.get_origin(annotation) is tuple and typing.get_args(annotation)[1:] == (...,):
        for item in value:
            check_value(name, item, typing.get_args(annotation)[0])
        return
    bounds: Sequence[Any] = ()
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *bounds = typing.get_args(annotation)
    if annotation is bool and not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    kind = {int: numbers.Integral, float: numbers.Real}.get(annotation)
    if kind is not None:
        _check_number(name, value, kind, bounds)


def _check_number(name: str, value: Any, kind: type, bounds: Sequence[Any]) -> None:
    is_whole = kind is numbers.Integral
    (*_, ceiling), bounds = (
        [WHOLE_CEILING if is_whole else CEILING, *(bound for bound in bounds if isinstance(bound, Ceiling))],
        [bound for bound in bounds if not isinstance(bound, Ceiling)],
    )
    expected, found = _describe(bounds, is_whole=is_whole), reprlib.repr(value)
    if isinstance(value, bool) or not isinstance(value, kind) or not all(_holds(bound, value) for bound in bounds):
        raise ValueError(f"{name}: expected {expected}, got {found}")
    size = abs(cast("float", value))
    if bounds and size == math.inf:
        raise ValueError(f"{name}: expected {expected}, and finite, got {found}")
    if size > ceiling.most:  # nan goes on to the check of several settings where one alone has no bounds
        raise ValueError(f"{name}: expected {expected}, and at most {ceiling.most:.12g}, got {found}")


def _holds(bound: Any, value: Any) -> bool:
    """Return whether a number keeps a bound; nan keeps none."""
    match bound:
        case Ge(least):
            return bool(value >= least)
        case Gt(limit):
            return bool(value > limit)
        case Le(most):
            return bool(value <= most)
    raise TypeError(f"bound: expected Ge, Gt or Le, got {bound!r}")


def _describe(bounds: Sequence[Any], *, is_whole: bool) -> str:
    """Return the bounds in words."""
    match tuple(bounds):
        case (Ge(int(least)), Le(int(most))):
            return f"{least} or {most}" if is_whole and most - least == 1 else f"a number from {least} to {most}"
        case (Gt(limit), Le(most)):
            return f"more than {limit} and at most {most}"
        case (Ge(least),):
            return f"{least} or more"
        case (Gt(limit),):
            return f"more than {limit}"
    return "a whole number" if is_whole else "a number"
