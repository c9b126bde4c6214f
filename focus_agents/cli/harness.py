r"""Write our episodes as a task of lmms-eval and a data set of VLMEvalKit, two harnesses for many models.

How to run; the command writes a folder that both harnesses read:
    focus harness --dataset lasot --data-root /data/lasot --split iploc_test --protocol iploc --shots 4 \
        --output runs/harness/focus_lasot_4_shot

Then, with lmms-eval or a clone of VLMEvalKit:
    lmms_eval --model qwen2_5_vl_chat --model_args pretrained=Qwen/Qwen2.5-VL-7B-Instruct \
        --tasks focus_lasot_4_shot --include_path runs/harness/focus_lasot_4_shot
    python -m focus_agents.integrations.vlmevalkit runs/harness/focus_lasot_4_shot VLMEvalKit/run.py \
        --model Qwen2.5-VL-7B-Instruct

Prompts, parser and scores are those of `focus evaluate`. Boxes are in the template's own unit; if a model writes
another unit, name that unit by `--frame`. The words of your own template are written into the folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge

from focus_agents.cli.budget import tell_fewer
from focus_agents.cli.command_line import parse
from focus_agents.cli.data_arguments import DataArguments
from focus_agents.cli.data_checks import untold_absence
from focus_agents.cli.errors import make_console, user_errors, warn
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS
from focus_agents.settings import Ceiling, Settings
from focus_env.boxes import CoordinateFrame


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Write our episodes for other harnesses."""

    data: DataArguments = DataArguments(split="test", protocol="focus")
    shots: Annotated[int, Ceiling(256)] = 4
    """Support pictures per episode, at least 1."""
    num_episodes: Annotated[int, Ge(1)] = 512
    """Number of episodes, from the front of the split; fewer if the split has fewer."""
    template: str = "default"
    """Prompt wording."""
    frame: Annotated[
        CoordinateFrame | None,
        tyro.conf.arg(help="Unit in which boxes are shown and answered: the model's. None: the template's own."),
    ] = None
    allow_absent: bool = False
    """Tell the model in the prompt what to answer if the object is absent."""
    max_completion_tokens: Annotated[int, Ge(1)] = MAX_COMPLETION_TOKENS
    """Tokens at which an answer is cut."""
    output: Path = Path("runs/harness/focus")
    """Folder to write; its name becomes the name of the task. Other files in the folder stay."""


def main() -> None:
    console = make_console(arguments=Args)
    with user_errors(Args):
        args = parse(Args, __doc__)
        args.data.load(shots=args.shots)
        from focus_agents.integrations.harness import served, write_request
        from focus_agents.integrations.lmms_eval import task_file, write_task

        name = task_name(args.output)
        task_file(args.output, name)  # before anything is written
        count = write_request(
            args.output,
            dataset=dataset_arguments(args),
            num_episodes=args.num_episodes,
            template=args.template,
            frame=args.frame,
            allow_absent=args.allow_absent,
            shuffle_supports=args.data.shuffle_supports,
        )
        warn(untold_absence(args.data, served(str(args.output)).template), Args)
        task = write_task(args.output, name, max_completion_tokens=args.max_completion_tokens)
    tell_fewer(console, "num_episodes", args.num_episodes, count, f"episodes of {args.data.dataset}")
    console.print(f"{task}: {count} episodes of {args.data.dataset}, {args.shots} shots")


def task_name(output: Path) -> str:
    """Return the name of the task, that of its folder.

    Raises:
        ValueError: If it is none by which a harness finds a task.
    """
    name = os.path.basename(os.path.abspath(output))
    if not name or not set(name).isdisjoint(", \t\n"):
        raise ValueError(
            f"output: expected a folder whose name can be a task's, without blanks and commas, got {str(output)!r}"
        )
    return name


def dataset_arguments(args: Args) -> dict[str, object]:
    """Return what `load_dataset` is to be given, paths absolute, since a harness may work in another folder."""
    asked = args.data.request(shots=args.shots)
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in asked.items()}


if __name__ == "__main__":
    main()
