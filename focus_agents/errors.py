"""Errors of training and evaluation that a caller may want to catch."""

from __future__ import annotations

from focus_env.errors import FocusError


class CheckpointError(FocusError):
    """A checkpoint is missing, incomplete or of another kind."""


class TrainingError(FocusError):
    """A training run failed; its checkpoints so far are in its folder."""


class SamplingError(TrainingError):
    """No sampling process is left; the training so far is kept."""


class EpisodeError(FocusError, ValueError):
    """An episode has no usable prompt, or none of its answers can be scored; the message names episode and reason."""


class EvaluationError(FocusError):
    """An evaluation failed; the answers so far are in its folder."""


class PolicyError(EvaluationError):
    """A policy cannot be made, or has given only failures; the answers so far are in the evaluation's folder."""


class EndpointError(PolicyError, ValueError):
    """An endpoint refuses all requests, or has answered none of many; no further request is sent."""


class RunInterrupted(FocusError):
    """A run stopped because of a signal; its results so far are in its folder.

    Attributes:
        exit_code: Exit code of a process that this signal ends, 128 + the signal's number.
    """

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
