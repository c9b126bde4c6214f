"""Errors that a caller may want to catch.

    FocusError
    ├── DatasetError             a data set on disk is missing or malformed
    ├── CheckpointError          a checkpoint is missing, incomplete or of another kind
    ├── TrainingError            a training run gave up
    └── MissingDependencyError   an optional package is not installed

A wrong argument is a plain ``ValueError``. Each message names the thing, what was expected, what came, and what to do.
"""

from __future__ import annotations


class FocusError(Exception):
    """Base of all errors that the project defines."""


class DatasetError(FocusError):
    """A data set on disk is missing, incomplete or malformed."""


class CheckpointError(FocusError):
    """A checkpoint is missing, incomplete or of another kind."""


class TrainingError(FocusError):
    """A training run gave up; what it had reached is in its folder."""


class MissingDependencyError(FocusError, ImportError):
    """An optional package is needed and not installed; the message holds the command that installs it."""
