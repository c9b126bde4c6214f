"""Seconds to ask about one more picture with the same supports: encoded anew, and kept from the first question.

    python benchmarks/kept_supports.py [--prompt-tokens 1024 2748] [--batch-sizes 1 8] [--repetitions 3]

Ours is `ReusingPolicy`, which `focus find`, `policy.fit` and the evaluation of tracks use. The peer is the same model
without it, `VLMPolicy`, which encodes all of each prompt. Both answer the same pictures greedily, in turns: one by one,
as `policy.fit` is asked, and eight together, as `focus find` does. All answers are checked to have the same tokens
first. The first question of a set of supports, which keeps them, is outside the turns; `first` is its time.

The model has random weights; see `benchmarks/measuring.py`. Prompts are the project's own, four supports and the query,
all of one size. An answer has as many tokens as a box takes in the template. `to_first_token` asks for one token alone,
so it is the time of reading the prompt. Times are CPU times of one thread, the median of all turns.

Prints one JSON line per number of prompt tokens and batch size, then a table. `ratio` is how many times less time ours
takes.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro
from annotated_types import Ge
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import NUM_PICTURES, command, machine, print_line, run_quietly_on_one_thread, time_meter
from benchmarks.step.setup import LEAST_PICTURE_SIDE, SEED, TEXT_TOKENS, Setup, Size
from focus_agents.models.tiny import MERGE_SIZE
from focus_agents.policies.reuse import ReusingPolicy
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Generation, Sampling
from focus_env.prompts import TEMPLATES
from focus_env.types import Box, Message

TEMPLATE = TEMPLATES["compact"]
BOX = 0.25, 0.25, 0.75, 0.75
"""Of every support, as shares of the picture."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Seconds to ask about one more picture with the same supports."""

    prompt_tokens: tuple[int, ...] = (1024, 2748)
    """Tokens of a prompt, about."""
    batch_sizes: tuple[Annotated[int, Ge(1)], ...] = (1, 8)
    """Queries that are asked together."""
    pictures: Annotated[int, Ge(1)] = 8
    """Queries of a turn; those of the last batch may be fewer."""
    repetitions: int = 3
    """Turns of each side."""


@dataclass(frozen=True)
class Case:
    """A model, and questions whose supports are the same.

    Attributes:
        sides: By name, who answers.
        prompts: One for each query.
        prompt_tokens: Of each prompt.
        answer_tokens: Of an answer that holds a box.
    """

    sides: dict[str, VLMPolicy | ReusingPolicy]
    prompts: list[list[Message]]
    prompt_tokens: int
    answer_tokens: int

    def ask(self, side: str, num_tokens: int, batch_size: int = 1) -> list[list[int]]:
        """Return the tokens of an answer to each query; so many are asked together."""
        sampling = Sampling(temperature=0.0, max_completion_tokens=num_tokens)
        answers: list[Generation] = []
        for start in range(0, len(self.prompts), batch_size):
            batch = self.prompts[start : start + batch_size]
            seeds = [SEED] * len(batch)
            answers += self.sides[side].generate(batch, num_completions=1, sampling=sampling, seeds=seeds)
        return [answer.completions[0].token_ids.tolist() for answer in answers]


def build_case(prompt_tokens: int, num_pictures: int) -> Case:
    """Noise as pictures, as large as the prompt's tokens admit.

    Raises:
        ValueError: If these are too few for five pictures.
    """
    side = math.isqrt(max(0, prompt_tokens - TEXT_TOKENS) // NUM_PICTURES)
    if side < LEAST_PICTURE_SIDE:
        least = TEXT_TOKENS + NUM_PICTURES * LEAST_PICTURE_SIDE**2
        raise ValueError(f"prompt_tokens: expected {least} or more, got {prompt_tokens}")
    setup = Setup.build(Size(prompt_tokens, group_size=1, answer_tokens=1))
    processor, rng = setup.processor, np.random.default_rng(SEED)
    pixels = side * MERGE_SIZE * processor.image_processor.patch_size
    pictures = rng.integers(256, size=(NUM_PICTURES - 1 + num_pictures, pixels, pixels, 3), dtype=np.uint8)
    supports, queries = pictures[: NUM_PICTURES - 1], pictures[NUM_PICTURES - 1 :]
    boxes = np.array([BOX] * len(supports)) * pixels
    prompts = [
        list(TEMPLATE.render({"support_images": tuple(supports), "support_boxes": boxes, "query_image": query}))
        for query in queries
    ]
    answer = TEMPLATE.answer(Box(*boxes[0].tolist()), (pixels, pixels))
    plain = VLMPolicy(setup.model.eval(), processor)
    return Case(
        sides={"anew": plain, "ours": ReusingPolicy(plain)},
        prompts=prompts,
        prompt_tokens=len(processor.encode(prompts[0]).input_ids),
        answer_tokens=len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1,  # its end
    )


def measure_case(args: Args, prompt_tokens: int, batch_size: int) -> dict[str, Any]:
    """Return the line of a case.

    Raises:
        AssertionError: If the sides do not answer the same.
    """
    case = build_case(prompt_tokens, args.pictures)
    with time_meter("cpu") as first:
        case.ask("ours", 1, batch_size)
    expected = case.ask("anew", case.answer_tokens)
    assert case.ask("ours", case.answer_tokens, batch_size) == expected, "kept supports answer otherwise"
    turns: dict[tuple[str, int], list[float]] = {}
    for _ in range(args.repetitions):
        for num_tokens in (1, case.answer_tokens):
            for side in case.sides:
                with time_meter("cpu") as reading:
                    case.ask(side, num_tokens, batch_size)
                turns.setdefault((side, num_tokens), []).append(reading.amount / args.pictures)
    whole, prompt = (_compared(turns, num_tokens) for num_tokens in (case.answer_tokens, 1))
    return {
        "case": f"{case.prompt_tokens} prompt tokens, {batch_size} together",
        **whole,
        "to_first_token": prompt,
        "first": float(f"{first.amount - (args.pictures - 1) * prompt['ours']:.3g}"),
        "unit": "s per query",
        "peer_name": "the same model, all of each prompt encoded",
        "answer_tokens": case.answer_tokens,
        "supports": NUM_PICTURES - 1,
        "pictures": args.pictures,
        "batch_size": batch_size,
        "seed": SEED,
        "machine": machine("cpu"),
        "command": command(),
    }


def _compared(turns: Mapping[tuple[str, int], Sequence[float]], num_tokens: int) -> dict[str, float]:
    """Return the median of both sides, and how many times less ours takes: at the least and most of all rounds, too."""
    anew, ours = turns["anew", num_tokens], turns["ours", num_tokens]
    ratios = [theirs / own for theirs, own in zip(anew, ours, strict=True)]
    return {
        "ours": float(f"{statistics.median(ours):.3g}"),
        "anew": float(f"{statistics.median(anew):.3g}"),
        "ratio": round(statistics.median(ratios), 2),
        "least_ratio": round(min(ratios), 2),
        "most_ratio": round(max(ratios), 2),
    }


def main() -> None:
    run_quietly_on_one_thread()
    args = tyro.cli(Args, description=__doc__)
    lines = []
    for prompt_tokens, batch_size in itertools.product(args.prompt_tokens, args.batch_sizes):
        lines.append(measure_case(args, prompt_tokens, batch_size))
        print_line(lines[-1])
    table = Table("prompt", "anew", "ours", "anew / ours", "to the first token", title="milliseconds a query")
    for line in lines:
        times = (f"{1e3 * line[name]:.0f}" for name in ("anew", "ours"))
        table.add_row(line["case"], *times, f"{line['ratio']:.1f}", f"{line['to_first_token']['ratio']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
