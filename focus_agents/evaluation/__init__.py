"""The one evaluation: greedy answers, kept on disk, with tables, intervals and pictures.

Training does not belong here; the stages call `evaluate` to validate.
"""

from focus_agents.evaluation.answers import evaluate

__all__ = ["evaluate"]
