r"""Find an object in many pictures or a video from one or a few supports, and write annotations for other tools.

How to run (a box is x1,y1,x2,y2 in pixels of the picture as viewers show it):
    focus find --support a.jpg:10,20,80,120 --support b.jpg:5,5,60,90 --in photos --out found.json
    focus find --support a.jpg:10,20,80,120:mug --support a.jpg:90,15,140,60:cup --in 'trip/**/*.jpg' --out found.csv
    focus find --supports labelled.json --name mug --in photos --out boxes --format yolo --copy-pictures
    focus find --support a.jpg:10,20,80,120 --in clip.mp4 --out found.xml --video seen.mp4

The ending of --out decides its format (.json is COCO's, .xml CVAT's, .csv, .jsonl); --format names any format. --draw
writes the pictures with their boxes into a folder, or a contact sheet into a file such as sheet.png. After an
interruption, repeat the same command: it continues, and writes the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.common import PolicyArguments
from focus_agents.cli.data_checks import check_policy_flags
from focus_agents.cli.errors import make_console, user_errors, warn, work_errors
from focus_agents.errors import CheckpointError, PolicyError
from focus_agents.finding.calibrating import read_calibration
from focus_agents.finding.choice import Choice, choose_policy, describe_policy, make_policy
from focus_agents.finding.search import Findings, OnDone, Outputs, Search
from focus_agents.finding.sources import Sources, list_sources
from focus_agents.finding.wanted import UNNAMED, Wanted, joined, wanted_of_file, wanted_of_texts
from focus_agents.policies.licences import licence_note
from focus_agents.policies.registry import policies_help
from focus_agents.runs.progress import progress_bar
from focus_agents.settings import Settings
from focus_env.annotations import FORMATS
from focus_env.errors import DatasetError, MissingDependencyError, StorageError

MAX_SHOWN = 20
"""Pictures that are named for the same reason; all are counted."""
POLICY_HELP = f"None: the best for these pictures that needs no download, which is said. {policies_help()}"
LABELS = {"pictures": "pictures", "drawn": "drawing", "clip": "clip"}


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Find an object in many pictures from one or a few supports."""

    support: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A picture and the box of the object, PICTURE:x1,y1,x2,y2 in pixels of the picture; once for each shot. For
    several objects, add each name: PICTURE:x1,y1,x2,y2:NAME."""
    supports: Path | None = None
    """File or folder of annotations whose boxes are supports, in any format that `focus convert` reads."""
    name: tuple[str, ...] = ()
    """Labels of --supports to find, by default all; or the name of the object of --support."""
    shots: Annotated[int, Ge(1)] = 4
    """Most supports of an object from --supports, spread evenly."""
    image_root: Path | None = None
    """Folder of the pictures of --supports; None: that of the annotations."""
    pictures: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            name="in",
            help="What is looked through: folders, patterns in quotes, pictures, videos, or lists of files (.txt).",
        ),
    ] = ()
    every: Annotated[int, Ge(1)] = 1
    """Search every n-th frame of a video."""
    out: Path = Path("runs/found.json")
    """File of the annotations, or the folder of a format that has a file for each picture."""
    format: Annotated[str | None, tyro.conf.arg(help=f"Format; None: by the ending.\n{FORMATS.help()}")] = None
    copy_pictures: bool = False
    """Copy the pictures into the folder, where the format expects them."""
    min_score: Annotated[float, Ge(0), Le(1)] | None = None
    """Boxes of a lower score count as absent; see docs/finding.md. None: all boxes count."""
    calibration: Path | None = None
    """File `calibration/<cell>.json` of an evaluation of this policy, which turns scores of boxes into probabilities of
    being right; None: keep the policy's scores."""
    draw: Path | None = None
    """Folder for the pictures with their boxes, or a file such as sheet.png for a contact sheet."""
    video: Path | None = None
    """Video file for the pictures with their boxes, .mp4 or .mov; needs the extra video."""
    overwrite: bool = False
    """Replace existing outputs, a folder with all of its files."""
    batch_size: Annotated[int, Ge(1)] = 8
    """Pictures that the policy answers together."""
    policy: Annotated[str | None, tyro.conf.arg(help=POLICY_HELP)] = None
    policies: PolicyArguments = PolicyArguments()

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags of a command line that have no effect; see `focus_agents.cli.data_checks`."""
        if self.policy is not None:
            check_policy_flags(given, [self.policy])
        for flag in ("shots", "image_root"):
            if flag in given and self.supports is None:
                raise ValueError(f"{flag}: without effect without `supports`; leave it out")
        if self.supports is None and len(self.name) > 1:
            raise ValueError(
                "name: expected one, that of the object of all `support`; of several, each as PICTURE:x1,y1,x2,y2:NAME"
            )


def main() -> None:
    console = make_console(arguments=Args)
    warnings = make_console(stderr=True, arguments=Args)
    with user_errors(Args):
        args = parse(Args, __doc__)
        wanted, sources, outputs = check_arguments(args, warnings)
        choice = Choice(args.policy, "") if args.policy is not None else choose_policy(wanted)
        spec = args.policies.spec(choice.text)
        warn(spec.other_prompt(), Args)
        template = spec.load_template()
        say_what_is_asked(choice, wanted, sources, console)
        identity = describe_policy(spec, template)
        search = Search(
            wanted,
            sources,
            outputs=outputs,
            identity=identity,
            calibration=None if args.calibration is None else read_calibration(args.calibration, identity),
            min_score=args.min_score,
            batch_size=args.batch_size,
        )
        if spec.entry.is_model:
            with warnings.status(f"loading {choice.text}"):
                quiet_libraries()
        policy, template = make_policy(spec, template)
    started = time.perf_counter()
    expected = (CheckpointError, DatasetError, MissingDependencyError, PolicyError, StorageError)
    with work_errors(Args, warnings, *expected), progress(sources, console) as on_done:
        findings = search.run(policy, template, on_done=on_done)
    say_what_was_found(findings, outputs, console, warnings)
    num_now, seconds = len(findings.looked) - search.num_before, time.perf_counter() - started
    before = f", and {search.num_before} of an earlier call" if search.num_before else ""
    console.print(f"{num_now} pictures in {seconds:.1f} s, {num_now / seconds:.1f} a second{before}")
    if not findings.pictures:
        warnings.print("error: no picture could be read; nothing was written")
        raise SystemExit(1)


def check_arguments(args: Args, warnings: Console) -> tuple[list[Wanted], Sources, Outputs]:
    """Find all that can be wrong with what is looked for, where, and what is written; no model is loaded for it."""
    args.policies.check_device()
    if not args.support and args.supports is None:
        raise ValueError("support: expected a picture with a box, as in --support a.jpg:10,20,80,120, or `supports`")
    if not args.pictures:
        raise ValueError("--in: expected a folder, a pattern, pictures or a video to search, got none")
    sources = list_sources(args.pictures, every=args.every)
    outputs = Outputs(
        out=args.out,
        format=args.format,
        draw=args.draw,
        video=args.video,
        copy_pictures=args.copy_pictures,
        overwrite=args.overwrite,
    )
    outputs.check(sources, [])
    outputs.check_free_or_unfinished()
    is_of_texts = args.supports is None and bool(args.name)
    wanted = wanted_of_texts(args.support, name=args.name[0] if is_of_texts else UNNAMED)
    if args.supports is not None:
        found, left_out = wanted_of_file(args.supports, names=args.name, shots=args.shots, image_root=args.image_root)
        wanted += found
        show("left out of the supports", left_out, warnings)
    wanted = joined(wanted)
    outputs.check(sources, wanted)
    return wanted, sources, outputs


def say_what_is_asked(choice: Choice, wanted: Sequence[Wanted], sources: Sources, console: Console) -> None:
    """Print what is looked for, where, and by which policy."""
    for one in wanted:
        known = f" of {one.num_known} boxes" if one.num_known > len(one.supports) else ""
        console.print(f"looking for {one.label!r}: {len(one.supports)} supports{known}")
    count = sources.count()
    what = "frames" if sources.videos and len(sources.videos) == len(sources.files) else "pictures"
    console.print(f"in {sources.root}: {'all' if count is None else f'{count:,}'} {what}")
    if sources.passed_over:
        others = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in sources.passed_over.items())
        console.print(f"passed over: {others}")
    console.print(f"policy: {choice.text}" + (f", {choice.reason}" if choice.reason else ""))
    if note := licence_note(choice.text):
        console.print(note)


@contextmanager
def progress(sources: Sources, console: Console) -> Iterator[OnDone]:
    """Show bars for the parts of the work, one after the other."""
    total = sources.count()
    bars: dict[str, Callable[[int], None]] = {}
    with ExitStack() as open_bars:

        def on_done(what: str, count: int) -> None:
            if what not in bars:
                open_bars.close()
                bars[what] = open_bars.enter_context(progress_bar(LABELS[what], total, console, unit="pictures"))
            bars[what](count)

        yield on_done


def say_what_was_found(findings: Findings, outputs: Outputs, console: Console, warnings: Console) -> None:
    """Print counts, what could not be read, and where everything is."""
    show("cannot be read", findings.faults, warnings)
    troubles = [
        f"{one.name}: {answer.label!r}: {answer.text}"
        for one in findings.looked
        for answer in one.answers
        if answer.kind in ("unread", "failed")
    ]
    show("no answer", troubles, warnings)
    for label in findings.labels:
        counts = findings.counts(label)
        console.print(f"{label!r}: " + ", ".join(f"{words} {count}" for words, count in counts.items()))
    if findings.faults:
        console.print(f"{len(findings.faults)} of {len(findings.looked)} pictures could not be read")
    if not findings.pictures:
        return
    found = outputs.annotations
    assert found is not None
    num_boxes = sum(one.box is not None for picture in findings.pictures for one in picture.objects)
    console.print(f"{outputs.out}: {found.name}, {len(findings.pictures)} pictures, {num_boxes} boxes")
    console.print(f"names of pictures in it begin at {findings.root}")
    for path in (outputs.draw, outputs.video):
        if path is not None:
            console.print(f"drawn: {path}")


def show(what: str, messages: Sequence[str], console: Console) -> None:
    """Print the first messages, and how many others there are."""
    for message in messages[:MAX_SHOWN]:
        console.print(f"{what}: {message}")
    if len(messages) > MAX_SHOWN:
        console.print(f"{what}: and {len(messages) - MAX_SHOWN} more")


if __name__ == "__main__":
    main()
