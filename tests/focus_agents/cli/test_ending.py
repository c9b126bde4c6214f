"""A command that has said its last word: nothing more is said, whatever signals come, and its process ends soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from focus_agents.cli import ending
from focus_agents.cli.ray_compat import forget_shutdown
from tests.places import ROOT


class TestASignalThatPythonDrops:
    """It comes while a finalizer runs, where an error goes nowhere."""

    class Finalized:
        def __init__(self, number: signal.Signals, error: BaseException | None) -> None:
            self.number, self.error = number, error

        def __del__(self) -> None:
            if self.error is not None:
                raise self.error
            os.kill(os.getpid(), self.number)
            time.sleep(0.01)

    @pytest.mark.parametrize(
        ("number", "error", "kind"),
        [
            (signal.SIGINT, None, KeyboardInterrupt),
            (signal.SIGTERM, None, ending.Terminated),
            (signal.SIGTERM, SystemExit(signal.SIGTERM), ending.Terminated),  # as Ray's own handler does
        ],
    )
    def test_ends_the_work_all_the_same(
        self,
        number: signal.Signals,
        error: BaseException | None,
        kind: type[BaseException],
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        hook, deadline = sys.unraisablehook, time.monotonic() + 20

        def work() -> None:
            with ending.termination_as_exception():
                self.Finalized(number, error)
                while time.monotonic() < deadline:
                    time.sleep(0.01)

        with pytest.raises(kind) as raised:
            work()
        assert raised.type is kind
        assert time.monotonic() < deadline
        assert capfd.readouterr().err == ""
        assert sys.unraisablehook is hook

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_other_errors_are_shown_as_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shown = list[BaseException | None]()
        monkeypatch.setattr(sys, "unraisablehook", lambda dropped: shown.append(dropped.exc_value))
        error = ValueError("of a finalizer")
        with ending.termination_as_exception():
            self.Finalized(signal.SIGTERM, error)
        assert shown == [error]


AT_EXIT = """
import atexit, os, signal, sys, threading, time
def library():
    print("ending", flush=True)
    time.sleep(60)
atexit.register(library)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_ends_shows_no_traceback(number: signal.Signals) -> None:
    """Of libraries that tidy up, as Ray does."""
    code = f"{AT_EXIT}\nfrom focus_agents.cli.ending import end_quietly\nend_quietly()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ending\n"
    started = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, "")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("ends", "code", "error"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(2)", 2, ""),
        ("raise SystemExit('no such thing')", 1, "no such thing\n"),
        ("sys.exit()", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_a_program_ends_with_its_code_and_all_that_was_printed(ends: str, code: int, error: str) -> None:
    """And does what is registered for its end, but does not wait for Python to take apart each module."""
    program = (
        "import atexit, sys\n"
        "class Slow:\n"
        "    def __del__(self):\n"
        "        sys.stdout.write('taken apart')\n"
        "slow = Slow()\n"
        "atexit.register(lambda: print('registered'))\n"
        "from focus_agents.cli.ending import run_to_the_end\n"
        "def command():\n"
        "    print('done')\n"
        f"    {ends}\n"
        "run_to_the_end(command)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (code, "done\nregistered\n")
    assert result.stderr.endswith(error)
    assert ("Traceback" in result.stderr) == (ends == "1 / 0")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/usr/bin/focus", True),
        ("/x/focus_agents/__main__.py", True),
        ("/x/pytest/__main__.py", False),
        ("/x/experiments/run_sft.py", False),
        (None, False),
    ],
)
def test_only_the_program_itself_ends_at_once(
    file: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=file))  # type: ignore[arg-type]
    assert ending.is_program() is expected


@pytest.mark.parametrize("is_connected", [True, False])
def test_ray_is_shut_down_at_the_end_if_it_runs(is_connected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[object] = []
    monkeypatch.setattr("focus_agents.cli.ray_compat.atexit.unregister", forgotten.append)
    worker = ModuleType("worker")
    forget_shutdown(worker)  # half imported
    worker.shutdown = print  # type: ignore[attr-defined]
    worker.global_worker = SimpleNamespace(connected=is_connected)  # type: ignore[attr-defined]
    forget_shutdown(worker)
    assert forgotten == ([] if is_connected else [print])


def test_ray_that_was_only_imported_is_not_shut_down_at_the_end() -> None:
    """For which it would import a part of itself, after the last word."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print([name for name in sys.modules if name.startswith('ray.dag')]))\n"
        "import ray\n"
        "from focus_agents.cli.ending import end_quietly\n"
        "end_quietly()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


@pytest.mark.parametrize("words", [["--help"], ["plot", "--help"], ["plot", "-h"]])
def test_a_help_that_is_cut_says_nothing_of_it(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "focus_agents", *words], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/ptmx").exists(), reason="the system has no terminals")
def test_a_terminal_shows_at_once_that_a_command_has_begun(tmp_path: Path) -> None:
    """Before anything large is imported; and the first line takes its place."""
    master, slave = os.openpty()
    (tmp_path / "tyro.py").write_text("import sys\nprint('a line')\nsys.exit(0)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "focus_agents", "plot", "runs/a"], stdout=slave, stderr=slave, cwd=ROOT, env=environment
    )
    os.close(slave)
    shown = b""
    while b"a line" not in shown:
        shown += os.read(master, 1000)
    assert process.wait(30) == 0
    os.close(master)
    assert shown.startswith(b"\rfocus plot ...\r\x1b[Ka line")
