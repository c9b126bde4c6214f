"""The program `focus`: what it lists, which command it starts, and what it says without one."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import focus_env
from focus_agents.cli import main as program
from focus_agents.cli.main import COMMANDS, Command
from tests.places import ROOT

SLOW = ("torch", "transformers", "ray", "matplotlib", "scipy", "peft")
HEAVY = ("torch", "transformers", "ray", "tyro", "rich", "numpy", "gymnasium", "focus_env")


def focus(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `focus WORDS` in this process."""
    monkeypatch.setattr(sys, "argv", ["focus", *words])
    try:
        program.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_lists_each_command_on_a_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert focus(monkeypatch, *words) == 0
    listed = re.findall(r"^  ([a-z]+)  +(\S.*)$", capsys.readouterr().out, re.MULTILINE)
    assert listed == [(command.name, command.help) for command in COMMANDS.values()]


def test_help_imports_nothing_heavy() -> None:
    """So it answers at once, and does so with the base dependencies alone."""
    code = (
        "import sys; sys.argv = ['focus', '--help']\n"
        "from focus_agents.cli.main import main; main()\n"
        f"print('loaded', [name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert result.stdout.startswith("usage: focus ")
    assert result.stdout.endswith("loaded []\n")


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert focus(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"focus {focus_env.__version__}\n"


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("", "no command ''; there are demo, "),
        ("nonsense", "no command 'nonsense'; there are demo, find, app, evaluate, sft, grpo, "),
        ("gpro", "no command 'gpro', did you mean 'grpo'? There are demo, find, app, evaluate, sft, grpo, "),
        ("evaluat", "no command 'evaluat', did you mean 'evaluate'? There are "),
        ("--seed", "no command '--seed'; there are "),
        ("GRPO", "no command 'GRPO'; there are "),
    ],
)
def test_a_command_that_does_not_exist(
    word: str, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert focus(monkeypatch, word, "--help") == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: focus has {answer}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_the_table_has_every_command_and_no_other() -> None:
    """By its file in the package, and by its script in experiments/."""
    files = {path.stem for path in (ROOT / "focus_agents/cli").glob("*.py") if "\ndef main(" in path.read_text()} - {
        "main"
    }
    assert {command.module for command in COMMANDS.values()} == {f"focus_agents.cli.{name}" for name in files}
    assert {name: command.name for name, command in COMMANDS.items()} == {name: name for name in COMMANDS}
    scripts = [path.read_text() for path in (ROOT / "experiments").glob("*.py")]
    started = [found for text in scripts for found in re.findall(r'run_command\("(\w+)"\)', text)]
    assert sorted(started) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_commands_help_shows_how_to_run_it(command: Command) -> None:
    module = importlib.import_module(command.module)
    assert callable(module.main)
    assert f"    focus {command.name}" in (module.__doc__ or "")


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(lambda: runpy.run_module("focus_agents", run_name="__main__"), id="python -m focus_agents plot"),
        pytest.param(program.main, id="focus plot"),
    ],
)
def test_a_command_is_called_by_its_name(
    start: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its usage, and in what it says to a wrong flag."""
    monkeypatch.setattr(sys, "argv", ["focus", "plot", "--help"])
    with pytest.raises(SystemExit, match="0"):
        start()
    assert capsys.readouterr().out.startswith("usage: focus plot [-h]")
    monkeypatch.setattr(sys, "argv", ["focus", "plot", "--nonsense"])
    with pytest.raises(SystemExit, match="2"):
        start()
    assert "focus plot --help" in capsys.readouterr().err


def test_the_script_and_the_module_mean_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def help_of(start: Callable[[], object]) -> str:
        monkeypatch.setattr(sys, "argv", ["a name", "--help"])
        with pytest.raises(SystemExit, match="0"):
            start()
        usage, text = capsys.readouterr().out.split("\n", 1)
        assert usage.startswith("usage: ")
        return text

    monkeypatch.delitem(sys.modules, "focus_agents.cli.plot", raising=False)
    script = str(ROOT / "experiments/plot_runs.py")
    by_name = help_of(lambda: program.run_command("plot"))
    assert help_of(lambda: runpy.run_path(script, run_name="__main__")) == by_name
    monkeypatch.delitem(sys.modules, "focus_agents.cli.plot")
    module = "focus_agents.cli.plot"
    assert help_of(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)) == by_name


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "focus_agents.cli.plot", raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert focus(monkeypatch, "plot", "runs/a") == 1
    message = "error: focus plot needs the package tyro, which is not installed; run: pip install "
    assert capsys.readouterr().err == f"{message}'focus-localization[train]'\n"


def test_ctrl_c_ends_a_command_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a command has nothing of its own to say."""

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "focus_agents.cli.plot", SimpleNamespace(main=stop, Args=Command))
    assert focus(monkeypatch, "plot", "runs/a") == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"


def test_ctrl_c_while_a_command_is_imported_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(module: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program.importlib, "import_module", stop)
    assert focus(monkeypatch, "plot", "runs/a") == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"


def test_command_lines_are_read_without_torch_and_ray() -> None:
    """`--help`, a typo and a bad value are answered at once; all commands in one process of their own."""
    code = (
        "import contextlib, importlib, io, sys\n"
        f"for name in {sorted(COMMANDS)}:\n"
        "    module = importlib.import_module(f'focus_agents.cli.{name}')\n"
        "    for words in (['--help'], ['--nonsense'], ['--lr', 'nan']):\n"
        "        sys.argv = [f'focus {name}', *words]\n"
        "        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "            try:\n"
        "                module.main()\n"
        "            except SystemExit:\n"
        "                pass\n"
        f"    print(name, [heavy for heavy in {SLOW} if heavy in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert result.stdout.splitlines() == [f"{name} []" for name in sorted(COMMANDS)]


@pytest.mark.parametrize(
    "words", [["-m", "focus_agents"], ["experiments/plot_runs.py"], ["-m", "focus_agents.cli.plot"]]
)
def test_commands_wait_passively_however_they_are_started(words: list[str], tmp_path: Path) -> None:
    """Before any of their imports could load torch."""
    (tmp_path / "tyro.py").write_text(
        "import os, sys\nprint(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)\nsys.exit(0)\n"
    )
    left_out = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    command = ["plot"] if words[-1] == "focus_agents" else []
    result = subprocess.run(
        [sys.executable, *words, *command],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "PASSIVE False\n"


def test_a_missing_module_of_our_own_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "broken", Command("broken", "focus_agents.cli.broken", "is not there"))
    with pytest.raises(ModuleNotFoundError, match=r"focus_agents\.cli\.broken"):
        focus(monkeypatch, "broken")


def test_a_module_that_a_user_names_is_no_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the command's own imports are; the rest is the command's to report."""
    monkeypatch.chdir(tmp_path)
    assert focus(monkeypatch, "evaluate", "--policy", "no_such_module:Policy") == 2
    assert "importing 'no_such_module' raised ModuleNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("grpo --resume nothing", "run nothing: expected a run's folder with config.json"),
        ("sft --resume nothing", "run nothing: expected a run's folder with config.json"),
        ("grpo --output-dir file --name x", "file/x/config.json: expected a path that can be used"),
        ("sft --output-dir . --name file", "file/config.json: expected a path that can be used"),
        ("sft --output-dir . --name run", "run folder run holds a run already"),
        ("grpo --dataset got10k --data-root nothing", "--data-root: expected a path at which there is something"),
        ("sft --validation-root nothing --dataset store --data-root .", "--validation-root: expected a path at which"),
        ("evaluate --policy center --output-dir file", "file/config.json: expected a path that can be used"),
        ("evaluate --policy center --output-dir run", "run holds something else than an evaluation"),
        ("evaluate --policy vml", "policy 'vml': no such policy. Did you mean 'vlm'?"),
        ("evaluate --policy center center", "--policy: expected one or several different ones"),
        ("evaluate --policy center --level 9", "--level: level must be one of"),
    ],
)
def test_what_takes_no_library_to_see_is_said_before_one_is_imported(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("text")
    (tmp_path / "run/checkpoints/step_000001").mkdir(parents=True)
    Path("run/config.json").write_text("{}")
    monkeypatch.setattr("focus_agents.cli.cluster.RayArguments.import_ray", lambda self: pytest.fail("too early"))
    assert focus(monkeypatch, *line.split()) == 2
    error = capsys.readouterr().err
    assert message in error, error
    assert error.count("\n") == 1
