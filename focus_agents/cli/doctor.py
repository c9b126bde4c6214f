"""Check whether a model, a data set and a prompt fit together, before you spend hours on them.

How to run:
    focus doctor --model Qwen/Qwen2-VL-2B-Instruct --dataset synthetic
    focus doctor --model runs/my-sft/checkpoints/final --dataset lasot --data-root data/lasot --max-image-tokens 352

The command asks one episode as in training. It prints the model, the prompt with its spans, one greedy answer read in
every unit, the budget, and a verdict. The folder of --out gets pictures.png (the images as the model sees them),
prompt.html and report.json. The exit status is 0, 1 after a fault, or 2 after a wrong argument. --json prints only the
report, for a bug report.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge
from rich.console import Console
from rich.text import Text

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.common import FrameName, TemplateName
from focus_agents.cli.data_arguments import DataArguments
from focus_agents.cli.errors import as_flags, error_in_words, make_console, user_errors
from focus_agents.models.references import absolute_reference, on_base
from focus_agents.models.settings import FinetuningSettings
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS
from focus_agents.settings import Ceiling, Settings
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import check_pixels
from focus_env.errors import FocusError
from focus_env.files import write_text
from focus_env.prompts import spelled_out
from focus_env.rendering import write_picture

if TYPE_CHECKING:  # a command line is read without torch
    from focus_agents.diagnosis.examination import Examination, Request
    from focus_agents.diagnosis.findings import Section

STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red", "not done": "dim"}
SHEET, PAGE, REPORT = "pictures.png", "prompt.html", "report.json"


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Check whether a model, a data set and a prompt fit together."""

    model: str = "focus-small"
    """Model or adapter: a folder or a name on the hub, as in other commands."""
    base_model: str | None = None
    """Base model of the adapter; default: the base that the adapter names."""
    template: TemplateName = None
    frame: FrameName = None
    max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per image; larger images are scaled down. Default: as in the folder of a saved policy, else the limit
    of the model's image processor."""
    data: DataArguments = DataArguments()
    shots: Annotated[int, Ge(1), Ceiling(256)] = 2
    """Support pictures of the episode."""
    episode: Annotated[int, Ge(0)] | None = None
    """Index of the episode to ask; default: the first episode whose query shows the object."""
    finetuning: FinetuningSettings = FinetuningSettings()
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1; auto takes a GPU if there is one."""
    max_completion_tokens: Annotated[int, Ge(1)] = MAX_COMPLETION_TOKENS
    """Most tokens of the greedy answer."""
    step: bool = True
    """Run one forward and one backward pass; on a CPU it is left out for a large model."""
    out: Path = Path("runs/doctor")
    """Folder for the pictures, the prompt and the report."""
    json: bool = False
    """Print the report as JSON, and nothing else."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
    with user_errors(Args), _failure_as_json(args):
        quiet_libraries()
        request = make_request(args)
        check_limits(args, request)
        args.out.mkdir(parents=True, exist_ok=True)
    console = make_console(arguments=Args)
    with _status() as tell:
        from focus_agents.diagnosis.examination import examine  # here and below: a command line is read without torch

        found = examine(request, tell=tell)
    with user_errors(Args), _failure_as_json(args):
        files = write_findings(found, args)
    if args.json:
        print(_as_json(found, files))
    else:
        show(console, found, files)
    raise SystemExit(found.exit_status)


@contextlib.contextmanager
def _failure_as_json(args: Args) -> Iterator[None]:
    """Print what ends the command as a report in JSON, where one is asked for, before that ends it."""
    try:
        yield
    except (ValueError, OSError, FocusError) as error:
        if args.json:
            sentence = as_flags(f"error: {error_in_words(error)}", Args).removeprefix("error: ")
            report = {"verdict": "fault", "sentence": sentence, "exit_status": 2, "sections": [], "files": {}}
            print(json.dumps(report, indent=2))
        raise


@contextlib.contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Show on the standard error what is being done; nothing where that is no terminal."""
    with make_console(stderr=True).status("importing torch") as status:
        yield status.update


def make_request(args: Args) -> Request:
    """Return what is to be examined.

    Raises:
        ValueError: If there is no such template or device.
    """
    from focus_agents.cli.common import PolicyArguments
    from focus_agents.diagnosis.examination import Request
    from focus_agents.models.devices import chosen_device

    PolicyArguments(device=args.device).check_device()
    return Request(
        model=absolute_reference(on_base(args.model, args.base_model)),
        load_episodes=lambda: args.data.load(shots=args.shots),
        template=spelled_out(args.template),
        frame=None if args.frame is None else CoordinateFrame(args.frame),
        max_image_tokens=args.max_image_tokens,
        episode=args.episode,
        settings=args.finetuning,
        device=chosen_device(args.device),
        max_completion_tokens=args.max_completion_tokens,
        measures_step=args.step,
    )


def check_limits(args: Args, request: Request) -> None:
    """See that the limits of pictures can be kept: they are the user's words, and no fault of the model.

    Raises:
        ValueError: If not.
    """
    check_pixels(args.data.min_pixels, args.data.max_pixels)
    if args.max_image_tokens is not None:
        from focus_agents.models.loading import load_processor

        with contextlib.suppress(FocusError):  # of the model, which is examined
            load_processor(request.model, max_image_tokens=args.max_image_tokens)


def write_findings(found: Examination, args: Args) -> dict[str, str]:
    """Write the sheet, the page and the report; those of an earlier call that this one has none of are removed.

    Returns:
        Their paths by name.
    """
    from focus_agents.diagnosis.words import as_page

    files = {}
    for name in (SHEET, PAGE):
        (args.out / name).unlink(missing_ok=True)
    if found.sheet is not None:
        files["pictures"] = str(write_picture(args.out / SHEET, found.sheet))
    if found.pieces:
        notes = [as_flags(f"{note.verdict}: {note.text}", Args) for note in found.sections["prompt"].notes]
        write_text(args.out / PAGE, as_page(found.pieces, notes, f"Prompt of {args.model}"))
        files["prompt"] = str(args.out / PAGE)
    files["report"] = str(args.out / REPORT)
    write_text(args.out / REPORT, _as_json(found, files) + "\n")
    return files


def _as_json(found: Examination, files: dict[str, str]) -> str:
    report = found.as_dict()
    report["sentence"] = as_flags(report["sentence"], Args)
    for section in report["sections"]:
        section["notes"] = [{**note, "text": as_flags(note["text"], Args)} for note in section["notes"]]
    return json.dumps({**report, "files": files}, indent=2, allow_nan=False)


def show(console: Console, found: Examination, files: dict[str, str]) -> None:
    """Print the findings, section after section."""
    from focus_agents.diagnosis.words import in_terminal, legend

    for number, section in enumerate(found.sections.values(), start=1):
        _show_section(console, number, section)
        if section.name == "prompt" and found.pieces:
            console.print(legend(), soft_wrap=True)
            console.print(in_terminal(found.pieces), soft_wrap=True)
    for name, file in files.items():
        console.print(f"{name}: {file}")
    text = Text(f"verdict: {found.verdict}", style=STYLES[found.verdict])
    text.append(f": {as_flags(found.sentence, Args)}", style="default")
    console.print(text, soft_wrap=True)


def _show_section(console: Console, number: int, section: Section) -> None:
    title = Text(f"\n{number}. {section.title}: ", style="bold")
    title.append(str(section.verdict), style=STYLES[section.verdict])
    console.print(title, soft_wrap=True)
    for note in section.notes:
        line = Text("  " if note.verdict == "ok" else f"  {note.verdict}: ", style=STYLES[note.verdict])
        line.append(as_flags(note.text, Args), style="default")
        console.print(line, soft_wrap=True)


if __name__ == "__main__":
    main()
