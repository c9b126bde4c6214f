"""What commands print of errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from focus_agents.cli.errors import as_flags, user_errors
from focus_env.errors import FocusError, RewardError


@dataclass(frozen=True)
class Loss:
    """A box of settings."""

    lr: float = 0.1
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Arguments:
    """A command's arguments, with a box."""

    output_dir: Path = Path("runs")
    resume: Path | None = None
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


def test_a_bug_does_not_pass_for_a_wrong_argument() -> None:
    with pytest.raises(ZeroDivisionError), user_errors(Arguments):
        _ = 1 / 0
