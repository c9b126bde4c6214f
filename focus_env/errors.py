"""Errors that a caller may want to catch.

    FocusError
    ├── DatasetError             a data set on disk is missing or malformed
    ├── CheckpointError          a checkpoint is missing, incomplete or of another kind
    ├── TrainingError            a training run gave up
    │   └── SamplingError        for want of processes that sample
    ├── RewardError              a reward term raised, or gave what is no reward; a ValueError, too
    ├── EpisodeError             an episode could not be asked, or its answers not be scored; a ValueError, too
    ├── EvaluationError          an evaluation gave up
    ├── RunInterrupted           a run stopped when it was asked to, and can go on
    ├── StorageError             a file or folder could not be written; an OSError, too
    └── MissingDependencyError   an optional package is not installed

A wrong argument is a plain ``ValueError``. Each message names the thing, what was expected, what came, and what to do.
"""

from __future__ import annotations


class FocusError(Exception):
    """Base of all errors that the project defines."""


class DatasetError(FocusError):
    """A data set on disk is missing, incomplete or malformed."""


class RewardError(FocusError, ValueError):
    """A reward term raised an error, or did not give one finite number for each answer.

    Terms are pure functions, so nobody asks a second time.
    """


class StorageError(FocusError, OSError):
    """A file or folder could not be written, because the disk is full or for another reason; it is as it was before.

    Attributes:
        cause: The message without its advice for a command that has ended; empty if it has none.
        reason: The same without the path.
    """

    cause: str = ""
    reason: str = ""


class MissingDependencyError(FocusError, ImportError):
    """An optional package is needed and not installed; the message holds the command that installs it."""
