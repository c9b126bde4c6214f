"""Torch's compiler makes no folder unless something is compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from focus_agents.processes.compiler_cache import VARIABLE, keep_compiled, make_no_cache

ASK = "import torch._inductor.runtime.cache_dir_utils as cache; print(cache.cache_dir())"
"""As transformers does when it is imported, only faster."""


@pytest.mark.parametrize(
    ("start", "left"),
    [("", ["torchinductor"]), ("make_no_cache();", []), ("make_no_cache(); keep_compiled();", ["torchinductor"])],
)
def test_the_folder_is_made_for_what_is_compiled_alone(start: str, left: list[str], tmp_path: Path) -> None:
    code = f"from focus_agents.processes.compiler_cache import keep_compiled, make_no_cache; {start} {ASK}"
    surroundings = {name: value for name, value in os.environ.items() if name != VARIABLE}
    surroundings |= {"TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], env=surroundings, check=True, capture_output=True)
    assert [path.name.partition("_")[0] for path in tmp_path.iterdir()] == left


def test_a_folder_of_ones_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mine")
    make_no_cache()
    assert os.environ[VARIABLE] == "mine"
    keep_compiled()
    assert os.environ[VARIABLE] == "mine"


def test_it_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    make_no_cache()
    assert os.environ[VARIABLE] == tempfile.gettempdir()
    keep_compiled()
    assert VARIABLE not in os.environ
