"""`focus doctor`: what it prints, writes and returns."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from focus_agents.cli import doctor
from tests.focus_agents.cli.commands import help_text, main_error

SHORT = ["--dataset", "synthetic", "--split", "test", "--level", "1", "--shots", "1", "--max-completion-tokens", "12"]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["focus doctor", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        doctor.main()
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def test_it_prints_sections_and_writes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["--model", "focus-small", *SHORT, "--out", str(tmp_path / "doc")], monkeypatch) == 0
    printed = capsys.readouterr().out
    for line in ("1. the model: ok", "3. the prompt: ok", "6. parity: ok", "verdict: ok: the model, the data and"):
        assert line in printed
    assert "<support 1: 16 image tokens>" in printed
    assert "norm_100 " in printed
    assert "\x1b" not in printed
    with Image.open(tmp_path / "doc/pictures.png") as sheet:
        assert sheet.height > 300
    page = (tmp_path / "doc/prompt.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "http" not in page
    assert "digits of a box 1: tokens" in page
    assert json.loads((tmp_path / "doc/report.json").read_text())["exit_status"] == 0


def test_json_is_all_that_a_fault_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "pictures.png"
    stale.write_bytes(b"of an earlier call")
    code = call(["--model", "runs/no/such", *SHORT, "--out", str(tmp_path), "--json"], monkeypatch)
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (code, report["exit_status"], report["verdict"]) == (1, 1, "fault")
    assert report["sentence"].startswith("fault in the model: model ")
    assert [section["verdict"] for section in report["sections"]] == ["fault", *["not done"] * 5]
    assert "Traceback" not in printed.err
    assert not stale.exists()
    assert report["files"] == {"report": str(tmp_path / "report.json")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--template", "no-such"], "unknown prompt template 'no-such'"),
        (["--template", "broken.yaml"], "template broken.yaml: expected a file"),
        (["--device", "cuda:x"], "device: expected auto, cpu"),
    ],
)
def test_json_says_what_ends_the_command(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(["--model", "tiny", *SHORT, *arguments, "--out", str(tmp_path), "--json"], monkeypatch) == 2
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["verdict"], report["exit_status"]) == ("fault", 2)
    assert message in report["sentence"]
    assert message in printed.err


def test_settings_are_named_as_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "tiny", *SHORT[:-1], "2", "--no-step", "--out", str(tmp_path)]
    assert call(arguments, monkeypatch) == 0
    assert "warning: the answer was cut at 2 tokens; raise --max-completion-tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "0"], "--shots"),
        (["--template", "no-such"], "template"),
        (["--device", "gpu"], "device: expected auto, cpu, cuda"),
        (["--frame", "inches"], "--frame"),
        (["--max-image-tokens", "1", "--model", "tiny"], "--max-image-tokens: expected at least 4, got 1"),
        (
            ["--min-pixels", "9000", "--max-pixels", "1000"],
            "--min-pixels: expected at most --max-pixels, 1000, got 9000",
        ),
        (["--level", "3", "--dataset", "lasot"], "--level"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in main_error("examine_model", arguments, capsys)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text("examine_model", capsys)
    for flag in ("--model", "--dataset", "--no-step", "--json", "--max-image-tokens", "--lora-rank"):
        assert flag in text
