"""The benchmark of `focus find`: a line for each folder, and memory that is the search's own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import find_pictures as benchmark
from tests.places import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_a_line_for_each_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "argv", ["find_pictures.py", "--num-pictures", "2", "5", "--policies", "center"])
    benchmark.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(line["policy"], line["pictures"]) for line in lines] == [("center", 2), ("center", 5)]
    assert lines[0]["growth"] == 1
    for line in lines:
        assert line["pictures_per_s"] > 0
        assert 30 < line["memory_mb"] < 400, "the process, and not that of the tests, which holds torch"


def test_a_search_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    support = benchmark.write_pictures(tmp_path, 1)
    with pytest.raises(SystemExit, match="no_such_policy"):
        benchmark.search(tmp_path, support, "no_such_policy", 1)


def test_memory_is_that_of_a_process() -> None:
    held = bytearray(os.urandom(1)) * 50_000_000
    assert benchmark.most_bytes(os.getpid()) > len(held)
    assert benchmark.most_bytes(2**22 + 1) == 0
