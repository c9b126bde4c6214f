"""Estimate the memory and the time of a run before it starts, and refuse one that cannot fit.

prompts: 2,002 tokens, 1,750 of them 5 pictures; in validation 6,232 tokens, ...; context 32,768; most of a picture: ...
memory by count: each worker 31.6 GB (weights 16.7, activations 14.0, ...) in training, 33.1 GB (...) in validation; ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from focus_agents.errors import CheckpointError
from focus_agents.runs.terminal import waiting
from focus_env.env import observe
from focus_env.prompts import IPLocTemplate, PromptTemplate
from focus_env.types import Episode, EpisodeDataset

if TYPE_CHECKING:  # a command line is read without torch
    from focus_agents.models.budget import Memory, PromptSize
    from focus_agents.models.devices import Device
    from focus_agents.models.pictures import PictureBudget
    from focus_agents.models.processing import VLMProcessor
    from focus_agents.models.shape import ModelShape

NUM_SAMPLED = 16
"""Episodes among which the one with the largest pictures is measured."""
MEASURING = "measuring prompts with large pictures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Processes that do the same work.

    Attributes:
        name: Their name, as in "each worker".
        memory: Memory of each process, by the part of its work.
        num: Number of processes.
        num_gpus: GPUs of each process, fractions allowed; 0: the process computes on the CPU.
    """

    name: str
    memory: Mapping[str, Memory]
    num: int = 1
    num_gpus: float = 0.0

    @property
    def most(self) -> tuple[str, float]:
        """The part of its work that takes most, and its bytes."""
        from focus_agents.models.budget import total

        return max(((part, total(memory)) for part, memory in self.memory.items()), key=lambda found: found[1])


def shape_of_model(name: str) -> ModelShape | None:
    """Return the sizes of a model; None: its configuration does not say them, and whoever loads it says why."""
    from focus_agents.models.loading import load_config
    from focus_agents.models.shape import shape_of

    try:
        return shape_of(load_config(name))
    except (CheckpointError, AttributeError, ImportError, TypeError, ValueError):
        return None


def large_prompt(
    processor: VLMProcessor, template: PromptTemplate, episodes: EpisodeDataset, shape: ModelShape
) -> PromptSize | None:
    """Measure the prompt of an episode with large pictures; None: none of the sampled episodes can be asked.

    Args:
        processor: What encodes prompts.
        template: What words them.
        episodes: Some of them are looked at.
        shape: Of the model that is asked.
    """
    from focus_agents.models.budget import PromptSize

    step = max(1, len(episodes) // NUM_SAMPLED)
    sampled = [episode for index in range(0, len(episodes), step) if (episode := _episode(episodes, index))]
    template = processor.fit_template(template)
    for episode in sorted(sampled, key=_num_pixels, reverse=True):
        own = template.for_episode(episode) if isinstance(template, IPLocTemplate) else template
        try:
            prompt = processor.encode(own.render(observe(episode)))
        except Exception:  # whatever a file or a data set of the user's own raises; it is named where it is asked
            continue
        return PromptSize.of(prompt, shape, image_token_id=processor.image_token_id)
    return None


def stage_prompts(
    model: str,
    template: PromptTemplate,
    pictures: PictureBudget,
    episodes: tuple[EpisodeDataset, EpisodeDataset],
    shape: ModelShape,
    console: Console,
) -> tuple[PromptSize, PromptSize] | None:
    """Measure a large prompt of a stage's training and one of its validation; None: none can be asked.

    Args:
        model: Name or folder.
        template: What words prompts.
        pictures: How large they are shown.
        episodes: Those to train on, and those to validate on.
        shape: Of the model.
        console: Where to say so, if it takes its time.
    """
    from focus_agents.models.loading import load_processor

    with waiting(console, MEASURING, is_announced=False):
        sizes = [
            large_prompt(load_processor(model, max_image_tokens=limit), template, part, shape)
            for part, limit in zip(episodes, (pictures.training, pictures.validation), strict=True)
        ]
    return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])


def device_for(*, uses_gpu: bool, ray_address: str | None, is_own: bool) -> Device | None:
    """Return what a run computes on; None: on other machines.

    Args:
        uses_gpu: Whether its processes have GPUs.
        ray_address: The cluster that it joins, if it does.
        is_own: Whether it computes in this process.
    """
    import torch

    from focus_agents.models.devices import CPU, CUDA, device_of

    if (ray_address is not None and not is_own) or (uses_gpu and not torch.cuda.is_available()):
        return None
    return device_of(CUDA if uses_gpu else CPU, is_own=is_own)


def _episode(episodes: EpisodeDataset, index: int) -> Episode | None:
    try:
        return episodes[index]
    except Exception:  # whatever a data set of the user's own raises; it is named where it is asked
        return None


def _num_pixels(episode: Episode) -> int:
    frames = [exemplar.frame for exemplar in episode.support] + [episode.query_frame]
    return sum(frame.image_wh[0] * frame.image_wh[1] for frame in frames)


def tell_fewer(console: Console, setting: str, asked: int, there: int, what: str) -> None:
    """Say that there are fewer of something than a setting asks for, if so.

    Args:
        console: Where to print.
        setting: Its name.
        asked: Its value.
        there: How many there are.
        what: What they are.
    """
    if there < asked:
        console.print(f"note: `{setting}` asks for {asked:,}, but there are {there:,} {what}")


def tell_validation(num_episodes: int, episodes: EpisodeDataset, console: Console) -> None:
    """Say that there are fewer episodes to validate on than are asked for, if so."""
    tell_fewer(console, "num_validation_episodes", num_episodes, len(episodes), "episodes to validate on")


def tell_prompts(
    console: Console, shape: ModelShape, pictures: PictureBudget, training: PromptSize, validation: PromptSize
) -> None:
    """Print how large pictures are shown, and how large prompts are."""
    line = f"prompts: {training.describe()}"
    if validation != training:
        line += f"; in validation {validation.describe()}"
    console.print(f"{line}; context {shape.context:,}; most of a picture: {pictures.describe()}", soft_wrap=True)


def tell_memory(
    console: Console,
    processes: Sequence[Process],
    *,
    device: Device | None,
    advice: Mapping[str, str],
    step_flops: float | None = None,
) -> None:
    """Print what processes will hold, and warn where that is more than is free.

    Args:
        console: Where to print.
        processes: All of a run.
        device: A GPU of those that compute on one, or this machine's memory; None: they run elsewhere.
        advice: By the part of the work, what helps where it does not fit.
        step_flops: Operations of a process in an optimizer step, if it takes steps.

    Raises:
        ValueError: If a process needs more than there is at all.
    """
    from focus_agents.models.budget import COMPUTE_SHARE, describe, in_words

    texts = []
    for process in processes:
        parts = [f"{describe(memory)} in {part}" for part, memory in process.memory.items()]
        texts.append(f"{process.name} {', '.join(parts)}")
    line = f"memory by count: {'; '.join(texts)}"
    if device is not None:
        free = device.total if device.free is None else device.free
        line += f"; {device.name} has {in_words(free)}" + ("" if device.free is None else " free")
        if step_flops is not None and device.peak_flops is not None:
            line += f"; a step takes {step_flops / (COMPUTE_SHARE * device.peak_flops):.1f} s or so, by its operations"
    console.print(line, soft_wrap=True)
    if device is None:
        return
    for needed, limit, process in _demands(processes, device):
        part, _ = process.most
        message = f"{process.name} needs {in_words(needed)} in {part} by count, {device.name} has"
        if needed > device.total:
            raise ValueError(f"memory: {message} {in_words(device.total)}; {advice[part]}")
        if needed > limit:
            console.print(f"warning: {message} {in_words(limit)} for it; {advice[part]}", style="yellow")


def _demands(processes: Sequence[Process], device: Device) -> list[tuple[float, float, Process]]:
    """List the demands on each device, its memory, and the process that asks: one on a GPU, or all on the CPU."""
    from focus_agents.models.budget import RESERVE

    free = device.total if device.free is None else device.free
    if device.is_gpu:
        usable = free * (1 - RESERVE)
        return [(p.most[1], usable * min(1.0, p.num_gpus), p) for p in processes if p.num_gpus > 0]
    own = [process for process in processes if process.num_gpus == 0]
    if not own:
        return []
    largest = max(own, key=lambda process: process.most[1])
    return [(sum(process.num * process.most[1] for process in own), free, largest)]


def tell_unused_gpu(console: Console, processes: Sequence[Process], setting: str) -> None:
    """Say that this machine has a GPU where a run uses none.

    Args:
        console: Where to print.
        processes: All of the run.
        setting: What would give it one, as in "`use_gpu`".
    """
    import torch

    if torch.cuda.is_available() and not any(process.num_gpus for process in processes):
        console.print(f"note: this machine has a GPU, and this run computes on the CPU; {setting} changes that")
