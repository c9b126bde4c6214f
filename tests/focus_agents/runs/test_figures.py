"""Figures whose interval is smaller than their digits get more of them."""

import io
from pathlib import Path

import pytest

from focus_agents.cli.terminal import print_outcome
from focus_agents.reports.tables import figure
from focus_agents.runs.figures import in_digits
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.terminal import PlainConsole


@pytest.mark.parametrize(
    ("mean", "interval", "digits", "is_signed", "shown"),
    [
        (50.04, (40.0, 60.0), 1, False, ("50.0", "40.0", "60.0")),
        (0.0, (0.0, 0.0), 1, False, ("0.0", "0.0", "0.0")),  # all the same: there is no more to say
        (0.02, (0.01, 0.03), 1, False, ("0.02", "0.01", "0.03")),
        (0.0002, (0.0, 0.0004), 1, False, ("0.0002", "0.0000", "0.0004")),
        (1e-9, (0.0, 2e-9), 1, False, ("0.0", "0.0", "0.0")),
        (20.0, (20.0, 20.0 + 4e-15), 1, True, ("+20.0", "+20.0", "+20.0")),
        (-0.0001, (-0.0002, 0.0001), 3, True, ("-0.0001", "-0.0002", "+0.0001")),
        (0.06, (-0.003, 0.178), 3, True, ("+0.060", "-0.003", "+0.178")),
    ],
)
def test_digits(
    mean: float, interval: tuple[float, float], digits: int, is_signed: bool, shown: tuple[str, str, str]
) -> None:
    assert in_digits(mean, interval, digits=digits, is_signed=is_signed) == shown


def test_a_cell_of_a_table() -> None:
    assert figure({"mean": 0.0002, "interval": [0.0001, 0.0004]}) == "0.02 [0.01, 0.04]"
    assert figure({"mean": 0.5, "interval": [0.4, 0.6]}, signed=True) == "+50.0 [+40.0, +60.0]"
    assert figure(None) == ""


def test_the_outcome_of_a_run(tmp_path: Path) -> None:
    console = PlainConsole(file=io.StringIO(), width=80)
    summary = {
        "miou_start": 0.5,
        "miou_end": 0.5001,
        "miou_gain": 0.0001,
        "miou_gain_interval": [-0.0001, 0.0003],
        "checkpoint": "final",
        "sheet": "validation.png",
    }
    print_outcome(RunDirectory.create(tmp_path / "run", {}), summary, console)
    assert "(gain +0.0001, 95% interval -0.0001 to +0.0003)" in console.file.getvalue()
