"""Errors of training and evaluation that a caller may want to catch."""

from __future__ import annotations

from focus_env.errors import FocusError


class CheckpointError(FocusError):
    """A checkpoint is missing, incomplete or of another kind."""


class TrainingError(FocusError):
    """A training run gave up; what it had reached is in its folder."""


class SamplingError(TrainingError):
    """The processes that sample cannot be had any more; what was trained is all there."""


class EpisodeError(FocusError, ValueError):
    """An episode could not be asked, or none of its answers be scored; the message names it and the reason."""


class EvaluationError(FocusError):
    """An evaluation gave up; what was answered is in its folder."""


class PolicyError(EvaluationError):
    """A policy cannot be made, or has given nothing but failures; what was answered is in the evaluation's folder."""


class EndpointError(PolicyError, ValueError):
    """An endpoint refuses all questions, or has answered none of many; no further one was sent."""


class RunInterrupted(FocusError):
    """A run stopped because a signal asked it to; what it had reached is in its folder.

    Attributes:
        exit_code: What a shell shows for a process that this signal has ended, 128 + its number.
    """

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
