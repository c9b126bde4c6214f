r"""Print the paper's tables for the policies and the data on this disk, beside the paper's rows, marked as published.

How to run (first the evaluations with their commands and their time, then the table):
    focus paper --data-root /data --policy vlm:runs/my-7b/checkpoints/final dino_match owlv2 --dry-run
    focus paper --data-root /data --policy vlm:runs/my-7b/checkpoints/final dino_match owlv2

Print the published rows and the existing answers, without evaluating; then those of the ablations:
    focus paper
    focus paper --table 5 6

--data-root is a folder with a folder for each data set by its name: tao, got10k, lasot, perseg. Rows and columns that
lack weights or data are named with the missing file. A figure is in the table only if its episodes are those of the
paper, as far as their numbers and names show. Answers go to --output-dir as those of `focus evaluate` do, which adds
rows to the same table; no episode is answered twice.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from annotated_types import Ge

from focus_agents.cli import evaluate
from focus_agents.cli.command_line import parse
from focus_agents.cli.errors import as_flags, make_console, user_errors
from focus_agents.evaluation.notes import report_notes
from focus_agents.evaluation.published import DATA, LAYOUTS, PAPER, PublishedTable
from focus_agents.evaluation.report import published_rows, summarize_folder, write_report
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.policies.licences import licence_note
from focus_agents.policies.registry import PolicySpec, parse_policy, policies_help
from focus_agents.reports.tables import text_table
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS
from focus_agents.settings import Ceiling, Settings
from focus_env.datasets import load_dataset
from focus_env.errors import FocusError

if TYPE_CHECKING:  # a command line is read without torch and Ray
    from rich.console import Console

READERS = {"tao": "focus", "got10k": "focus", "lasot": "iploc", "perseg": "focus"}
"""By data set that can be read, the protocol by which its episodes are cut."""
NO_READER = "no reader for its files; IPLoc's episode files of it are read by the data set iploc_json"
ABSENT = {"lasot": "nearest"}
"""Six of ICL-LaSOT's queries do not show the object, and some supports; the nearest frame that does takes its place."""


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Print the paper's tables for the policies and the data on this disk."""

    policy: Annotated[tuple[str, ...], tyro.conf.arg(help=policies_help())] = ()
    data_root: Path | None = None
    """Folder with a folder for each data set by its name: tao, got10k, lasot, perseg."""
    table: tuple[Literal[1, 2, 3, 4, 5, 6], ...] = (1, 2)
    """Tables of the paper. Table 1 also has the rows of 3 and 4. Tables 5 (layers of the attention loss) and 6 (its mu
    and beta) are on TAO at 4 shots after stage 1 alone."""
    shots: tuple[Annotated[int, Ge(1), Ceiling(256)], ...] = ()
    """Numbers of supports; None: those of the table."""
    output_dir: Path = Path("runs/paper")
    """Folder of the answers; an existing folder continues."""
    flags: str = ""
    """Further flags of `focus evaluate` as one text, after an equals sign: --flags="--precision bf16"."""
    num_episodes: Annotated[int, Ge(1)] = 1024
    """Most episodes of a data set. With fewer than the data set has, the figures are in no table, since the episodes
    are not the published ones."""
    max_completion_tokens: Annotated[int, Ge(1)] = MAX_COMPLETION_TOKENS
    """Tokens at which an answer is cut."""
    dry_run: bool = False
    """Print the evaluations, their commands and their time, and evaluate nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A data set of the paper.

    Attributes:
        name: Name in the package.
        title: Title in the paper.
        num_episodes: Number of episodes that can be read, by number of shots.
        missing: Why no episode can be read; "": episodes can be read.
    """

    name: str
    title: str
    num_episodes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    missing: str = ""


def main() -> None:
    console = make_console(arguments=Args)
    with user_errors(Args):
        args = parse(Args, __doc__)
        tables: dict[int, PublishedTable] = {number: LAYOUTS[number] for number in args.table}
        results = ResultsFolder(args.output_dir)
        results.cells()  # no folder of something else
        columns = find_columns(args, list(tables.values()), results)
        lacking = {text: reason for text in args.policy if (reason := missing_weights(text))}
        commands = commands_of(args, columns, lacking)
    for name, words in commands.items():
        told = how_long(results, {c.name: c for c in columns}[name], [p for p in args.policy if p not in lacking])
        console.print(
            f"{'would run' if args.dry_run else 'runs'} ({told}): {shlex.join(['focus', 'evaluate', *words])}"
        )
    if not args.dry_run:
        for words in commands.values():
            answer(words, console)
    print_tables(args, tables, columns, lacking, results, console)


def find_columns(args: Args, tables: Sequence[PublishedTable], results: ResultsFolder) -> list[Column]:
    """Look for the data sets of tables, each once, at the numbers of supports of all of these."""
    known = results.data_settings()
    titles = {name: title for table in tables for name, (title, _) in table.datasets.items()}
    shots = {
        name: sorted({number for table in tables for number in table.datasets.get(name, ("", ()))[1]})
        for name in titles
    }
    return [
        find_column(args, name, title, args.shots or shots[name], known.get(name)) for name, title in titles.items()
    ]


def find_column(
    args: Args, name: str, title: str, all_shots: Sequence[int], before: Mapping[str, Any] | None
) -> Column:
    """Look for one data set: that of `data_root`, or the one that was answered before.

    Args:
        args: The command's.
        name: As the package has it.
        title: As the paper has it.
        all_shots: Numbers of supports.
        before: Its settings in the folder of the answers, if it is there.
    """
    if name not in READERS:
        return Column(name=name, title=title, missing=NO_READER)
    if args.data_root is None:
        reason = "answered before; no `data_root`, so nothing is added" if before else "no `data_root`"
        return Column(name=name, title=title, missing=reason)
    try:
        num_episodes = {
            shots: len(
                load_dataset(
                    name,
                    split=DATA[name].split,
                    root=args.data_root / name,
                    shots=shots,
                    protocol="iploc" if READERS[name] == "iploc" else "focus",
                    absent="nearest" if name in ABSENT else "skip",
                )
            )
            for shots in all_shots
        }
    except (FocusError, ValueError, OSError) as error:
        return Column(name=name, title=title, missing=str(error))
    return Column(name=name, title=title, num_episodes=num_episodes)


def missing_weights(text: str) -> str:
    """Return what a policy lacks, as its loader says it; "": nothing that can be seen without its weights.

    Raises:
        ValueError: If there is no such policy.
    """
    from focus_agents.models.loading import load_config

    entry, _ = parse_policy(text)
    try:
        if entry.is_model:
            load_config(PolicySpec(text=text).with_absolute_path().argument)
        PolicySpec(text=text).check()
    except FocusError as error:
        return " ".join(str(error).split())
    return ""


def commands_of(args: Args, columns: Sequence[Column], lacking: Mapping[str, str]) -> dict[str, list[str]]:
    """Return by data set the words of `focus evaluate` that answer what can be answered."""
    policies = [text for text in args.policy if text not in lacking]
    commands = {}
    for column in columns:
        if column.missing or not policies or args.data_root is None:
            continue
        words = ["--policy", *policies, "--dataset", column.name, "--data-root", str(args.data_root / column.name)]
        words += ["--split", DATA[column.name].split, "--protocol", READERS[column.name]]
        words += ["--absent", ABSENT[column.name]] if column.name in ABSENT else []
        words += ["--shots", *map(str, column.num_episodes), "--num-episodes", str(args.num_episodes)]
        words += ["--max-completion-tokens", str(args.max_completion_tokens), "--output-dir", str(args.output_dir)]
        commands[column.name] = [*words, *shlex.split(args.flags)]
        try:
            evaluate.read_words(commands[column.name])
        except ValueError as error:
            told = as_flags(f"error: {error}", evaluate.Args).removeprefix("error: ")
            raise ValueError(told) from error
    return commands


def how_long(results: ResultsFolder, column: Column, policies: Sequence[str]) -> str:
    """Return how many answers a data set lacks, and how long they take by those that are there."""
    known = [
        (cell, {record.index for record in records}, [record.seconds for record in records])
        for cell in results.cells()
        if (records := results.read(cell))
    ]
    num_missing, seconds, unknown = 0, 0.0, []
    for policy in policies:
        own = [(cell, indices, times) for cell, indices, times in known if cell.policy == policy]
        there = {cell.shots: len(indices) for cell, indices, _ in own if cell.dataset == column.name}
        missing = sum(max(0, count - there.get(shots, 0)) for shots, count in column.num_episodes.items())
        times = [time for _, _, all_times in own for time in all_times]
        num_missing += missing
        if times:
            seconds += missing * sum(times) / len(times)
        elif missing:
            unknown.append(policy)
    told = f"{num_missing:,} answers"
    if num_missing and len(unknown) < len(policies):
        told += f", {seconds / 60:,.1f} min by the answers so far"
    if unknown:
        told += f"; not known before the first answers: {', '.join(unknown)}"
    return told


def answer(words: Sequence[str], console: Console) -> None:
    """Do what `focus evaluate` does with these words, but for its tables."""
    with user_errors(evaluate.Args):
        own = evaluate.read_words(words)
        plan, results, chunks = evaluate.check_arguments(own, evaluate.check_words(own))
    evaluate.answer_chunks(own, plan, results, chunks, console)


def print_tables(
    args: Args,
    tables: Mapping[int, PublishedTable],
    columns: Sequence[Column],
    lacking: Mapping[str, str],
    results: ResultsFolder,
    console: Console,
) -> None:
    """Print the tables, what is missing in them, and what a reader has to know."""
    has_answers = bool(results.cells())
    if has_answers and not args.dry_run:
        summary = write_report(results, with_published=True)
    else:
        summary = summarize_folder(results, with_published=True)
    for number, table in tables.items():
        names = " and ".join(title for title, _ in table.datasets.values())
        what = f"Table {number}, {table.title}: " if table.title else ""
        rows = with_missing(published_rows(summary, table), args.policy, lacking)
        console.print(text_table(rows, f"{what}{names}, mIoU * 100"))
    for column in columns:
        if column.missing:
            console.print(f"{column.title} ({column.name}): {column.missing}")
    for policy, reason in lacking.items():
        console.print(f"{policy}: {reason}")
    for note in filter(None, map(licence_note, args.policy)):
        console.print(note)
    notes = report_notes(summary) if has_answers else [f"(published): printed in {PAPER}, not measured here."]
    for note in notes:
        console.print(as_flags(note, evaluate.Args))
    if has_answers and not args.dry_run:
        console.print(f"report: {results.path / 'report.md'}")


def with_missing(rows: list[list[str]], policies: Sequence[str], lacking: Mapping[str, str]) -> list[list[str]]:
    """Return a table with a row for each policy that has no figure in it, which says so.

    Args:
        rows: The heading, our rows and the published ones.
        policies: All that were asked for.
        lacking: What some of them lack, by policy.
    """
    there = {row[0] for row in rows}
    marks = {policy: "weights missing" if policy in lacking else "not evaluated" for policy in policies}
    num_own = 1 + sum("(published," not in row[0] for row in rows[1:])
    added = [[f"{policy} ({marks[policy]})", *[""] * (len(rows[0]) - 1)] for policy in policies if policy not in there]
    return [*rows[:num_own], *added, *rows[num_own:]]


if __name__ == "__main__":
    main()
