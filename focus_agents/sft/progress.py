"""Count how far a supervised run is, and how well it goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """The progress of a run; part of each checkpoint.

    Attributes:
        step: Optimizer steps done, the skipped ones included.
        best_miou: Best validation mean IoU since the start of training; -1 before the first.
        best_step: Where it was reached.
        num_stale: Validations since it last rose.
        num_bad_steps: Steps whose loss or gradient was not finite, in all.
        num_bad_in_a_row: Likewise, up to the last step.
        heads: [layer, head] of the heads that were chosen before the first step; None: all are averaged.
    """

    step: int = 0
    best_miou: float = -1.0
    best_step: int = 0
    num_stale: int = 0
    num_bad_steps: int = 0
    num_bad_in_a_row: int = 0
    heads: list[list[int]] | None = None

    def count_step(self, *, is_finite: bool) -> None:
        """Note a step."""
        self.step += 1
        self.num_bad_steps += not is_finite
        self.num_bad_in_a_row = 0 if is_finite else self.num_bad_in_a_row + 1

    def count_validation(self, miou: float) -> None:
        """Note a validation; of equally good ones the last is the best, as Ray Train has it."""
        self.num_stale = 0 if miou > self.best_miou else self.num_stale + 1
        if miou >= self.best_miou:
            self.best_miou, self.best_step = miou, self.step
