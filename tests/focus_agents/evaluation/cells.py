"""Cells of results with given answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focus_agents.evaluation.episodes import EpisodeDigests
from focus_agents.evaluation.records import AnswerRecord, Cell
from focus_agents.evaluation.results import ResultsFolder
from focus_env.metrics import ScoredAnswer


def fill(
    path: Path,
    policy: str,
    dataset: str,
    shots: int,
    answers: Sequence[ScoredAnswer],
    *,
    num_failed: int = 0,
    num_cut: int = 0,
    num_expected: int | None = None,
    not_published: str = "",
    scores: Sequence[float | None] = (),
    **settings: Any,
) -> tuple[ResultsFolder, Cell]:
    """Answers of one cell: the first failed, the last were cut, and each took a second longer than the one before.

    The episodes are those of the paper, unless a reason is given why they are not.
    """
    cell = Cell(policy=policy, dataset=dataset, shots=shots, num_episodes=num_expected or len(answers))
    given = {"dataset": dataset, "split": "test", "protocol": "focus", **settings}
    results = ResultsFolder.open(path, data={dataset: given}, policies={policy: {}}, cells=[cell])
    records = [
        AnswerRecord(
            policy=policy,
            dataset=dataset,
            shots=shots,
            index=index,
            text=f"text {index}",
            error="too late" if index < num_failed else None,
            seconds=float(index),
            answer=answer,
            is_cut=index >= len(answers) - num_cut,
            score=scores[index] if scores else None,
        )
        for index, answer in enumerate(answers)
    ]
    results.append(cell, records)
    results.write_episodes(cell, EpisodeDigests((), {}), not_published)
    return results, cell
