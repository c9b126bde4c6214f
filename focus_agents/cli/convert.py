r"""Convert annotations from one format to another: COCO, YOLO, Pascal VOC, LabelMe, Label Studio, CVAT, CSV, JSONL.

How to run (the content of a file or folder tells its format, and the ending that of the new file; .json is COCO's):
    focus convert photos/annotations.json photos/boxes.csv
    focus convert mine.csv dataset --to yolo --image-root photos --copy-pictures
    focus convert cvat/annotations.xml tasks.json --to labelstudio --on-bad skip

Each unusable entry is named with its file and line, and nothing is written unless --on-bad skip leaves such entries
out. Fields that the new format does not have are counted. Nothing is overwritten without --overwrite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from focus_agents.cli.command_line import parse
from focus_agents.cli.errors import make_console, user_errors
from focus_agents.runs.progress import progress_bar
from focus_agents.settings import Settings
from focus_env.annotations import (
    FORMATS,
    AnnotationFormat,
    Annotations,
    Remark,
    check_free,
    count_parts,
    format_named,
    format_of,
    format_to_write,
    read_annotations,
    write_annotations,
)
from focus_env.datasets.sampler import BadPolicy

MAX_SHOWN = 20
"""Faults and notes that are printed each; all are counted."""

READ_HELP = f"Format to read; None: it is found out.\n{FORMATS.help()}"


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Convert annotations from one format to another."""

    source: tyro.conf.Positional[Path]
    """File or folder of the annotations to read."""
    target: tyro.conf.Positional[Path]
    """File to write, or folder of a format with a file for each picture."""
    source_format: Annotated[str | None, tyro.conf.arg(name="from", help=READ_HELP)] = None
    to: str | None = None
    """Format to write; None: by the ending."""
    image_root: Path | None = None
    """Folder of the pictures, which no name may leave; None: that of the annotations."""
    copy_pictures: bool = False
    """Copy the pictures into the folder, where the format expects them."""
    on_bad: BadPolicy = "raise"
    """Treatment of bad entries: raise names all of them in an error, skip leaves them out and counts them."""
    overwrite: bool = False
    """Replace an existing target, a folder with all of its files."""


def main() -> None:
    console = make_console(arguments=Args)
    with user_errors(Args):
        args = parse(Args, __doc__)
        convert(args, console)


def convert(args: Args, console: Console) -> None:
    """Read, say what is wrong, write, say what was lost.

    Raises:
        ValueError: If something cannot be used and is not to be left out, or the target is not free.
        DatasetError: If nothing can be read.
    """
    source = format_of(args.source) if args.source_format is None else format_named(args.source_format)
    target = format_to_write(args.target) if args.to is None else format_named(args.to)
    check_free(args.target, target, overwrite=args.overwrite)
    with progress_bar("pictures", None, console) as move_to:
        read = read_annotations(
            args.source, format=source.name, image_root=args.image_root, on_bad="skip", on_picture=move_to
        )
    console.print(f"{args.source}: {source.name}, {len(read.pictures)} pictures, {read.num_boxes} boxes")
    warnings = make_console(stderr=True, arguments=Args)
    _show("note", read.notes, warnings)
    _show("left out" if args.on_bad == "skip" else "error", read.faults, warnings)
    if read.faults and args.on_bad == "raise":
        raise ValueError(
            f"{args.source}: expected annotations that can all be used, got {len(read.faults)} that cannot "
            f"({_counts(read.skipped)}), and nothing was written; correct them, or leave them out with `on_bad` 'skip'"
        )
    if not read.pictures:
        raise ValueError(f"{args.source}: expected at least one picture, found none; nothing was written")
    write_annotations(
        args.target,
        read.pictures,
        format=target.name,
        labels=read.labels,
        overwrite=args.overwrite,
        copy_pictures=args.copy_pictures,
    )
    console.print(f"{args.target}: {target.name}, {len(read.pictures)} pictures, {read.num_boxes} boxes")
    for line in lost(read, target):
        console.print(line)


def lost(read: Annotations, target: AnnotationFormat) -> list[str]:
    """Return what was left out, and what a format has no place for, a line each."""
    lines = [f"left out: {_counts(read.skipped)}"] if read.faults else []
    missing: dict[str, int] = {
        part: count for part, count in count_parts(read.pictures).items() if part not in target.holds
    }
    lines += [f"{target.name} has no place for: {_counts(missing)}"] if missing else []
    return lines


def _show(what: str, remarks: Sequence[Remark], console: Console) -> None:
    for remark in remarks[:MAX_SHOWN]:
        console.print(f"{what}: {remark.message}")
    if len(remarks) > MAX_SHOWN:
        rest = Counter(remark.reason for remark in remarks[MAX_SHOWN:])
        console.print(f"{what}: and {sum(rest.values())} more ({_counts(rest)})")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in counts.items())


if __name__ == "__main__":
    main()
