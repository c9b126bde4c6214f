"""Validations through time: the answers of each are kept, and those that say most are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from focus_agents.errors import CheckpointError
from focus_agents.monitoring.recorder import Recorder
from focus_agents.runs.answers import read_answers
from focus_agents.runs.folder import AFTER_COLOUR, BEFORE_COLOUR, RunDirectory
from focus_agents.runs.validations import keep_validation, list_validations, validation_picture
from focus_env.metrics import ScoredAnswer
from focus_env.rendering import TARGET_COLOUR, render_row, stack_rows, write_picture
from focus_env.types import EpisodeDataset, ImageArray

NUM_FIXED = NUM_WORST = 4
PICTURE = "validation"


def choose_places(
    before: Sequence[ScoredAnswer], now: Sequence[ScoredAnswer], *, num_fixed: int = NUM_FIXED, num_worst: int
) -> list[tuple[str, int]]:
    """Choose validation episodes to look at.

    Args:
        before: Answers before training.
        now: Answers to the same episodes, or to the first of them.
        num_fixed: So many from the front, the same at each validation.
        num_worst: So many of the others: those that have lost most, then those answered worst.

    Returns:
        "fixed" or "worst", and the place in `now`.
    """
    fixed = range(min(num_fixed, len(now), len(before)))
    rest = range(len(fixed), min(len(now), len(before)))
    ranked = sorted(rest, key=lambda place: (now[place].credit - before[place].credit, now[place].credit, place))
    return [("fixed", place) for place in fixed] + [("worst", place) for place in ranked[:num_worst]]


def draw_validation(
    episodes: EpisodeDataset, indices: Sequence[int], before: Sequence[ScoredAnswer], now: Sequence[ScoredAnswer]
) -> ImageArray:
    """Draw fixed episodes and the worst ones with the answers before training and those of now.

    Args:
        episodes: The validation data.
        indices: Which of its episodes were answered.
        before: In the order of `indices`.
        now: Likewise, or answers to the first of them.

    Returns:
        [H, W, 3] uint8.
    """
    rows, titles = [], []
    for kind, place in choose_places(before, now, num_worst=NUM_WORST):
        old, new = before[place], now[place]
        answers = [("before", old.box, BEFORE_COLOUR), ("now", new.box, AFTER_COLOUR)]
        rows.append(render_row(episodes, indices[place], answers if old is not new else answers[:1]))
        titles.append(f"{kind}: episode {indices[place]}, score {old.credit:.2f} -> {new.credit:.2f}, {new.status}")
    if not rows:
        return np.full((24, 160, 3), 255, dtype=np.uint8)
    legend = [("target", TARGET_COLOUR), ("before", BEFORE_COLOUR), ("now", AFTER_COLOUR)]
    return stack_rows(rows, titles, legend=legend)


class ValidationAlbum:
    """Keeps the answers of each validation of a run, and draws them into its folder and onto every sink.

    Args:
        run: The run's folder.
        recorder: Shows pictures, and says what cannot be written.
        episodes: The validation data.
        indices: Which of its episodes are answered.
        counter: "iteration" or "step".
    """

    def __init__(
        self,
        run: RunDirectory,
        recorder: Recorder,
        episodes: EpisodeDataset,
        indices: Sequence[int],
        *,
        counter: str,
    ) -> None:
        self._run, self._recorder, self._counter = run, recorder, counter
        self._episodes, self._indices = episodes, indices
        self._drawn: set[tuple[int, int]] = set()

    def add(self, position: int, answers: Sequence[ScoredAnswer]) -> None:
        """Keep answers and draw them; those before training (position 0) are kept by whoever resumes from them."""
        if position > 0:
            self._recorder.attempt(
                "validation answers", lambda: keep_validation(self._run.path, self._counter, position, answers)
            )
        self.draw(position, answers)

    def draw(self, position: int, answers: Sequence[ScoredAnswer]) -> None:
        """Draw answers, perhaps only to the first of the episodes."""
        self._recorder.attempt("pictures", lambda: self._draw(position, answers))

    def draw_new(self) -> None:
        """Draw what another process has kept since the last call."""
        kept = list_validations(self._run.path)
        if (self._run.path / "validation" / "before.jsonl").exists():
            kept = {0: self._run.path / "validation" / "before.jsonl", **kept}
        for position, file in kept.items():
            version = (position, file.stat().st_mtime_ns)
            if version not in self._drawn:
                self._drawn.add(version)
                self.draw(position, read_answers(file))

    def _draw(self, position: int, answers: Sequence[ScoredAnswer]) -> None:
        try:
            before = answers if position == 0 else self._run.read_answers("before")
        except CheckpointError:  # a run of a caller's own that keeps none
            before = answers
        picture = draw_validation(self._episodes, self._indices, before, answers)
        self._recorder.show(PICTURE, picture, position)
        write_picture(validation_picture(self._run.path, position), picture)
