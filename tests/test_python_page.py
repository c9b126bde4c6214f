"""docs/python.md: its examples run, each behind the configuration that they share, and print what is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import focus_agents
from tests.places import ROOT

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHARED = BLOCKS[0][1]
NAMES = ("train", "tune", "evaluation", "stage 1")
EXAMPLES = [
    pytest.param(code, shown, id=name)
    for (_, code), (_, shown), name in zip(
        BLOCKS[1::2], BLOCKS[2::2], ["train", "tune", "evaluation", "stage 1"], strict=True
    )
]


def with_any_figures(text: str) -> re.Pattern[str]:
    """What matches a text with other decimal fractions; whole numbers and settings in front of a colon stay."""
    return re.compile(re.sub(r"\d\\\.\d\d\b", r"\\d\\.\\d\\d", re.escape(text)))


def test_figures_alone_may_differ() -> None:
    pattern = with_any_figures("iteration 1: reward 1.31\nlr 0.0001: -0.50\n")
    assert pattern.fullmatch("iteration 1: reward 0.99\nlr 0.0001: -0.51\n")
    assert not pattern.fullmatch("iteration 2: reward 0.99\nlr 0.0001: -0.51\n")
    assert not pattern.fullmatch("iteration 1: reward nan\nlr 0.0001: -0.51\n")
    assert not pattern.fullmatch("iteration 1: reward 0.99\nlr 0.001: -0.51\n")


def test_blocks_are_code_and_what_it_prints() -> None:
    assert [kind for kind, _ in BLOCKS] == ["python", *["python", "text"] * 4]


def test_every_public_name_is_explained() -> None:
    rows = re.findall(r"^\| (`.*`) \| \w.* \|$", PAGE, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(focus_agents.__all__)


@pytest.mark.ray
@pytest.mark.parametrize(("code", "shown"), EXAMPLES)
def test_an_example_prints_what_the_page_shows(code: str, shown: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"{SHARED}\n{code}"],
        cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # Tune prints a box of its own in front.
    printed = result.stdout[-len(shown) :]
    assert with_any_figures(shown).fullmatch(printed), result.stdout
