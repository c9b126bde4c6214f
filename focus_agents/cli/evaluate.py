r"""How well policies localize: greedy answers to episodes that they have not seen, scored by IoU.

How to run (the model that comes with the package, on identities that it was not trained on):
    focus evaluate

Several policies, and a data set on disk; answers of several calls in one folder make one table:
    focus evaluate --policy random center copy_support vlm:focus-small --output-dir runs/table
    focus evaluate --policy random center copy_support --dataset got10k --data-root /data/got10k \
        --split val --output-dir runs/table --paper-table

The control in which the supports are those of other episodes:
    focus evaluate --shuffle-supports

Results: report.md and summary.json, a line for each episode in answers/, and pictures in sheets/. After an
interruption, the same command with the same --output-dir answers what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import ray
import torch
from annotated_types import Ge
from rich.console import Console

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.common import DataArguments, PolicyArguments, PolicyNames, RayArguments, run_path
from focus_agents.cli.errors import as_flags, user_errors, work_errors
from focus_agents.errors import CheckpointError
from focus_agents.evaluation.report import report_notes, report_tables, write_report
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.evaluation.run import Chunk, EvaluationPlan, pending_chunks, run_chunks
from focus_agents.evaluation.sheets import write_sheet
from focus_agents.reports.tables import text_table
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS
from focus_agents.runs.progress import progress_bar
from focus_agents.settings import Settings, as_dict
from focus_env.errors import DatasetError, MissingDependencyError, StorageError

PIPED_WIDTH = 160
OLD_FLAGS = {"--validation-root": None, "--validation-split": None}


@dataclass(frozen=True, kw_only=True)
class WorkerArguments(RayArguments):
    """The processes that answer, and where Ray runs them."""

    num_workers: Annotated[int, Ge(0)] = 0
    """Ray processes that answer; 0 answers in this process."""
    num_gpus_per_worker: Annotated[float, Ge(0)] = 0
    """GPUs of each, fractions allowed."""


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """How well policies localize."""

    policy: PolicyNames = ("vlm:focus-small",)
    shots: tuple[int, ...] = (1, 2, 4)
    """Support pictures per episode; each number in turn, on the same queries."""
    num_episodes: Annotated[int, Ge(1)] = 512
    """Episodes, from the split's front; fewer if it has fewer."""
    batch_size: Annotated[int, Ge(1)] = 32
    """Episodes answered together."""
    max_completion_tokens: Annotated[int, Ge(1)] = MAX_COMPLETION_TOKENS
    """Tokens at which an answer is cut."""
    output_dir: Path | None = None
    """Folder of the results; one that is there already is gone on with, and may get further policies, data sets and
    shots. Default: runs/evaluation and the time of the start."""
    label: str | None = None
    """Name of the data set in tables and files; default: that of --dataset. The paper's rows stand beside tao, got10k,
    lasot and perseg."""
    retry_failed: bool = False
    """Ask again what an API failed to answer in an earlier call."""
    paper_table: bool = False
    """Show the paper's rows beside ours, marked as published."""
    data: DataArguments = DataArguments(split="test", protocol="focus")
    policies: PolicyArguments = PolicyArguments()
    cluster: WorkerArguments = WorkerArguments()


def main() -> None:
    quiet_libraries()
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    with user_errors(Args):
        args = parse(Args, __doc__, old_flags=OLD_FLAGS)
        plan, results, chunks = check_arguments(args)
    console.print(f"results: {results.path}", highlight=False, markup=False)
    answer_chunks(args, plan, results, chunks, console)
    answered = {chunk.cell for chunk in chunks}
    for cell in plan.cells():
        if cell in answered or not results.sheet(cell).exists():
            write_sheet(results, cell, plan.episodes[cell.shots])
    with user_errors(Args):  # the folder may hold files of earlier calls
        summary = write_report(results, with_published=args.paper_table)
    for title, rows in report_tables(summary).items():
        console.print(text_table(rows, title))
    for note in report_notes(summary):
        console.print(as_flags(note, Args), highlight=False, markup=False)
    places = f"report: {results.path / 'report.md'}\npictures: {results.path / 'sheets'}"
    console.print(places, highlight=False, markup=False)


def check_arguments(args: Args) -> tuple[EvaluationPlan, ResultsFolder, list[Chunk]]:
    """Find all that can be wrong, before Ray or a model starts."""
    for name, values in (("policy", args.policy), ("shots", args.shots)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}: expected one or several different ones, got {values}")
    check_devices(args)
    plan = EvaluationPlan(
        policies={text: args.policies.spec(text) for text in args.policy},
        dataset=args.label or args.data.dataset,
        episodes={shots: args.data.load(shots=shots) for shots in args.shots},
        num_episodes=args.num_episodes,
        max_completion_tokens=args.max_completion_tokens,
        batch_size=args.batch_size,
        num_workers=args.cluster.num_workers,
        num_gpus_per_worker=args.cluster.num_gpus_per_worker,
    )
    results = ResultsFolder.open(
        args.output_dir or run_path(Path("runs"), None, "evaluation"),
        data={plan.dataset: as_dict(args.data)},
        policies=plan.policy_settings(),
        cells=plan.cells(),
    )
    return plan, results, pending_chunks(plan, results, retry_failed=args.retry_failed)


def check_devices(args: Args) -> None:
    """See that policies can compute where they are asked to."""
    device, workers = args.policies.device, args.cluster
    num_gpus = workers.num_workers * workers.num_gpus_per_worker
    if workers.num_workers == 0:
        args.policies.check_device()
    elif device != "cpu" and num_gpus == 0:
        raise ValueError(f"--device {device}: workers see no GPU without --num-gpus-per-worker")
    elif workers.ray_address is None and num_gpus > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus-per-worker {workers.num_gpus_per_worker}: {workers.num_workers} workers need more than the "
            f"{torch.cuda.device_count()} GPUs of this machine"
        )


def answer_chunks(
    args: Args, plan: EvaluationPlan, results: ResultsFolder, chunks: list[Chunk], console: Console
) -> None:
    """Answer what is missing. A policy that raises ends the run with its traceback."""
    if not chunks:
        return
    if plan.num_workers:
        args.cluster.start_ray(num_processes=plan.num_workers, console=console)
    num_episodes = sum(len(chunk.indices) for chunk in chunks)
    expected = work_errors(Args, console, CheckpointError, DatasetError, MissingDependencyError, StorageError)
    try:
        with expected, progress_bar("episodes", num_episodes, console) as move_to:
            run_chunks(plan, results, chunks, on_done=move_to)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
