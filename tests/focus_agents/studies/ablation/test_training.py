"""A study that is stopped ends soon, and its trainings end as if they had been stopped themselves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STUDY = """
import signal
from focus_agents.cli.ending import termination_as_exception
from focus_agents.studies.ablation.training import run_arms
from tests.focus_agents.studies.ablation.stopping import Endless, ignore
from pathlib import Path
import sys
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with termination_as_exception():
        run_arms(Endless(Path(sys.argv[1])), ignore)
"""


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_study_ends_its_trainings_with_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "study.py"
    program.write_text(STUDY)
    folder = tmp_path / "runs"
    study = subprocess.Popen([sys.executable, str(program), str(folder)], cwd=Path.cwd(), stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while len(list(folder.glob("*/started"))) < 2:
        assert study.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    study.send_signal(number)  # to it alone, as a scheduler does
    assert study.wait(60) != 0
    started = {path.parent.name for path in folder.glob("*/started")}
    assert started == {"first", "second"}  # the third has not begun
    assert {path.parent.name for path in folder.glob("*/ended")} == started
    assert {(folder / name / "checkpoint").read_text() for name in started} == {str(int(signal.SIGTERM))}
