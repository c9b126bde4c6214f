"""Pictures of answers: the best, the worst, and a random choice of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from focus_agents.evaluation.records import AnswerRecord, Cell
from focus_agents.evaluation.results import ResultsFolder
from focus_env.rendering import ANSWER_COLOUR, render_row, stack_rows, write_picture
from focus_env.types import EpisodeDataset, ImageArray

NUM_SHOWN = 3
_MAX_TITLE_TEXT = 60


def choose_shown(
    records: Sequence[AnswerRecord], *, num_shown: int = NUM_SHOWN, seed: int = 0
) -> list[tuple[str, AnswerRecord]]:
    """Choose the answers to look at.

    Args:
        records: Answers, in the order of their episodes.
        num_shown: How many of each kind, as far as there are so many.
        seed: Of the random ones.

    Returns:
        Pairs of "best", "worst" or "random" and an answer, none of which comes twice. Of equals, the first are best.
    """
    ranked = sorted(records, key=lambda record: -record.answer.credit)
    best, rest = ranked[:num_shown], ranked[num_shown:]
    cut = max(0, len(rest) - num_shown)
    middle, worst = rest[:cut], rest[cut:][::-1]
    drawn = np.random.default_rng(seed).permutation(len(middle))[:num_shown]
    random = [middle[position] for position in sorted(drawn, key=lambda position: middle[position].index)]
    kinds = {"best": best, "worst": worst, "random": random}
    return [(kind, record) for kind, chosen in kinds.items() for record in chosen]


def draw_sheet(shown: Sequence[tuple[str, AnswerRecord]], episodes: EpisodeDataset) -> ImageArray:
    """Return a row for each answer, with truth and answer, below what was written; [H, W, 3] uint8."""
    rows = [render_row(episodes, record.index, [("answer", record.answer.box, ANSWER_COLOUR)]) for _, record in shown]
    return stack_rows(rows, [_title(kind, record) for kind, record in shown])


def write_sheet(results: ResultsFolder, cell: Cell, episodes: EpisodeDataset) -> None:
    """Draw what a cell has answered, if anything."""
    if records := results.read(cell):
        write_picture(results.sheet(cell), draw_sheet(choose_shown(records), episodes))


def _title(kind: str, record: AnswerRecord) -> str:
    said = f"failed: {record.error}" if record.error is not None else repr(record.text)
    said = said if len(said) <= _MAX_TITLE_TEXT else said[: _MAX_TITLE_TEXT - 3] + "..."
    return f"{kind}: episode {record.index}, score {record.answer.credit:.2f}, {said}"
