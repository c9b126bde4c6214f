"""Read a recipe's commands by their own parsers, and estimate their cost: GPUs, memory, hours."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focus_agents.cli import data, evaluate, grpo, paper, sft
from focus_agents.cli.command_line import parse
from focus_agents.evaluation.published import DATA
from focus_agents.settings import join

if TYPE_CHECKING:  # a command line is read without torch
    from focus_agents.models.budget import Memory, PromptSize
    from focus_agents.models.published import Base
    from focus_agents.studies.recipes.gpus import GPU
    from focus_agents.studies.recipes.recipe import Recipe, Step

PARSERS: dict[str, Any] = {
    "sft": sft.parse_arguments,
    "grpo": grpo.parse_arguments,
    "evaluate": evaluate.read_words,
    "paper": lambda words: parse(paper.Args, paper.__doc__, words=words),
    "data": lambda words: parse(data.Args, data.__doc__, words=words),
}
"""By command, what reads its words."""
SECONDS_PER_HOUR = 3600
OWN_MODELS = ("focus-small", "tiny", "small")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The memory and time of a command, estimated and not measured.

    Attributes:
        num_gpus: Number of GPUs of all its processes.
        gigabytes: Memory of the fullest GPU, in 1e9 bytes.
        hours: Hours on these GPUs, by the number of operations.
        rest: Costs that the estimate leaves out.
    """

    num_gpus: float
    gigabytes: float
    hours: float
    rest: tuple[str, ...] = ()


def parse_step(recipe: Recipe, step: Step, words: Sequence[str]) -> Any:
    """Return the arguments of a step's command, read by its own parser.

    Raises:
        ValueError: If the command does not exist or cannot be read; the message names the step.
    """
    where = f"{recipe.path}, step {step.name!r}"
    if words[1] not in PARSERS:
        raise ValueError(f"{where}: expected one of the commands {', '.join(PARSERS)}, got focus {words[1]}")
    if step.episodes is not None and words[1] != "evaluate":
        raise ValueError(f"{where}: episodes: expected a step of focus evaluate, got focus {words[1]}; leave it out")
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            return PARSERS[words[1]](list(words[2:]))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except SystemExit as error:
        reason = " ".join(told.getvalue().replace("│", " ").partition("For full helptext")[0].split())
        raise ValueError(f"{where}: focus {words[1]} does not read this command: {reason:.500}") from error


def run_folder(args: Any, command: str) -> Path | None:
    """Return the folder that a training is going to write; None for other commands."""
    return args.run.path(command) if command in ("sft", "grpo") and args.run.name is not None else None


def check_order(recipe: Recipe, steps: Sequence[tuple[Step, list[str], Path | None]]) -> None:
    """See that each training has a folder of its own, and that steps read no folder that is not written yet.

    Args:
        recipe: The recipe.
        steps: In their order, each with its words and, of a training, its folder.

    Raises:
        ValueError: If not; the message names the steps.
    """
    writers: dict[str, Step] = {}
    for step, _, folder in steps:
        if folder is not None and (other := writers.setdefault(os.path.abspath(folder), step)) is not step:
            raise ValueError(
                f"{recipe.path}, step {step.name!r}: expected a `name` of its own, got {folder}, where step "
                f"{other.name!r} writes"
            )
    later = dict(writers)
    for step, words, folder in steps:
        for word in words[2:]:
            for path, writer in later.items():
                if _is_within(word, path) and not os.path.exists(path):
                    raise ValueError(
                        f"{recipe.path}, step {step.name!r}: expected the output of an earlier step, got {word}, which "
                        f"step {writer.name!r} is going to write; move that before this one"
                    )
        if folder is not None:
            later.pop(os.path.abspath(folder))


def _is_within(word: str, folder: str) -> bool:
    """Return whether a word of a command, such as `vlm:runs/a/checkpoints/final`, is a path in a folder."""
    texts = {word, word.partition(":")[2], word.partition("=")[2]} - {""}
    paths = [os.path.abspath(os.path.expanduser(text)) for text in texts if "\0" not in text]
    return any(path == folder or path.startswith(folder + os.sep) for path in paths)


def count_step(recipe: Recipe, step: Step, command: str, args: Any) -> Count | None:
    """Count what a step takes; None: the recipe names no base, or the command runs no model of ours.

    Raises:
        ValueError: If the recipe names a base and no GPU.
    """
    from focus_agents.models.published import BASES
    from focus_agents.studies.recipes.gpus import GPUS

    if not recipe.base or command in ("data", "paper"):
        return None
    if recipe.gpu not in GPUS:
        raise ValueError(f"{recipe.path}: gpu: expected one of {', '.join(GPUS)}, got {recipe.gpu!r}")
    base, gpu = BASES[recipe.base], GPUS[recipe.gpu]
    if command == "sft":
        return _count_sft(args, base, gpu, recipe.picture_wh)
    if command == "grpo":
        return _count_grpo(args, base, gpu, recipe.picture_wh)
    return _count_evaluate(args, base, gpu, recipe.picture_wh, step.episodes)


def _stage_prompts(args: Any, base: Base, picture_wh: tuple[int, int]) -> tuple[PromptSize, PromptSize]:
    training = args.model.max_image_tokens
    validation = args.model.validation_max_image_tokens or training
    shots = args.data.shots
    return (
        base.prompt(picture_wh, shots=shots, max_image_tokens=training),
        base.prompt(picture_wh, shots=shots, max_image_tokens=validation),
    )


def _num_validations(num_steps: int, interval: int) -> int:
    return 2 + ((num_steps - 1) // interval if interval else 0)


def _gigabytes(*parts: Memory) -> float:
    from focus_agents.models import budget

    return max(map(budget.total, parts)) / budget.GB


def _count_sft(args: Any, base: Base, gpu: GPU, picture_wh: tuple[int, int]) -> Count:
    from focus_agents.models import budget
    from focus_agents.sft.budget import step_flops, worker_memory
    from focus_agents.studies.recipes.gpus import answering_seconds

    config, schedule, workers = args.config, args.validation, max(1, args.cluster.num_workers)
    prompts = _stage_prompts(args, base, picture_wh)
    shares = args.cluster.shard_weights
    memory = worker_memory(base.shape, config, schedule, prompts=prompts, num_workers=workers, shard_weights=shares)
    flops = config.num_steps * step_flops(base.shape, config, prompt=prompts[0], num_workers=workers)
    validating = _num_validations(config.num_steps, schedule.validation_interval) * answering_seconds(
        base.shape,
        config.precision,
        gpu,
        prompt=prompts[1],
        num_prompts=schedule.num_validation_episodes / workers,
        answer_tokens=schedule.max_completion_tokens,
        batch_size=schedule.validation_batch_size,
    )
    seconds = flops / (budget.COMPUTE_SHARE * gpu.flops) + validating
    num_gpus = workers if args.cluster.use_gpu else 0
    return Count(num_gpus=num_gpus, gigabytes=_gigabytes(*memory.values()), hours=seconds / SECONDS_PER_HOUR)


def _count_grpo(args: Any, base: Base, gpu: GPU, picture_wh: tuple[int, int]) -> Count:
    from focus_agents.grpo.budget import learner_memory, process_memory, sampler_memory, step_flops
    from focus_agents.grpo.settings import GRPOSettings
    from focus_agents.models import budget
    from focus_agents.studies.recipes.gpus import answering_seconds

    settings, cluster, shape = join(GRPOSettings, args.sampling, args.loss, args.learning), args.cluster, base.shape
    prompts, model = _stage_prompts(args, base, picture_wh), args.finetuning
    runners, learners = max(1, cluster.num_env_runners), max(1, cluster.num_learners)
    device_bytes = gpu.gigabytes * budget.GB
    if cluster.num_env_runners == cluster.num_learners == 0:
        memory = process_memory(shape, model, settings, prompts=prompts, device_bytes=device_bytes)
        num_gpus = cluster.num_gpus_per_learner
    else:
        memory = {
            **sampler_memory(shape, model, settings, prompts=prompts, device_bytes=device_bytes),
            "learning": learner_memory(shape, model, settings, prompt=prompts[0], num_learners=cluster.num_learners),
        }
        num_gpus = runners * cluster.num_gpus_per_env_runner + learners * cluster.num_gpus_per_learner
    groups = settings.groups_per_iteration
    steps = settings.num_passes * -(-groups // (settings.groups_per_step or groups))
    learning = steps * step_flops(shape, model, settings, prompt=prompts[0], num_learners=learners)
    sampling = answering_seconds(
        shape,
        model.precision,
        gpu,
        prompt=prompts[0],
        num_prompts=groups / runners,
        num_answers=settings.group_size,
        answer_tokens=settings.max_completion_tokens,
        batch_size=settings.rollout_batch_groups,
    )
    validating = answering_seconds(
        shape,
        model.precision,
        gpu,
        prompt=prompts[1],
        num_prompts=args.validation.num_validation_episodes / runners,
        answer_tokens=settings.max_completion_tokens,
        batch_size=settings.num_validated_together,
    )
    iteration = sampling + learning / (budget.COMPUTE_SHARE * gpu.flops)
    num_validations = _num_validations(settings.num_iterations, args.validation.validation_interval)
    seconds = settings.num_iterations * iteration + num_validations * validating
    return Count(num_gpus=num_gpus, gigabytes=_gigabytes(*memory.values()), hours=seconds / SECONDS_PER_HOUR)


def _count_evaluate(args: Any, base: Base, gpu: GPU, picture_wh: tuple[int, int], episodes: int | None) -> Count | None:
    from focus_agents.models import budget
    from focus_agents.studies.recipes.gpus import answering_seconds

    models = [text for text in args.policy if text.startswith("vlm:") and text[4:] not in OWN_MODELS]
    rest = tuple(text for text in args.policy if text not in models)
    if not models:
        return None
    known = DATA[args.data.dataset].num_episodes[1] if args.data.dataset in DATA else args.num_episodes
    num_prompts = min(args.num_episodes, episodes or known)
    precision, workers = args.policies.precision, max(1, args.cluster.num_workers)
    weights = {"weights": base.shape.parameters * budget.NUMBER_BYTES[precision]}
    memory, seconds = [], 0.0
    for shots in args.shots:
        prompt = base.prompt(picture_wh, shots=shots, max_image_tokens=args.policies.max_image_tokens)
        answered = budget.answering(
            base.shape,
            precision,
            prompt=prompt,
            num_prompts=args.batch_size,
            answer_tokens=args.max_completion_tokens,
        )
        memory.append(budget.add(weights, answered))
        seconds += len(models) * answering_seconds(
            base.shape,
            precision,
            gpu,
            prompt=prompt,
            num_prompts=num_prompts / workers,
            answer_tokens=args.max_completion_tokens,
            batch_size=args.batch_size,
        )
    num_gpus = args.cluster.num_workers * args.cluster.num_gpus_per_worker if args.cluster.num_workers else 1
    return Count(num_gpus=num_gpus, gigabytes=_gigabytes(*memory), hours=seconds / SECONDS_PER_HOUR, rest=rest)
