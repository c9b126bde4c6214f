"""The scores on a model's card."""

from __future__ import annotations

from focus_agents.reports.model_card import CardFacts, write_card
from focus_env.types import ParseStatus
from tests.answers import scored


def test_a_card_shows_absence_where_a_target_is_absent() -> None:
    called = scored(0.0, status=ParseStatus.ABSENT, target_box=None)
    missed = scored(0.0, target_box=None)
    card = write_card(CardFacts(name="x", answers={"before": [scored(0.5), missed], "after": [scored(0.5), called]}))
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith(("| | episodes", "| before", "| after"))]
    heading, before, after = rows
    figures = {
        title.rstrip(" |"): (one.partition(" ")[0], other.partition(" ")[0])
        for title, one, other in zip(heading, before, after, strict=True)
    }
    assert figures["mean IoU * 100 of present targets"] == ("50.0", "50.0")
    assert figures["absent targets called absent, %"] == ("0.0", "100.0")
    assert figures["joint F1 at IoU 0.5 * 100"] == ("66.7", "100.0")
    assert "An absent target counts 1 if it is called absent, else 0." in card
    plain = write_card(CardFacts(name="x", answers={"after": [scored(0.5)]}))
    assert "absent" not in plain.split("## Scores")[1].split("##")[0].lower()
    run = {"dataset": "synthetic", "scenes": "mixed", "absent_fraction": 0.2}
    assert "scenes mixed, absent_fraction 0.2" in write_card(CardFacts(name="x", run=run))
