"""Errors that a caller may want to catch.

    FocusError
    ├── DatasetError             a data set on disk is missing or malformed
    ├── CheckpointError          a checkpoint is missing, incomplete or of another kind
    ├── TrainingError            a training run failed
    │   └── SamplingError        because no sampling process is left
    ├── RewardError              a reward term raised, or returned no valid rewards; a ValueError, too
    ├── EpisodeError             an episode has no usable prompt, or its answers cannot be scored; a ValueError, too
    ├── EvaluationError          an evaluation failed
    ├── RunInterrupted           a run stopped because of a signal, and can continue
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
    """A reward term raised an error, or did not return one finite number for each answer.

    Terms are pure functions, so a retry would fail again.
    """


class StorageError(FocusError, OSError):
    """A file or folder could not be written, because the disk is full or for another reason; the old one is unchanged.

    Attributes:
        cause: The message without its advice for a command that has ended; empty if there is no advice.
        reason: The cause without the path.
    """

    cause: str = ""
    reason: str = ""


class MissingDependencyError(FocusError, ImportError):
    """An optional package is needed and not installed; the message holds the command that installs it."""
