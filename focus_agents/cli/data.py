r"""Write the episodes of any data set as a store: Parquet files that are quick to open and to read at random.

How to run (after an interruption, repeat the same command to continue):
    focus data --dataset got10k --data-root /data/got10k --output stores/got10k-train
    focus data --dataset lasot --data-root /data/lasot --split iploc_test --protocol iploc \
        --absent keep --output stores/icl-lasot

Show the content of a data set or a store, as a table and a sheet of pictures:
    focus data --dataset got10k --data-root /data/got10k --inspect
    focus data --dataset store --data-root stores/got10k-train --inspect

To train on a store: --dataset store --data-root stores/got10k-train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table

from focus_agents.cli.command_line import flat, parse
from focus_agents.cli.data_arguments import DataArguments
from focus_agents.cli.errors import make_console, user_errors
from focus_agents.runs.progress import progress_bar
from focus_agents.settings import Ceiling, Settings
from focus_env.datasets.describe import Description, describe, picture_sheet
from focus_env.datasets.store import StoreEpisodes, verify_store
from focus_env.datasets.store_writer import write_store
from focus_env.rendering import write_picture
from focus_env.types import EpisodeDataset

SHEET_FILE = "sheet.png"
MAX_LISTED = 12
OLD_FLAGS = {"--validation-root": None, "--validation-split": None}


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Write the episodes of any data set as a store."""

    data: DataArguments = DataArguments()
    shots: Annotated[int, Ceiling(256)] = 4
    """Support pictures per episode, at least 1."""
    output: Path | None = None
    """Folder of the store to write or to continue."""
    by_path: bool = False
    """Store paths of pictures instead of the pictures, which then must stay in place."""
    inspect: bool = False
    """Print a table of the episodes, and write some of them to sheet.png, in --output or runs/."""
    verify: bool = False
    """Compare the store's files with their checksums."""


def main() -> None:
    console = make_console()
    with user_errors(Args):
        args = parse(Args, __doc__, old_flags=OLD_FLAGS)
        episodes = args.data.load(shots=args.shots)
        if args.output is None and not args.inspect and not args.verify:
            raise ValueError("expected --output to write a store, or --inspect or --verify to look at one; got none")
        folder = args.output
        if folder is not None:
            write(args, episodes, folder, console)
            episodes = StoreEpisodes(folder)
        if args.verify:
            verify(folder or args.data.data_root, console)
        if args.inspect:
            inspect(episodes, (folder or Path("runs")) / SHEET_FILE, console)


def write(args: Args, episodes: EpisodeDataset, folder: Path, console: Console) -> None:
    """Write the store, or what is missing of it."""
    source = {name: _plain(value) for name, value in (flat(args.data) | {"shots": args.shots}).items()}
    with progress_bar("episodes", len(episodes), console) as move_to:
        outcome = write_store(
            episodes, folder, source=source, embeds=not args.by_path, on_bad=args.data.on_bad, on_episode=move_to
        )
    what = "nothing to do" if outcome.num_found == outcome.num_shards else f"{outcome.num_found} were there"
    line = f"{folder}: {len(episodes)} episodes in {outcome.num_shards} shards, {what}"
    console.print(line)


def verify(folder: Path | None, console: Console) -> None:
    """Compare checksums."""
    if folder is None:
        raise ValueError("--verify: expected --output, or --dataset store with --data-root, got neither")
    num_files = 0
    with progress_bar("files", None, console) as move_to:
        for num_files, _ in enumerate(verify_store(folder), 1):
            move_to(num_files)
    console.print(f"{folder}: all {num_files} files are as they were written")


def inspect(episodes: EpisodeDataset, sheet: Path, console: Console) -> None:
    """Print the table, write the sheet."""
    with progress_bar("reading", min(len(episodes), 10_000), console) as move_to:
        found = describe(episodes, on_episode=move_to)
    console.print(table_of(found))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    write_picture(sheet, picture_sheet(episodes))
    console.print(f"pictures: {sheet}")


def table_of(found: Description) -> Table:
    """Return the description as a table of two columns."""
    table = Table("what", "how many", show_header=False)
    of = "" if found.num_read == found.num_episodes else f" (figures below: of {found.num_read}, evenly spaced)"
    table.add_row("episodes", f"{found.num_episodes}{of}")
    table.add_row("tracks", str(found.num_identities))
    table.add_row("pictures", str(found.num_pictures))
    table.add_row(
        "sizes", ", ".join(f"{width}x{height}" for width, height in found.picture_wh) + " (least, median, most)"
    )
    table.add_row("shots", _counts(found.shots))
    if found.target_shares is not None:
        shares = ", ".join(f"{share:.1%}" for share in found.target_shares)
        table.add_row("target's share of its picture", f"{shares} (5th, 50th, 95th percentile)")
    table.add_row("absent targets", str(found.num_absent))
    table.add_row("notes", _counts(found.notes))
    table.add_row(f"categories ({len(found.categories)})", _counts(found.categories))
    table.add_row("skipped", _counts(found.skipped))
    return table


def _counts(counts: Mapping[Any, int]) -> str:
    listed = [f"{name}: {count}" for name, count in list(counts.items())[:MAX_LISTED]]
    rest = len(counts) - len(listed)
    return ", ".join(listed + [f"and {rest} more"] * (rest > 0)) or "none"


def _plain(value: object) -> object:
    """Return a value as JSON has it."""
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    main()
