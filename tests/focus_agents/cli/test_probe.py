"""`focus probe`: the table and the file that it makes, and wrong arguments."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from focus_agents.cli import probe
from tests.focus_agents.cli.commands import main_error


@pytest.mark.parametrize("model", ["focus-small-base", "tiny"])
def test_a_model_is_probed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose numbers are tokens, and one that writes digit by digit."""
    file = tmp_path / "new" / "probe.json"
    words = ["--model", model, "--num-probe-episodes", "20", "--output", str(file)]
    monkeypatch.setattr("sys.argv", ["focus probe", *words])
    probe.main()
    shown = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert (found["model"], found["target"], found["num_fit"], found["num_test"]) == (model, "ground colour", 15, 5)
    for number, share in enumerate(found["accuracy"]["last_number"]):
        name = f"layer {number}" if number else "embedding"
        assert re.search(rf"{name} +[\d.]+ +{share:.2f} ", shown)
    assert f"linear probe of {model}" in shown
    assert "fitted on 15 others. Commonest colour: 0." in shown
    assert str(file) in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-probe-episodes", "3"], "--num-probe-episodes: expected 15 or more, got 3"),
        (["--probe-image-size", "5000"], "--probe-image-size: expected 56 or more, and at most 4096, got 5000"),
        (["--probe-image-size", "8"], "--probe-image-size: expected 56 or more, got 8"),
        (["--model", "./nowhere"], "model './nowhere': there is no such folder; expected one of"),
        (["--device", "tpu"], "device: expected auto, cpu, cuda or cuda:1 and the like, got 'tpu'"),
        (["--template", "nonsense"], "nonsense"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in main_error("probe_model", arguments, capsys)
