"""How well a model localizes: greedy answers to episodes that it has not seen, scored by IoU.

How to run (the model that comes with the package, on identities that it was not trained on):
    python experiments/evaluate.py

Another one, and the control in which the supports are those of other episodes:
    python experiments/evaluate.py --model runs/my-run/checkpoints/final --shots 1 2 4
    python experiments/evaluate.py --shuffle-supports
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import gymnasium
import tyro
from rich.console import Console
from rich.table import Table

from focus_agents.arguments import DataArguments, ModelArguments, quiet_libraries, user_errors
from focus_agents.evaluate import evaluate
from focus_agents.models.loading import Precision
from focus_agents.policies.focus import FocusPolicy
from focus_agents.reporting import progress_bar
from focus_env.datasets.sampler import SamplingProtocol
from focus_env.env import ENV_ID
from focus_env.metrics import bootstrap_interval, summarize


@dataclass(frozen=True, kw_only=True)
class Args(DataArguments, ModelArguments):
    """How well a model localizes."""

    split: str = "test"
    """Split to answer."""
    protocol: SamplingProtocol = "focus"
    """How episodes are cut from videos: focus and iploc as these papers evaluate, or random frames."""
    shots: tuple[int, ...] = (1, 2, 4)  # type: ignore[assignment]
    """Support pictures per episode; each number in turn, on the same queries."""
    num_episodes: int = 512
    """Episodes, from the split's front; fewer if it has fewer."""
    batch_size: int = 32
    """Episodes answered together."""
    max_completion_tokens: int = 50
    """Tokens at which an answer is cut."""
    device: str = "cpu"
    """Where to compute, e.g. cuda."""
    precision: Precision = "fp32"
    """bf16 computes in bfloat16."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    quiet_libraries()
    console = Console()
    with user_errors():
        policy = FocusPolicy.from_pretrained(
            args.source, device=args.device, precision=args.precision, max_image_tokens=args.max_image_tokens
        )
        template = args.load_template()
        datasets = {shots: dataclasses.replace(args, shots=shots).load_training() for shots in args.shots}
    table = Table("shots", "mIoU * 100", "95% interval", "IoU 0.5", "IoU 0.75", "parsed", "episodes", "s / episode")
    for shots, dataset in datasets.items():
        indices = range(min(args.num_episodes, len(dataset)))
        started = time.perf_counter()
        with progress_bar(f"{shots} shots", len(indices), console) as move_to:
            answers = evaluate(
                gymnasium.make(ENV_ID, dataset=dataset, template=template),
                policy,
                indices,
                max_completion_tokens=args.max_completion_tokens,
                batch_size=args.batch_size,
                on_batch=move_to,
            )
        seconds = (time.perf_counter() - started) / len(answers)
        scores = summarize(answers)
        low, high = bootstrap_interval([answer.credit for answer in answers])
        table.add_row(
            str(shots),
            f"{100 * scores['miou_all']:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{scores['acc_50']:.1%}",
            f"{scores['acc_75']:.1%}",
            f"{scores['parse_rate']:.1%}",
            str(len(answers)),
            f"{seconds:.3f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
