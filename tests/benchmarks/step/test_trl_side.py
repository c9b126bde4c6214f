"""TRL's step: as sparing as on a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.step.checks import check_same_as_trl
from benchmarks.step.setup import Setup
from tests.benchmarks.small import SIZE

pytestmark = pytest.mark.usefixtures("one_thread")


def test_trl_scores_the_positions_of_answers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does on a GPU; on the CPU it would score each position of each row."""
    utils = pytest.importorskip("trl.trainer.utils")
    right, num_scored = utils._ChunkedLogProbFunction.apply, []

    def count(states: torch.Tensor, *args: Any) -> Any:
        num_scored.append(len(states))
        return right(states, *args)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=count))
    check_same_as_trl(Setup.build(SIZE))
    assert num_scored == [2 * 4]
