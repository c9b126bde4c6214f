"""FOCUS's agents: everything with weights.

The public names are imported when they are first used, so importing this package loads neither torch nor Ray:

>>> from focus_agents import FocusPolicy, GRPOConfig, evaluate
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focus_agents.errors import CheckpointError, EvaluationError, RunInterrupted, TrainingError
    from focus_agents.evaluation import evaluate
    from focus_agents.finding import Findings, find
    from focus_agents.grpo.algorithm import GRPO, GRPOConfig
    from focus_agents.models.loading import load_model, load_processor, load_template
    from focus_agents.policies.focus import FocusPolicy, Localization
    from focus_agents.rollout.collect import collect_groups
    from focus_agents.rollout.records import Completion, Generation, Policy, RolloutGroup, Sampling
    from focus_agents.runs.folder import RunDirectory
    from focus_agents.sft.plan import SFTPlan
    from focus_agents.sft.settings import SFTConfig, SFTSchedule
    from focus_agents.sft.train import Workers, train_sft

__all__ = [
    "GRPO",
    "CheckpointError",
    "Completion",
    "EvaluationError",
    "Findings",
    "FocusPolicy",
    "GRPOConfig",
    "Generation",
    "Localization",
    "Policy",
    "RolloutGroup",
    "RunDirectory",
    "RunInterrupted",
    "SFTConfig",
    "SFTPlan",
    "SFTSchedule",
    "Sampling",
    "TrainingError",
    "Workers",
    "collect_groups",
    "evaluate",
    "find",
    "load_model",
    "load_processor",
    "load_template",
    "train_sft",
]

_MODULES = {
    "focus_agents.errors": ("CheckpointError", "EvaluationError", "RunInterrupted", "TrainingError"),
    "focus_agents.evaluation": ("evaluate",),
    "focus_agents.finding": ("Findings", "find"),
    "focus_agents.grpo.algorithm": ("GRPO", "GRPOConfig"),
    "focus_agents.models.loading": ("load_model", "load_processor", "load_template"),
    "focus_agents.policies.focus": ("FocusPolicy", "Localization"),
    "focus_agents.rollout.collect": ("collect_groups",),
    "focus_agents.rollout.records": ("Completion", "Generation", "Policy", "RolloutGroup", "Sampling"),
    "focus_agents.runs.folder": ("RunDirectory",),
    "focus_agents.sft.plan": ("SFTPlan",),
    "focus_agents.sft.settings": ("SFTConfig", "SFTSchedule"),
    "focus_agents.sft.train": ("Workers", "train_sft"),
}
"""The same imports as above, for `__getattr__`; a test compares both with `__all__`."""

if not TYPE_CHECKING:  # a type checker that sees `__getattr__` takes any name for one that exists

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used.

        Raises:
            AttributeError: If there is no such name.
        """
        for module, names in _MODULES.items():
            if name in names:
                globals()[name] = value = getattr(importlib.import_module(module), name)
                return value
        import difflib  # here: most imports of this package end well

        near = difflib.get_close_matches(name, __all__, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
