"""The program `focus`: the table of its commands, and the start of one of them.

No command is imported before it is asked for, so `focus --help` needs neither torch nor Ray and answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass
from typing import Any

from focus_agents.cli.ending import (
    end_quietly,
    is_program,
    number_of,
    run_to_the_end,
    termination_as_exception,
)
from focus_agents.runs.output import guard_output

HELP = {"-h", "--help"}
EXTRA = "train"
"""The extra of the package with everything that a command imports."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: The name in `focus NAME`.
        module: The module of its function `main`, which reads `sys.argv`.
        help: A line for `focus --help`.
    """

    name: str
    module: str
    help: str


COMMANDS = {
    command.name: command
    for command in (
        Command("demo", "focus_agents.cli.demo", "find an object in a picture, given pictures with a box around it"),
        Command("find", "focus_agents.cli.find", "find objects in many pictures or a video, and write annotations"),
        Command("app", "focus_agents.cli.app", "open a page on which to draw a box, and see where the object is"),
        Command("evaluate", "focus_agents.cli.evaluate", "score policies on unseen episodes"),
        Command("sft", "focus_agents.cli.sft", "train, stage 1: supervised fine-tuning with attention loss"),
        Command("grpo", "focus_agents.cli.grpo", "train, stage 2: GRPO on RLlib"),
        Command("pretrain", "focus_agents.cli.pretrain", "train the small base model that stage 1 starts from"),
        Command("probe", "focus_agents.cli.probe", "read by a linear probe where a model holds an object's colour"),
        Command("data", "focus_agents.cli.data", "write a data set as a store, or show what it holds"),
        Command("convert", "focus_agents.cli.convert", "write annotations of pictures in another format, such as COCO"),
        Command(
            "labelstudio", "focus_agents.cli.labelstudio", "propose boxes in Label Studio, from those labelled so far"
        ),
        Command("rewards", "focus_agents.cli.rewards", "compare rewards by the policies that they train"),
        Command("ablation", "focus_agents.cli.ablation", "run the paper's ablation on synthetic scenes"),
        Command("paper", "focus_agents.cli.paper", "print the paper's tables for the policies and data on this disk"),
        Command("recipe", "focus_agents.cli.recipe", "run the commands of a table, or show their cost"),
        Command("harness", "focus_agents.cli.harness", "write our episodes as a task of lmms-eval and VLMEvalKit"),
        Command("plot", "focus_agents.cli.plot", "draw the curves of runs side by side"),
        Command("monitor", "focus_agents.cli.monitor", "show the runs on a Ray cluster by Prometheus and Grafana"),
        Command("report", "focus_agents.cli.report", "write a run, or several side by side, as one HTML file"),
        Command("tensorboard", "focus_agents.cli.tensorboard", "open TensorBoard on runs"),
        Command(
            "doctor",
            "focus_agents.cli.doctor",
            "check whether a model, data and a prompt fit together, before you pay for a GPU",
        ),
        Command("export", "focus_agents.cli.export", "write a policy as a folder that transformers and vLLM load"),
        Command("push", "focus_agents.cli.push", "share a policy on the hub, with a card"),
        Command("publish", "focus_agents.cli.publish", "make a run's model one that comes with the package"),
    )
}
"""All commands by name; the dispatcher, the tests and the documentation read this table."""


def main() -> None:
    """Run `focus`: one command by its name, or `--help` or `--version`.

    Raises:
        SystemExit: With code 2 if there is no such command, 1 if it needs a package that is not installed.
    """
    if is_program():
        run_to_the_end(_main)
    else:
        _main()


def _main() -> None:
    words = sys.argv[1:]
    guard_output(tells_of_reader=not HELP.intersection(words[:1]))
    if not words or words[0] in HELP:
        print(usage())
    elif words[0] == "--version":
        from focus_env import __version__  # here: the environment takes longer to import than the help to print

        print(f"focus {__version__}")
    elif words[0] in COMMANDS:
        sys.argv = [f"focus {words[0]}", *words[1:]]  # the command's own parser shows the first word as its name
        run_command(words[0])
    else:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f", did you mean {near[0]!r}? There are" if near else "; there are"
        print(f"error: focus has no command {words[0]!r}{hint} {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)


def run_command(name: str) -> None:
    """Run one command with the arguments in `sys.argv`.

    Args:
        name: A key of `COMMANDS`.

    Raises:
        SystemExit: With code 1 if the command needs a package that is not installed, 130 after Ctrl-C and 143 after
            SIGTERM, and as the command itself exits.
    """
    is_help = not HELP.isdisjoint(sys.argv[1:])
    guard_output(tells_of_reader=not is_help, sign=None if is_help else f"focus {name} ...")
    try:
        with termination_as_exception():
            command = _import_command(name)
            from focus_agents.cli.errors import warnings_in_words  # here: `focus --help` needs none of what it imports

            with warnings_in_words(command.Args):
                command.main()
    except KeyboardInterrupt as stop:
        number = number_of(stop)
        print(f"stopped by {number.name}", file=sys.stderr)
        raise SystemExit(128 + number) from None
    finally:
        end_quietly()


def _import_command(name: str) -> Any:
    """Return the module of a command."""
    try:
        return importlib.import_module(COMMANDS[name].module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "focus_agents", "focus_env"):
            raise  # a fault of this package, which no installation mends
        print(
            f"error: focus {name} needs the package {missing}, which is not installed; "
            f"run: pip install 'focus-localization[{EXTRA}]'",
            file=sys.stderr,
        )
        raise SystemExit(1) from error


def usage() -> str:
    """Return the text of `focus --help`."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: focus [-h] [--version] COMMAND ...",
            "",
            "In-context object localization: train policies, evaluate them, and ask them.",
            "",
            "commands:",
            *(f"  {command.name:{width}}  {command.help}" for command in COMMANDS.values()),
            "",
            "focus COMMAND --help explains a command and its flags.",
        ]
    )


if __name__ == "__main__":
    main()
