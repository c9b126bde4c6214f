"""What commands print of errors."""

from __future__ import annotations

import ast
import errno
import io
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tyro
from ray.exceptions import RayTaskError
from rich.console import Console

from focus_agents.cli import grpo
from focus_agents.cli.errors import as_flags, in_a_thread, make_console, user_errors, warnings_in_words, work_errors
from focus_agents.errors import RunInterrupted, TrainingError
from focus_agents.reports.tables import text_table
from focus_env.errors import FocusError, RewardError, StorageError
from focus_env.files import named_errors
from tests.places import ROOT


@dataclass(frozen=True)
class Loss:
    """A box of settings."""

    lr: float = 0.1
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Arguments:
    """A command's arguments, with a box."""

    output_dir: Path = Path("runs")
    data_root: Path | None = None
    resume: Path | None = None
    recipe: tyro.conf.Positional[str] = ""
    loss: Loss = field(default_factory=Loss)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("", ""),
        ("lower `lr`", "lower --lr"),
        ("`lr`, or set `gradient_checkpointing`", "--lr, or set --gradient-checkpointing"),
        ("go on by `resume` /runs/`resume`", "go on by --resume /runs/--resume"),
        ("`loss` is a box, `load_model` a function", "--loss is a box, `load_model` a function"),
        ("lr: expected more than 0, got -1", "lr: expected more than 0, got -1"),
        ("error: lr: expected more than 0, got -1", "error: --lr: expected more than 0, got -1"),
        ("error: lower: lr: no", "error: lower: lr: no"),
        ("error: lr must be more than 0", "error: --lr: lr must be more than 0"),
        ("pass as `root` a folder, or `output_dir`", "pass as --data-root a folder, or --output-dir"),
        ("error: root: no; `load_model`", "error: root: no; `load_model`"),
        ("error: it must be more than 0", "error: it must be more than 0"),
        ("error: recipe: expected a file; see `recipe`", "error: recipe: expected a file; see recipe"),
        ("`lr`` and `output_dir=runs` and ``output_dir``", "--lr` and `output_dir=runs` and `--output-dir`"),
    ],
)
def test_settings_become_flags(message: str, shown: str) -> None:
    """Those of the command, and no other word in backticks."""
    assert as_flags(message, Arguments) == shown


@pytest.mark.parametrize("error", [ValueError, OSError, FocusError, RewardError])
def test_a_wrong_argument_ends_a_command(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"), user_errors(Arguments):
        raise error("choose another `output_dir`")
    assert capsys.readouterr().err == "error: choose another --output-dir\n"


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (TrainingError("lower `lr`"), "1", "error: lower --lr\n"),
        (RunInterrupted("go on by `resume` runs/a", signal_number=signal.SIGTERM), "143", "go on by --resume runs/a\n"),
    ],
)
def test_an_expected_error_ends_the_work(error: FocusError, code: str, shown: str) -> None:
    console = Console(file=io.StringIO(), width=10)
    with pytest.raises(SystemExit, match=f"^{code}$"), work_errors(Arguments, console, TrainingError):
        raise error
    assert console.file.getvalue() == shown


def storage_error(path: Path) -> StorageError:
    with pytest.raises(StorageError) as caught, named_errors(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    return caught.value


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (lambda path: storage_error(path), "error: {path} could not be written ([Errno 28] No space left on device); "),
        (lambda path: OSError(5, "Input/output error"), "error: OSError: [Errno 5] Input/output error; mend the cause"),
        (lambda path: ConnectionResetError("gone"), "error: ConnectionResetError: gone; mend the cause"),
        (lambda path: RayTaskError("f", "Traceback\n", OSError("full")).as_instanceof_cause(), "error: OSError: full;"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_ends_the_work_in_a_line(error: Any, start: str, tmp_path: Path) -> None:
    """With what is kept and how to go on."""
    console, advice = Console(file=io.StringIO(), width=10), "go on by `resume` runs/a"
    with pytest.raises(SystemExit, match=r"^1$"), work_errors(Arguments, console, TrainingError, advice=lambda: advice):
        raise error(tmp_path / "a")
    shown = console.file.getvalue()
    assert shown.startswith(start.format(path=tmp_path / "a"))
    assert shown.endswith("; go on by --resume runs/a\n")
    assert shown.count("\n") == 1


@pytest.fixture
def sigint() -> Iterator[None]:
    """SIGINT as Python has it, also where the tests run in the background of a shell, which ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_with_a_sentence(number: signal.Signals) -> None:
    """And with the exit code that a shell shows for it."""
    console = Console(file=io.StringIO(), width=10)
    before = signal.getsignal(signal.SIGTERM)
    stopped = work_errors(Arguments, console, TrainingError, advice=lambda: "go on by `resume` runs/a")
    with pytest.raises(SystemExit, match=f"^{128 + number}$"), stopped:
        signal.raise_signal(number)
    assert console.file.getvalue() == f"stopped by {number.name}; go on by --resume runs/a\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_checks_with_a_sentence(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=f"^{128 + number}$"), user_errors(Arguments):
        signal.raise_signal(number)
    assert capsys.readouterr().err == f"stopped by {number.name}; nothing was started yet\n"


def test_work_in_a_thread_ends_as_it_does_elsewhere() -> None:
    def fail() -> None:
        raise TrainingError("no")

    assert in_a_thread(lambda: threading.current_thread() is threading.main_thread()) is False
    with pytest.raises(TrainingError, match="no"):
        in_a_thread(fail)


@pytest.mark.usefixtures("sigint")
def test_a_signal_ends_the_wait_for_a_thread() -> None:
    """Whatever the thread does, and whatever handlers a library would have set."""
    release = threading.Event()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        in_a_thread(release.wait)
    release.set()


@pytest.mark.parametrize("name", ["[/b]", "[red]x", "[bold]", ":smile:", "[link=x]y[/link]", "\\[x]"])
def test_names_are_printed_as_they_are(name: str) -> None:
    """No text passes for rich's markup, in a line, a table or its title."""
    console = make_console(width=200)
    console.file = io.StringIO()
    console.print(f"run folder: {name}")
    console.print(text_table([["policy", name], [name, "0.5 [0.4, 0.6]"]], name))
    assert console.file.getvalue().count(name) == 4


def test_commands_print_by_no_other_console() -> None:
    """So that a name is escaped in one place."""
    for file in (ROOT / "focus_agents/cli").glob("*.py"):
        assert file.name == "errors.py" or "Console(" not in file.read_text(), file


@pytest.mark.parametrize(
    ("file", "category", "shown"),
    [
        ("/x/focus_agents/grpo/learner.py", UserWarning, "warning: no gradient; see --lr\n"),
        ("/x/focus_env/env.py", FutureWarning, "warning: no gradient; see --lr\n"),
        (
            "/x/focus_agents/grpo/learner.py",
            DeprecationWarning,
            "/x/focus_agents/grpo/learner.py:7: DeprecationWarning: ",
        ),
        ("/x/torch/nn.py", UserWarning, "/x/torch/nn.py:7: UserWarning: no gradient; see `lr`"),
    ],
)
def test_a_warning_of_ours_is_a_sentence(file: str, category: type[Warning], shown: str) -> None:
    with warnings_in_words(Arguments):
        assert warnings.formatwarning("no gradient; see `lr`", category, file, 7).startswith(shown)
    assert "learner.py:7" in warnings.formatwarning("no", UserWarning, "focus_agents/learner.py", 7)


def test_settings_in_what_the_library_prints_are_flags() -> None:
    console = make_console(width=200, arguments=grpo.Args)
    console.file = io.StringIO()
    console.print("warning: ask in that unit: `frame` pixel", style="yellow", highlight=False, markup=False)
    assert console.file.getvalue() == "warning: ask in that unit: --frame pixel\n"


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(RewardError), work_errors(Arguments, Console(file=io.StringIO()), TrainingError):
        raise RewardError("term 'iou'")


def test_a_bug_does_not_pass_for_a_wrong_argument() -> None:
    with pytest.raises(ZeroDivisionError), user_errors(Arguments):
        _ = 1 / 0


FLAG = re.compile(r"(?<![\w-])--(?!help\b)[a-z]")


SHOWS_COMMANDS = {
    "focus_agents/reports/model_card.py",
    "focus_agents/studies/recipes/recipe.py",
    "focus_agents/integrations/lmms_eval.py",
    "focus_agents/integrations/vlmevalkit.py",
}
"""Files whose texts are whole command lines: of a card, a recipe, or another program."""


def flags_in(code: str) -> list[str]:
    """String literals that name a flag among other words. One that is a flag is an argument of a command's call."""
    found = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    return [
        text for text in found if isinstance(text, str) and FLAG.search(text) and not re.fullmatch(r"--[\w.-]+=?", text)
    ]


@pytest.mark.parametrize(
    ("code", "num_found"),
    [
        ("raise ValueError('lower --lr')", 1),
        ("raise ValueError(f'{x}: lower --lr or {y}')", 1),
        ("raise ValueError('a '\n'b --resume ' f'{path}')", 1),
        ('"""`--lr` sets it."""', 1),
        ('"""What `--help` shows of it."""', 0),
        ("call('--lr', '3e-4', '--no-dashboard')", 0),
        ("x = 'a -- b, a--b, ---, -l, |---|'", 0),
    ],
)
def test_flags_in_texts_are_seen(code: str, num_found: int) -> None:
    assert len(flags_in(code)) == num_found


def test_the_packages_name_no_flag() -> None:
    """A user of the library has settings; only a command has flags."""
    files = [*(ROOT / "focus_env").rglob("*.py"), *(ROOT / "focus_agents").rglob("*.py")]
    files = [file for file in files if file.relative_to(ROOT).as_posix() not in SHOWS_COMMANDS]
    named = {file.relative_to(ROOT): flags_in(file.read_text()) for file in files if file.parent.name != "cli"}
    assert {file: texts for file, texts in named.items() if texts} == {}
