"""Who answers on a server, and whether their scores are probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from focus_agents.cli.asked_policies import AskedPolicies
from focus_agents.cli.common import PolicyArguments
from focus_agents.finding.looking import Shown
from focus_agents.finding.wanted import wanted_of_texts
from focus_env.calibration import Calibration
from focus_env.images import read_picture
from tests.focus_agents.finding.scenes import square, write

SQUARED = Calibration(2.0, 0.0)


def asked(named: str | None, calibration: Path | None) -> AskedPolicies:
    return AskedPolicies(named, PolicyArguments(), calibration=calibration, say=lambda line: None)


def file_of(policy: str, path: Path) -> Path:
    path.write_text(json.dumps({"policy": policy, "weights": None, **SQUARED.to_json()}))
    return path


def test_scores_are_probabilities_by_a_calibration(tmp_path: Path) -> None:
    box = ",".join(f"{number:g}" for number in square((30, 30)))
    wanted = wanted_of_texts([f"{write(tmp_path / 'support.png', (30, 30))}:{box}"], name="mug")
    shown = Shown("query", read_picture(write(tmp_path / "query.png", (60, 20))))
    scores = []
    for calibration in (None, file_of("match", tmp_path / "c.json")):
        looker = asked("match", calibration).looker(wanted)
        (answer,) = looker.look([(0, shown)])[0].answers
        scores.append(answer.score)
    assert scores[0] is not None
    assert scores[1] == pytest.approx(SQUARED.share(scores[0]))
    assert scores[1] != scores[0]


@pytest.mark.parametrize(
    ("named", "message"), [(None, "calibration: expected `policy` with it"), ("center", "got that of policy 'match'")]
)
def test_a_calibration_is_of_the_policy_that_is_named(named: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        asked(named, file_of("match", tmp_path / "c.json"))
