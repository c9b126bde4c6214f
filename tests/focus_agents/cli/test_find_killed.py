"""`focus find` killed by SIGKILL at some picture, and repeated: the same bytes, and no answer is asked for twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.focus_agents.cli.commands import wait_for
from tests.places import ROOT

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
NUM_PICTURES = 12
POLICY = '''
"""Answers each picture by what it looks like, and notes that it was asked; the file `hold` keeps it from going on."""
import pathlib, time
import numpy as np
from focus_env.types import Box

def locate(observation, rng):
    value = int(observation["query_image"][0, 0, 0])
    with open("asked.txt", "a") as file:
        file.write(f"{value}\\n")
    while pathlib.Path("hold").exists() and len(pathlib.Path("asked.txt").read_text().split()) > 7:
        time.sleep(0.02)
    return Box(1, 1, 2 + value / 10, 30)
'''


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with pictures, a support and a policy of one's own."""
    (tmp_path / "own_policy.py").write_text(POLICY)
    (tmp_path / "photos").mkdir()
    for index in range(NUM_PICTURES):
        Image.fromarray(np.full((32, 40, 3), 10 * index, np.uint8)).save(tmp_path / f"photos/{index:02}.png")
    Image.fromarray(np.full((32, 40, 3), 250, np.uint8)).save(tmp_path / "a.png")
    return tmp_path


def command(out: str) -> list[str]:
    words = f"find --support a.png:1,2,30,20 --in photos --policy own_policy:locate --batch-size 2 --out {out}"
    return [sys.executable, "-m", "focus_agents", *words.split()]


def asked(place: Path) -> list[str]:
    return (place / "asked.txt").read_text().split()


def test_the_same_command_goes_on_to_the_same_bytes(place: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command("whole.json"), cwd=place, env=environment, check=True, capture_output=True)
    assert len(asked(place)) == NUM_PICTURES
    (place / "asked.txt").unlink()

    (place / "hold").touch()
    process = subprocess.Popen(command("found.json"), cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: (place / "asked.txt").exists() and len(asked(place)) == 8, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (place / "found.json").exists()
    kept = (place / "found.json.unfinished/answers.jsonl").read_text()
    assert kept.count("\n") == 6  # three batches; the fourth was under way

    (place / "hold").unlink()
    (place / "asked.txt").unlink()
    again = subprocess.run(
        command("found.json"), cwd=place, env=environment, check=True, capture_output=True, text=True
    )
    assert len(asked(place)) == NUM_PICTURES - 6
    assert (place / "found.json").read_bytes() == (place / "whole.json").read_bytes()
    assert not (place / "found.json.unfinished").exists()
    assert f"{NUM_PICTURES} pictures" in again.stdout
