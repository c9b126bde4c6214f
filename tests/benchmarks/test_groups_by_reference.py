"""The benchmark of a group's way through the driver: bytes that do not grow with pictures, and bytes that do."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import groups_by_reference as benchmark


@pytest.mark.ray
def test_by_reference_the_driver_does_not_see_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--picture-tokens", "4", "40", "--groups", "2", "--learners", "1", "--repetitions", "1"]
    monkeypatch.setattr(sys, "argv", ["groups_by_reference.py", *sizes])
    benchmark.main()
    printed = capsys.readouterr().out.splitlines()
    lines = [json.loads(line) for line in printed if line.startswith("{")]
    assert [(line["picture_tokens"], line["way"]) for line in lines] == [
        (4, "reference"), (4, "whole"), (40, "reference"), (40, "whole"),
    ]  # fmt: skip
    small, small_whole, large, large_whole = lines
    pictures = 2 * 3584 * 5
    assert large["prompt_bytes"] - small["prompt_bytes"] >= 36 * pictures
    for name in ("in_bytes", "out_bytes"):
        assert large[name] == pytest.approx(small[name], abs=10)
        assert small[name] < 12_000 < 4 * pictures < small_whole[name]
        assert large_whole[name] - small_whole[name] >= 36 * pictures
    assert len([line for line in printed if line.startswith("| ")]) == 2 + len(lines)
