"""Measure the gain of sharing a group's prompt: sampling, learning, and a whole GRPO step, against the usual way.

    python benchmarks/grpo_step.py [--prompt-tokens 512 1024 2048] [--group-sizes 4 8 16] [--answer-tokens 32]
                                   [--cases sampling learning step trl_learning fused without_signal] [--repetitions 3]
                                   [--device cpu|cuda] [--model small|7b]

Each case has two sides, which take turns within a run. `ratio` is the median over the rounds of peer / ours, both from
the same round: above 1, ours is so many times faster, or takes so many times fewer FLOPs or less memory. What time,
FLOPs and memory are, `measuring.py` says.

    sampling        ours: a prompt's G answers from one encoding of it. Peer: `generate(num_return_sequences=G)`, which
                    encodes the pictures once and the prompt G times.
    learning        ours: forward and backward over one row with prompt and answers. Peer: over G rows, each with the
                    prompt, its pictures and an answer.
    step            ours: from messages to an optimizer step. Peer: a step of TRL's `GRPOTrainer`.
    trl_learning    ours: loss and backward by `SharedPrefixGRPOTrainer`, from answers that TRL has sampled. Peer: the
                    same by TRL's `GRPOTrainer`.
    fused           ours: a step whose sampling prefill, with gradient, is the learner's prompt forward too, which it
                    can be where one process samples and learns on-policy. Peer: our step that encodes prompts twice.
    without_signal  ours: a step of two groups, one of which has equal rewards and is left out of learning; without a
                    KL penalty this changes no gradient. Peer: the step learns from both.

Before anything is measured, the sides must agree, in float32 and on the small model. Sampled and greedy answers must be
the same tokens. Log-probabilities and gradients of shared, fused and repeated prompts must differ by at most 1e-5 of
their norm. So must gradients with and without the group that has no signal. The same bound holds for TRL's gradients,
before clipping, and those of our scoring and loss on TRL's own completions and advantages.

All answers have T tokens, since in each case and on each side the end token is banned, as are the pad token and those
of pictures. The pictures are noise. A reward is a function of the text, the same on both sides.

Equal in `step`: the model, which both sides update in turn, the prompt (token ids and pixels are compared), G, T,
temperature, rewards and advantages (these are compared too). Both use the loss "grpo" without KL, entropies as a
metric, AdamW without weight decay, clipping at norm 1, and no gradient checkpointing. Log-probabilities count banned
tokens in, as TRL's do. Not equal:

    for TRL      Reading a row of its data is outside the measured time, while all of our step is inside. On the CPU, it
                 would put each position through the output head, and is made to take the answers' only, as it does on
                 a GPU.
    against TRL  It keeps metrics and logs in memory, goes through accelerate, has the processor read the pictures
                 twice, G times each, and its sampling encodes them G times. On a GPU it can sample with vLLM, which
                 encodes a prompt once; that would change `step` there, but not its learning. Nothing is logged to disk,
                 no bar is drawn.

With `--model 7b` (on CUDA) the model has the shape of Qwen2-VL-7B and random weights in bfloat16, frozen under LoRA
adapters of rank 8. The small tokenizer knows few of its ids, so the rewards of its answers hardly differ; the cost is
the same. A peer that runs out of memory has null for its figures.

Prints one JSON line for each case, size and measure, then tables. `tokens_per_second` counts completion tokens;
`peak_share` is the share of the device's peak FLOP/s, known for bfloat16 on some devices or by `--peak-tflops`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import tyro
from rich.console import Console

from benchmarks.measuring import (
    NUM_PICTURES,
    Readings,
    command,
    machine,
    print_line,
    run_quietly_on_one_thread,
    take_turns,
)
from benchmarks.step.cases import CASES, CaseName
from benchmarks.step.checks import CHECKS, random_answers
from benchmarks.step.report import Line, build_table, compare_all
from benchmarks.step.setup import LEARNING_RATE, LEAST_PICTURE_SIDE, TEXT_TOKENS, ModelName, Setup, Size
from benchmarks.step.sides import SIDES, generate, learn, sample, take_step
from benchmarks.step.trl_learning import trl_learners
from benchmarks.step.trl_side import Turns, trl_trainer
from focus_agents.cli.command_line import quiet_libraries
from focus_agents.cli.errors import user_errors
from focus_agents.models.attention import set_focus_attention

Step = Callable[[], object]

MEASURES = ("FLOPs", "memory")
"""Measures that are taken once, in this order, before time; the first warms up."""

NEED_TRL = ("step", "trl_learning")
"""Cases with TRL as the peer."""
PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100": 989,
    "H200": 989,
    "GH200": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
}
"""Dense bfloat16 of devices whose name has all of the key's words, by their vendor's data sheets."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the gain of sharing a group's prompt."""

    prompt_tokens: tuple[int, ...] = (512, 1024, 2048)
    """P, tokens of a prompt."""
    group_sizes: tuple[int, ...] = (4, 8, 16)
    """G, answers to a prompt; each P is measured with each G."""
    answer_tokens: int = 32
    """T, tokens of an answer."""
    repetitions: int = 3
    """Rounds in which each side is timed once."""
    cases: tuple[CaseName, ...] = get_args(CaseName)
    """Cases to compare."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run."""
    model: ModelName = "small"
    """small, trained as a whole in float32; or 7b, in bfloat16 with adapters, which needs cuda."""
    peak_tflops: float | None = None
    """The device's peak in TFLOP/s, for the share of it that is reached; else a table of devices is asked."""

    def __post_init__(self) -> None:
        least = {
            "prompt_tokens": (min(self.prompt_tokens), TEXT_TOKENS + NUM_PICTURES * LEAST_PICTURE_SIDE**2),
            "group_sizes": (min(self.group_sizes), 2),
            "answer_tokens": (self.answer_tokens, 1),
            "repetitions": (self.repetitions, 1),
        }
        for name, (value, limit) in least.items():
            if value < limit:
                raise ValueError(f"{name}: expected at least {limit}, got {value}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: this machine has no CUDA device that torch can use; measure on cpu")
        if self.model == "7b" and self.device == "cpu":
            raise ValueError("model: 7b is of no use on cpu; add --device cuda")
        of_trl = [name for name in self.cases if name in NEED_TRL]
        if of_trl and importlib.util.find_spec("trl") is None:
            others = " ".join(name for name in CASES if name not in NEED_TRL)
            raise ValueError(
                f"cases: without TRL, no {' and no '.join(of_trl)}; pip install 'trl==1.16.*', or leave it out: "
                f"--cases {others}"
            )

    @property
    def dtype(self) -> str:
        """Of the weights."""
        return "float32" if self.model == "small" else "bfloat16"


def prepare(case: CaseName, setup: Setup) -> Callable[[str], Step]:
    """Return the function that gives a side's next step, in all cases without TRL."""
    prompts = setup.collate(setup.encode())
    token_ids, advantages = random_answers(setup)

    def prepare_side(side: str) -> Step:
        is_ours = side == "ours"
        setup.optimizer.zero_grad()
        if is_ours or case not in ("sampling", "learning"):
            set_focus_attention(setup.model)
        else:
            setup.use_stock_attention()
        match case:
            case "sampling":
                return lambda: (sample if is_ours else generate)(setup, prompts)
            case "learning":
                return lambda: learn(setup, prompts, token_ids, advantages, shared_prefix=is_ours)
            case "fused":
                return lambda: take_step(setup, is_fused=is_ours)
            case _:
                return lambda: take_step(setup, num_silent=len(setup.messages) // 2, skips_silent=is_ours)

    return prepare_side


def measure(case: CaseName, size: Size, args: Args) -> tuple[Readings, float | None]:
    """Return readings in `UNITS` by measure and side, and the gap between both sides' gradients, which must agree."""
    num_prompts = CASES[case].num_prompts
    gap = CHECKS[case](Setup.build(size, device=args.device, num_prompts=num_prompts))
    setup = Setup.build(size, model_name=args.model, device=args.device, num_prompts=num_prompts)
    schedule = [*MEASURES, *["time"] * args.repetitions]
    if case == "trl_learning":
        other = Setup.build(size, model_name=args.model, device=args.device, num_prompts=num_prompts)
        with trl_learners({"ours": setup, "peer": other}) as learning:
            return take_turns(learning, SIDES, schedule, args.device), gap
    if case != "step":
        return take_turns(prepare(case, setup), SIDES, schedule, args.device), gap
    turns = Turns(setup, schedule)
    setup.use_stock_attention()
    with (
        turns.opened,
        contextlib.suppress(torch.OutOfMemoryError),
        trl_trainer(setup, len(schedule), turns, learning_rate=LEARNING_RATE, max_grad_norm=1.0) as trainer,
    ):
        trainer.train()
        return turns.readings, gap
    setup.optimizer.zero_grad()
    alone = take_turns(lambda side: lambda: take_step(setup), ["ours"], schedule, args.device)
    return {name: {**sides, "peer": [math.nan] * len(sides["ours"])} for name, sides in alone.items()}, gap


def peak_flops(args: Args) -> float:
    """Return the device's peak FLOP/s at the weights' type; nan if it is not known."""
    if args.peak_tflops is not None:
        return args.peak_tflops * 1e12
    if args.device == "cuda" and args.dtype == "bfloat16":
        words = set(re.split(r"[\s-]", torch.cuda.get_device_name()))
        for name, tflops in PEAK_TFLOPS.items():
            if words.issuperset(name.split()):
                return tflops * 1e12
    return math.nan


def main() -> None:
    quiet_libraries()
    with user_errors(Args):
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    packages = ("torch", "transformers", *(["trl"] if set(args.cases) & set(NEED_TRL) else []))
    common = {
        "device": args.device,
        "dtype": args.dtype,
        "model": args.model,
        "repetitions": args.repetitions,
        "machine": machine(args.device, packages),
        "command": command(),
    }
    lines: list[Line] = []
    for case in args.cases:
        for prompt_tokens in args.prompt_tokens:
            for group_size in args.group_sizes:
                size = Size(prompt_tokens, group_size, args.answer_tokens)
                for line in compare_all(case, size, *measure(case, size, args), peak=peak_flops(args)):
                    print_line({**line, **common})
                    lines.append(line)
    console = Console()
    for case in args.cases:
        console.print(build_table(case, lines, args.device))


if __name__ == "__main__":
    main()
