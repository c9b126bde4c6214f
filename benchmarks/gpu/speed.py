"""The seconds and memory of sampling and learning from one group, by each side."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import torch
from transformers import TrainerCallback

from benchmarks.gpu.rows import Row, TimeBudget
from benchmarks.measuring import memory_meter, now, time_meter
from benchmarks.step.checks import random_answers
from benchmarks.step.setup import LEARNING_RATE, LORA_RANK, Setup
from benchmarks.step.sides import generate, learn, sample
from benchmarks.step.trl_side import trl_trainer
from focus_agents.engine.forward import encode_images
from focus_agents.grpo.budget import learner_memory
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.integrations.trl import trl_processor
from focus_agents.models import budget
from focus_agents.models.adapters import base_model, family_of, model_parts
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.budget import PromptSize
from focus_agents.models.lean_adapters import lean_adapters
from focus_agents.models.settings import FinetuningSettings
from focus_agents.models.shape import ModelShape

SideName = Literal["ours", "repeated", "trl", "trl_vllm"]
SIDES: tuple[SideName, ...] = get_args(SideName)
SIDE_NAMES = {
    "ours": "ours",
    "repeated": "ours, prompts repeated",
    "trl": "TRL",
    "trl_vllm": "TRL with vLLM",
}
SETTINGS = FinetuningSettings(lora_rank=LORA_RANK, precision="bf16")
VLLM_SHARE = 0.3
"""Of the memory, for a second copy of the model."""


@dataclass(frozen=True)
class Work:
    """Operations of a side for one group, by the code's own cost model, which leaves attention's products out."""

    sampling: float
    learning: float

    @classmethod
    def of(cls, side: SideName, shape: ModelShape, prompt: PromptSize, group_size: int, answer_tokens: int) -> Work:
        """Count them.

        Args:
            side: TRL and prompts that are repeated put each answer behind a prompt of its own. TRL has no features of
                a frozen tower, and encodes the pictures for each answer, in sampling and again in learning.
            shape: Of the model.
            prompt: Its size.
            group_size: G.
            answer_tokens: T.
        """
        once = prompt.tokens + group_size * answer_tokens
        each = group_size * (prompt.tokens + answer_tokens)
        patches = float(prompt.patches)
        sampled, sampled_patches, learned, learned_patches = {
            "ours": (once, patches, once, 0.0),
            "repeated": (each, patches, each, 0.0),
            "trl": (each, group_size * patches, each, group_size * patches),
            "trl_vllm": (once, patches, each, group_size * patches),
        }[side]
        return cls(
            sampling=budget.forward_flops(shape, tokens=sampled, patches=sampled_patches),
            learning=budget.learning_flops(shape, SETTINGS, tokens=learned, patches=learned_patches),
        )

    @property
    def total(self) -> float:
        """Of a whole step."""
        return self.sampling + self.learning


@dataclass
class Readings:
    """Seconds of each round, and the most bytes that the first one held beyond what was held before it."""

    sampling: list[float] = field(default_factory=list)
    learning: list[float] = field(default_factory=list)
    memory: float = 0.0


def measure(setup: Setup, side: SideName, rounds: int, time_budget: TimeBudget) -> Readings:
    """Measure a side: a first round for memory, which warms up, then rounds for time, as many as there is time for."""
    with _made_ready(setup, side):
        if side.startswith("trl"):
            return _measure_trl(setup, side, rounds, time_budget)
        return _measure_ours(setup, side, rounds, time_budget)


@contextlib.contextmanager
def _made_ready(setup: Setup, side: SideName) -> Iterator[None]:
    """Let the model compute as the side does, and take back what the side has put around it."""
    model = base_model(setup.model)
    setup.optimizer.zero_grad()
    setup.use_stock_attention()
    if side == "ours":
        set_focus_attention(setup.model)
        family_of(setup.model).batch_pictures(model)
    try:
        yield
    finally:
        setup.optimizer.zero_grad()
        for block in getattr(model_parts(setup.model).vision_tower, "blocks", []):
            vars(block.attn).pop("forward", None)
        vars(setup.model).pop("forward", None)  # accelerate's, around the whole


def _measure_ours(setup: Setup, side: SideName, rounds: int, time_budget: TimeBudget) -> Readings:
    encoded = setup.collate(setup.encode())
    _, advantages = random_answers(setup)
    readings = Readings()
    sampled: list[tuple[Any, torch.Tensor]] = []

    def take_samples() -> None:
        # The frozen tower's features are kept for learning.
        with setup.precision():
            features = encode_images(setup.model, encoded)
            prompts = dataclasses.replace(encoded, images={}, image_rows={}, image_features=features)
            if side == "ours":
                with lean_adapters(setup.model):
                    sampled[:] = [(prompts, sample(setup, prompts))]
            else:
                sampled[:] = [(prompts, generate(setup, encoded))]

    def update() -> None:
        prompts, token_ids = sampled[0]
        learn(setup, prompts, token_ids, advantages, shared_prefix=side == "ours")
        torch.nn.utils.clip_grad_norm_(setup.trained, 1.0)
        setup.optimizer.step()
        setup.optimizer.zero_grad()

    for number in range(1 + rounds):
        start = time.monotonic()
        if number == 0:
            for step in (take_samples, update):
                with memory_meter(setup.device) as reading:
                    step()
                readings.memory = max(readings.memory, reading.amount)
        else:
            for step, seconds in ((take_samples, readings.sampling), (update, readings.learning)):
                with time_meter(setup.device) as reading:
                    step()
                seconds.append(reading.amount)
        if readings.learning and time.monotonic() - start > time_budget.left:
            break
    return readings


class _Rounds(TrainerCallback):
    """Measures TRL's steps from inside its loop: memory in the first, then time."""

    def __init__(self, setup: Setup, time_budget: TimeBudget) -> None:
        self.setup, self.time_budget = setup, time_budget
        self.readings = Readings()
        self.is_first = True
        self.sampling = 0.0
        self.opened = contextlib.ExitStack()

    def generate(self, inner: Callable[..., Any], *args: Any) -> Any:
        """Run TRL's sampling, from an idle device to an idle device."""
        if self.is_first:
            return inner(*args)
        start = now(self.setup.device)  # a meter within the step's would collect garbage on the step's time
        result = inner(*args)
        self.sampling = now(self.setup.device) - start
        return result

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.start = time.monotonic()
        meter = memory_meter if self.is_first else time_meter
        self.reading = self.opened.enter_context(meter(self.setup.device))

    def on_step_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.opened.close()
        if self.is_first:
            self.readings.memory = self.reading.amount
        else:
            self.readings.sampling.append(self.sampling)
            self.readings.learning.append(self.reading.amount - self.sampling)
            control.should_training_stop |= time.monotonic() - self.start > self.time_budget.left
        self.is_first = False


def _measure_trl(setup: Setup, side: SideName, rounds: int, time_budget: TimeBudget) -> Readings:
    seen = _Rounds(setup, time_budget)
    with contextlib.ExitStack() as stack:
        options = stack.enter_context(_vllm_options(setup)) if side == "trl_vllm" else {}
        steps: Any = {"learning_rate": LEARNING_RATE, "max_grad_norm": 1.0, **options}
        stack.enter_context(seen.opened)
        trainer = stack.enter_context(trl_trainer(setup, 1 + rounds, seen, **steps))
        inner = trainer._generate_and_score_completions
        with mock.patch.object(trainer, "_generate_and_score_completions", lambda *args: seen.generate(inner, *args)):
            trainer.train()
    return seen.readings


@contextlib.contextmanager
def _vllm_options(setup: Setup) -> Iterator[dict[str, Any]]:
    """Have TRL sample by vLLM in this process, which takes the weights from the model before it samples.

    Not run yet: here is neither a GPU nor vLLM.
    """
    from trl.generation import vllm_generation

    model = base_model(setup.model)
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        trl_processor(setup.processor).save_pretrained(Path(folder))
        dummy = {"load_format": "dummy"}
        make = vllm_generation.LLM
        with (
            mock.patch.object(vllm_generation, "LLM", lambda **known: make(**known | dummy)),
            mock.patch.object(model, "name_or_path", folder),
        ):
            yield {
                "use_vllm": True,
                "vllm_mode": "colocate",
                "vllm_gpu_memory_utilization": VLLM_SHARE,
                "generation_kwargs": {"ignore_eos": True, "min_tokens": setup.size.answer_tokens},
            }


def speed_row(
    side: SideName, readings: Readings, work: Work, setup: Setup, shape: ModelShape, peak: float | None
) -> Row:
    """Return the figures of a row.

    Args:
        side: Whose they are.
        readings: Of its rounds; the median counts.
        work: What is counted of a round.
        setup: What was measured.
        shape: The model's.
        peak: Operations a second of the device; None: not known.
    """
    sampling, learning = statistics.median(readings.sampling), statistics.median(readings.learning)
    held = sum(p.numel() * p.element_size() for p in setup.model.parameters())
    row = {
        "status": "measured",
        "rounds": len(readings.learning),
        "sampling_seconds": sampling,
        "learning_seconds": learning,
        "sampling_groups_per_second": 1 / sampling,
        "learning_groups_per_second": 1 / learning,
        "groups_per_second": 1 / (sampling + learning),
        "sampling_tflop": work.sampling / 1e12,
        "learning_tflop": work.learning / 1e12,
        "sampling_peak_share": None if peak is None else work.sampling / sampling / peak,
        "learning_peak_share": None if peak is None else work.learning / learning / peak,
        "memory_gb": (held + readings.memory) / budget.GB,
        "held_gb": held / budget.GB,
    }
    if side == "ours":
        row["counted_gb"] = budget.total(_counted(setup, shape)) / budget.GB
    return row


def prompt_size(setup: Setup, shape: ModelShape) -> PromptSize:
    """Measure the prompt of a setup."""
    return PromptSize.of(setup.encode()[0], shape, image_token_id=setup.processor.image_token_id)


def _counted(setup: Setup, shape: ModelShape) -> budget.Memory:
    """Return what a learner is said to hold before a run."""
    settings = GRPOSettings(
        group_size=setup.size.group_size,
        max_completion_tokens=setup.size.answer_tokens,
        micro_batch_groups=1,
        shared_prefix="on",
    )
    return learner_memory(shape, SETTINGS, settings, prompt=prompt_size(setup, shape))
