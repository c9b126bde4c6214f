"""How a command leaves Ray: with a word that it takes its time, and at once if a signal comes."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import ray

from focus_agents.cli import cluster
from focus_agents.runs.terminal import PlainConsole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_is_left_ends_at_once(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray that is half shut down would be shut down again when Python ends, with a traceback at the next signal."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit, match=str(128 + number)):
        cluster.leave_ray("go on by --resume")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert capsys.readouterr().err == f"stopped by {number.name}; go on by --resume\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_word_adds_none(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: os.kill(os.getpid(), number))

    def stop() -> None:
        try:
            raise SystemExit(130)  # as after "stopped by SIGINT; go on by --resume"
        finally:
            cluster.leave_ray("all is saved", console=PlainConsole(width=80))

    with pytest.raises(SystemExit, match="130"):
        stop()
    assert codes == [128 + number]
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("ending Ray ...\n", "")


def test_ray_that_does_not_run_is_not_shut_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For which it would import a part of itself."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it does not run"))
    cluster.leave_ray(console=PlainConsole(width=80))
    assert capsys.readouterr().out == ""
