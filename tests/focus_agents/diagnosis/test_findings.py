"""Verdicts of sections, and what they come to."""

from __future__ import annotations

import json

import pytest

from focus_agents.diagnosis.findings import Section, Verdict, conclusion, overall


def section(*kinds: str) -> Section:
    made = Section("unit", "the unit")
    for kind in kinds:
        getattr(made, kind)(f"a {kind}.")
    return made


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        ((), Verdict.SKIPPED),
        (("skip",), Verdict.SKIPPED),
        (("ok",), Verdict.OK),
        (("ok", "skip"), Verdict.OK),
        (("warn", "ok", "skip"), Verdict.WARNING),
        (("ok", "fault", "warn"), Verdict.FAULT),
    ],
)
def test_the_worst_note_is_the_section_s(kinds: tuple[str, ...], verdict: Verdict) -> None:
    assert section(*kinds).verdict is verdict


def test_conclusions_name_the_first_and_list_the_others() -> None:
    assert conclusion([section("ok"), section("skip")]) == "the model, the data and the prompt fit together."
    assert conclusion([section("warn"), section("fault")]) == "fault in the unit: a fault."
    assert "(see also: the unit): a warn." in conclusion([section("warn"), section("warn")])
    assert ": a warn; a warn." in conclusion([section("warn", "warn")])
    assert overall([section("skip"), section("ok")]) is Verdict.OK
    assert overall([section("skip"), section("warn")]) is Verdict.WARNING


def test_numbers_that_are_not_finite_go_into_json() -> None:
    made = section("fault")
    made.facts = {"norm": float("nan"), "parts": [1.5, float("inf")], "by": {1: (2, None)}}
    facts = json.loads(json.dumps(made.as_dict(), allow_nan=False))["facts"]
    assert facts == {"norm": "nan", "parts": [1.5, "inf"], "by": {"1": [2, None]}}
