"""Cases, and the sides that each compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CaseName = Literal["sampling", "learning", "step", "trl_learning", "fused", "without_signal"]


@dataclass(frozen=True)
class Case:
    """The sides that are compared.

    Attributes:
        ours: The name of our side.
        peer: The name of the other.
        num_prompts: Groups in a step.
    """

    ours: str
    peer: str
    num_prompts: int = 1


CASES: dict[CaseName, Case] = {
    "sampling": Case("one encoding of the prompt", "transformers' generate(num_return_sequences=G)"),
    "learning": Case("prompt and answers in one row", "the prompt repeated for each answer"),
    "step": Case("a step from messages to weights", "a step of TRL's GRPOTrainer"),
    "trl_learning": Case("learning by SharedPrefixGRPOTrainer", "learning by TRL's GRPOTrainer"),
    "fused": Case("a step that encodes prompts once", "a step that encodes prompts for sampling and for learning"),
    "without_signal": Case("half of the groups left out of learning", "learning from all groups", num_prompts=2),
}
