"""Scores of `find` as probabilities, by the file that an evaluation has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import RunInterrupted
from focus_agents.finding import find
from focus_agents.finding.calibrating import read_calibration
from focus_agents.finding.unfinished import folder_of
from focus_env.calibration import Calibration
from focus_env.errors import DatasetError
from tests.focus_agents.finding.scenes import bright, square, write

OF_BRIGHT = "focus_agents.policies.localizers.LocalizerPolicy"
SQUARED = Calibration(2.0, 0.0)


def file_of(path: Path, **about: Any) -> Path:
    path.write_text(json.dumps({"policy": OF_BRIGHT, "weights": None, **SQUARED.to_json(), **about}))
    return path


def test_boxes_have_probabilities_and_what_is_not_there_keeps_its_score(tmp_path: Path) -> None:
    support = [(write(tmp_path / "support.png", (30, 30)), square((30, 30)))]
    for name, corner in {"1.png": (60, 20), "2.png": None, "3.png": (20, 40)}.items():
        write(tmp_path / "photos" / name, corner)
    calibration = file_of(tmp_path / "calibration.json")
    found = find({"mug": support}, tmp_path / "photos", policy=bright(), calibration=calibration, min_score=0.2)
    scores = [one.answers[0].score for one in found.looked]
    assert scores == [pytest.approx(SQUARED.share(0.75)), 0.25, pytest.approx(SQUARED.share(0.25))]
    assert found.counts("mug") == {"found": 1, "not there": 1, "below the least score": 1}


def test_a_search_goes_on_with_the_same_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support = [(write(tmp_path / "support.png", (30, 30)), square((30, 30)))]
    write(tmp_path / "photos/1.png", (60, 20))

    def stop(*given: Any, **options: Any) -> None:
        raise RunInterrupted("stopped", signal_number=2)

    options: dict[str, Any] = {"policy": bright(), "out": tmp_path / "x.json"}
    with monkeypatch.context() as patch:
        patch.setattr("focus_agents.finding.search.Findings.write", stop)
        with pytest.raises(RunInterrupted):
            find({"mug": support}, tmp_path / "photos", **options)
    assert folder_of(tmp_path / "x.json").exists()
    with pytest.raises(ValueError, match="calibration"):
        find({"mug": support}, tmp_path / "photos", **options, calibration=file_of(tmp_path / "c.json"))


@pytest.mark.parametrize(
    ("about", "identity", "is_its"),
    [
        ({"policy": "a", "weights": "12"}, {"policy": "another name", "weights": "12"}, True),
        ({"policy": "a", "weights": "12"}, {"policy": "a", "weights": "34"}, False),
        ({"policy": "a"}, {"policy": "a", "weights": None}, True),
        ({"policy": "a"}, {"policy": "b"}, False),
    ],
)
def test_whose_it_is(about: Any, identity: Any, is_its: bool, tmp_path: Path) -> None:
    file = file_of(tmp_path / "c.json", **about)
    if is_its:
        assert read_calibration(file, identity) == SQUARED
        return
    with pytest.raises(ValueError, match=r"calibration .*c\.json: expected that of .*, got that of policy 'a'"):
        read_calibration(file, identity)


@pytest.mark.parametrize("text", ["[]", "{}", '{"slope": -1, "intercept": 0}', '{"slope": NaN, "intercept": 0}'])
def test_what_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"calibration .*c\.json: expected a slope of 0 or more and an intercept"):
        read_calibration(tmp_path / "c.json", {"policy": "a"})


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="evaluate the policy on validation data"):
        read_calibration(tmp_path / "no.json", {})
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(DatasetError, match="expected JSON"):
        read_calibration(tmp_path / "c.json", {})
