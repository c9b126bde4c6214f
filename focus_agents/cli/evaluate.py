r"""Evaluate policies: greedy answers to unseen episodes, scored by IoU.

Evaluate the model that comes with the package, on identities outside of its training:
    focus evaluate

Compare several policies, also on a data set on disk; the answers of several calls in one folder make one table:
    focus evaluate --policy random center copy_support vlm:focus-small --output-dir runs/table
    focus evaluate --policy random center copy_support --dataset got10k --data-root /data/got10k \
        --split val --output-dir runs/table --paper-table

The control in which the supports are those of other episodes:
    focus evaluate --shuffle-supports

Results: report.md and summary.json, a line for each episode in answers/, and pictures in sheets/. After an
interruption, repeat the command with the same --output-dir: it answers the missing episodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from focus_agents.cli.budget import (
    MEASURING,
    Process,
    device_for,
    large_prompt,
    shape_of_model,
    tell_fewer,
    tell_memory,
)
from focus_agents.cli.cluster import Job, Need, RayArguments, leave_ray
from focus_agents.cli.command_line import parse
from focus_agents.cli.common import PolicyArguments, PolicyNames
from focus_agents.cli.data_arguments import DataArguments
from focus_agents.cli.data_checks import check_policy_flags, untold_absence
from focus_agents.cli.errors import as_flags, make_console, user_errors, warn, work_errors
from focus_agents.cli.runs import run_path
from focus_agents.errors import CheckpointError, PolicyError
from focus_agents.evaluation.notes import report_notes
from focus_agents.evaluation.report import report_tables, write_report
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.evaluation.sheets import write_sheet
from focus_agents.models.references import check_place
from focus_agents.policies.licences import licence_note
from focus_agents.policies.registry import POLICIES, parse_policy
from focus_agents.reports.tables import text_table
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS
from focus_agents.runs.progress import progress_bar
from focus_agents.runs.provenance import provenance
from focus_agents.runs.terminal import waiting
from focus_agents.settings import Settings, as_dict
from focus_env.errors import DatasetError, MissingDependencyError, StorageError
from focus_env.prompts import spelled_out
from focus_env.regular_files import require_possible
from focus_env.types import EpisodeDataset

if TYPE_CHECKING:  # a command line is read without torch and Ray
    from rich.console import Console

    from focus_agents.evaluation.answerer import Chunk
    from focus_agents.evaluation.run import EvaluationPlan

PIPED_WIDTH = 160
SHOTS = (1, 2, 4)
"""Supports per episode where nobody asks for a number of them."""
OLD_FLAGS = {"--validation-root": None, "--validation-split": None}


@dataclass(frozen=True, kw_only=True)
class WorkerArguments(RayArguments):
    """The processes that answer, and where Ray runs them."""

    num_workers: Annotated[int, Ge(0)] = 0
    """Ray processes that answer; 0 answers in this process."""
    num_gpus_per_worker: Annotated[float, Ge(0)] = 0
    """GPUs of each worker, fractions allowed."""

    def needs(self) -> list[Need]:
        """Return the resources that an evaluation asks of Ray; a Ray started here has a core for each worker."""
        num_cpus = 0 if self.ray_address is None else 1
        return [
            Need(setting="num_gpus_per_worker", num_processes=self.num_workers, num_gpus=self.num_gpus_per_worker),
            Need(setting="num_workers", num_processes=self.num_workers, num_cpus=num_cpus),
        ]


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Evaluate policies."""

    policy: PolicyNames = ("vlm:focus-small",)
    shots: tuple[int, ...] = SHOTS
    """Support images per episode; each number in turn, on the same queries. Without the flag a store uses its own
    number."""
    num_episodes: Annotated[int, Ge(1)] = 512
    """Number of episodes, from the front of the split; fewer if the split has fewer."""
    batch_size: Annotated[int, Ge(1)] = 32
    """Episodes answered together."""
    max_completion_tokens: Annotated[int, Ge(1)] = MAX_COMPLETION_TOKENS
    """Tokens at which an answer is cut."""
    output_dir: Path | None = None
    """Folder of the results. An existing folder continues, and may get further policies, data sets and shots. None:
    runs/evaluation and the time of the start."""
    label: str | None = None
    """Name of the data set in tables and files; None: the name in --dataset. The paper has rows for tao, got10k, lasot
    and perseg."""
    retry_failed: bool = False
    """Repeat the questions that an API failed to answer in an earlier call."""
    paper_table: bool = False
    """Show the paper's rows beside yours, marked as published."""
    data: DataArguments = DataArguments(split="test", protocol="focus")
    policies: PolicyArguments = PolicyArguments()
    cluster: WorkerArguments = WorkerArguments()

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags of a command line that have no effect.

        Raises:
            ValueError: If there is such a flag.
        """
        check_policy_flags(given, self.policy)
        if "shots" in given and self.shots == SHOTS and self.data.has_own_shots:
            raise ValueError(f"shots: the data set {self.data.dataset!r} has its own number of supports; leave it out")
        if self.cluster.num_workers == 0:
            for name in ("num_gpus_per_worker", "ray_address", "dashboard"):
                if name in given:
                    raise ValueError(f"{name}: expected `num_workers` beside it; without workers no Ray is started")


def main() -> None:
    console = make_console(arguments=Args)
    if not console.is_terminal:
        console = make_console(width=PIPED_WIDTH, arguments=Args)
    with user_errors(Args):
        args = read_words()
        episodes = check_words(args)
        console.print(f"results: {results_path(args)}")  # Ray and torch take their time
        with waiting(console, "loading policies"):
            plan, results, chunks = check_arguments(args, episodes)
        for spec in plan.policies.values():
            warn(spec.other_prompt(), Args)
            if spec.entry.load_template is not None or spec.entry.resizes_pictures:  # a model that reads the prompt
                warn(untold_absence(args.data, spec.load_template()), Args)
        there = min(map(len, plan.episodes.values()))
        tell_fewer(console, "num_episodes", plan.num_episodes, there, f"episodes of {plan.dataset}")
        if chunks:
            tell_fewer(console, "num_workers", plan.num_workers, len(chunks), "batches left to answer")
            tell_budget(args, plan, console)
    for note in filter(None, map(licence_note, args.policy)):
        console.print(note)
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
        console.print(as_flags(note, Args))
    places = f"report: {results.path / 'report.md'}\npictures: {results.path / 'sheets'}"
    console.print(places)


def read_words(words: Sequence[str] | None = None) -> Args:
    """Read a command line; None: this process's."""
    return parse(Args, __doc__, words=words, old_flags=OLD_FLAGS)


def results_path(args: Args) -> Path:
    """Return the folder of the results."""
    return args.output_dir or run_path(Path("runs"), None, "evaluation")


def check_words(args: Args) -> dict[int, EpisodeDataset]:
    """Check the arguments before Ray or torch is imported, and return the episodes by the number of shots."""
    for name, values in (("policy", args.policy), ("shots", args.shots)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}: expected one or several different ones, got {values}")
    if same := _same_policies(args.policy):
        raise ValueError(f"policy: expected one or several different ones, got {same[0]!r} and {same[1]!r}, the same")
    check_devices(args)
    if args.output_dir is not None:
        require_possible(args.output_dir / "config.json")
        ResultsFolder(args.output_dir).cells()  # no folder of something else
    args.cluster.listen_here()
    spelled_out(args.policies.template)
    for text in args.policy:
        entry, argument = parse_policy(text)
        if not entry.is_model:
            args.policies.spec(text)
        elif entry.load_template is not None:
            check_place(argument)
    return args.data.load_by_shots(args.shots, default=SHOTS, num_episodes=args.num_episodes)


def check_arguments(
    args: Args, episodes: Mapping[int, EpisodeDataset]
) -> tuple[EvaluationPlan, ResultsFolder, list[Chunk]]:
    """Check the rest of the arguments, before Ray or a model starts.

    Args:
        args: Arguments that have passed `check_words`.
        episodes: The episodes that `check_words` returned.
    """
    if args.cluster.num_workers or not all(map(_is_light, args.policy)):
        args.cluster.import_ray()
    from focus_agents.evaluation.run import EvaluationPlan, pending_chunks

    plan = EvaluationPlan(
        policies={text: args.policies.spec(text) for text in args.policy},
        dataset=args.label or args.data.dataset,
        episodes=dict(episodes),
        num_episodes=args.num_episodes,
        max_completion_tokens=args.max_completion_tokens,
        batch_size=args.batch_size,
        num_workers=args.cluster.num_workers,
        num_gpus_per_worker=args.cluster.num_gpus_per_worker,
    )
    plan.check_supports()
    if args.cluster.num_workers:
        args.cluster.connect(args.cluster.needs(), job=Job(folder=results_path(args)))
    results = ResultsFolder.open(
        results_path(args),
        data={plan.dataset: as_dict(args.data)},
        policies=plan.policy_settings(),
        cells=plan.cells(),
        code=provenance(),
    )
    return plan, results, pending_chunks(plan, results, retry_failed=args.retry_failed)


def _is_light(policy: str) -> bool:
    """Tell whether a policy needs neither torch nor Ray: a policy of the package without a model."""
    entry, _ = parse_policy(policy)
    return not entry.is_model and POLICIES.find(entry.name) is not None


def _same_policies(texts: Sequence[str]) -> tuple[str, str] | None:
    """Return two texts that name the same policy with the same argument, if there are any."""
    known: dict[tuple[str, str], str] = {}
    for text in texts:
        entry, argument = parse_policy(text)
        if (other := known.setdefault((entry.name, argument), text)) != text:
            return other, text
    return None


def check_devices(args: Args) -> None:
    """Check that policies can compute on the device that was asked for."""
    device, workers = args.policies.device, args.cluster
    num_gpus = workers.num_workers * workers.num_gpus_per_worker
    if workers.num_workers == 0:
        args.policies.check_device()
    elif device not in ("auto", "cpu") and num_gpus == 0:
        raise ValueError(f"--device {device}: workers see no GPU without --num-gpus-per-worker")
    elif workers.ray_address is None and num_gpus > 0:
        import torch  # here: a command line is read without it

        if num_gpus > (found := torch.cuda.device_count()):
            raise ValueError(
                f"--num-gpus-per-worker {workers.num_gpus_per_worker}: {workers.num_workers} workers need more than "
                f"the {found} GPUs of this machine"
            )


def tell_budget(args: Args, plan: EvaluationPlan, console: Console) -> None:
    """Print the memory of each model that answers in our own processes.

    Raises:
        ValueError: If a model needs more memory than there is.
    """
    specs = [spec for spec in plan.policies.values() if parse_policy(spec.text)[0].is_model]
    specs = [spec for spec in specs if "max_image_tokens" in spec.entry.options]
    if not specs:  # nothing here needs torch
        return
    from focus_agents.evaluation.answerer import MEMORY_ADVICE
    from focus_agents.models import budget
    from focus_agents.models.devices import CPU, chosen_device
    from focus_agents.models.loading import load_processor
    from focus_agents.models.pictures import picture_budget

    workers = args.cluster
    gpus = workers.num_gpus_per_worker if plan.num_workers else float(chosen_device(args.policies.device) != CPU)
    episodes = plan.episodes[max(plan.episodes)]
    for spec in specs:
        if (shape := shape_of_model(model := spec.argument)) is None:
            continue
        limit = picture_budget(model, validation=spec.max_image_tokens).validation
        processor = load_processor(model, max_image_tokens=limit)
        with waiting(console, MEASURING, is_announced=False):
            prompt = large_prompt(processor, spec.load_template(), episodes, shape)
        if prompt is None:
            continue
        answered = budget.answering(
            shape, spec.precision, prompt=prompt, num_prompts=plan.batch_size, answer_tokens=plan.max_completion_tokens
        )
        weights = {"weights": shape.parameters * budget.NUMBER_BYTES[spec.precision]}
        memory = {"answering": budget.add(weights, answered)}
        process = Process(name=spec.text, memory=memory, num=max(1, plan.num_workers), num_gpus=gpus)
        device = device_for(uses_gpu=gpus > 0, ray_address=workers.ray_address, is_own=plan.num_workers == 0)
        most = "the model's own limit" if limit is None else f"{limit:,} tokens"
        console.print(f"{spec.text}: prompts of {prompt.describe()}; most of a picture: {most}", soft_wrap=True)
        tell_memory(console, [process], device=device, advice={"answering": MEMORY_ADVICE})


def answer_chunks(
    args: Args, plan: EvaluationPlan, results: ResultsFolder, chunks: list[Chunk], console: Console
) -> None:
    """Answer the missing episodes. A policy that raises ends the run with its traceback."""
    if not chunks:
        return
    from focus_agents.evaluation.run import run_chunks

    if plan.num_workers:
        args.cluster.start_ray(num_processes=plan.num_workers, console=console, job=Job(folder=results.path))
    num_episodes = sum(len(chunk.indices) for chunk in chunks)
    kinds = (CheckpointError, DatasetError, MissingDependencyError, PolicyError, StorageError)
    expected = work_errors(Args, console, *kinds)
    try:
        with expected, progress_bar("episodes", num_episodes, console) as move_to:
            run_chunks(plan, results, chunks, on_done=move_to)
    finally:
        leave_ray(f"what was answered is in {results.path}", console=console)


if __name__ == "__main__":
    main()
