"""Hostile answers, and what must hold of each: no exception, a legal box, finite rewards.

python -m tests.focus_env.hostile 10_000_000      prints how many texts were tried, and each that broke a rule
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import random
import sys
import time
from collections.abc import Iterator

import numpy as np

from focus_env.boxes import CoordinateFrame
from focus_env.prompts import TEMPLATES, PromptTemplate
from focus_env.rewards.scores import score_answers
from focus_env.rewards.terms import REWARD_TERMS
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box, ParseStatus
from tests.fakes import make_episode

_PIECES = (
    *(
        "<answer>",
        "</answer>",
        "<ANSWER>",
        "<think>",
        "</think>",
        "[THINK]",
        "◁/think▷",
        "<|channel|>final<|message|>",
        "analysisWe",
        "assistantfinal",
        "< /Answer >",
        "<|begin_of_box|>",
        "【",
        "）",
        "−",
        "xywh",
        "x1: ",
        "<box>",
        "</box>",
        "```json",
        "```",
    ),
    *(
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        ",",
        ";",
        "，",
        " ",
        "\n",
        "\t",
        ":",
        "=",
        '"',
        "'",
        "\\",
        "-",
        "to",
        "->",
        ".",
        "|",
    ),
    *(
        "none",
        "None.",
        "null",
        "[]",
        "No Objects",
        "nan",
        "inf",
        "-inf",
        "ınf",
        "İnf",
        "infınıty",
        "ſ",
        "K",
        "e",
        "E+",
        "0x1",
    ),
    *("x1", "y1", "x2", "y2", "x_min", "width", "height", "x", "y", "left", "top", "bbox_2d", "box_2d", "bottom-right"),
    *(
        "0",
        "1",
        "7",
        "30",
        "250",
        "999",
        "1000",
        "1001",
        "1e999",
        "1e-300",
        "0.19",
        ".5",
        "5.",
        "1_0",
        "٣",
        "９",
        "−1",
        "½",
    ),
    *(
        "[1, 2, 30, 40]",
        "(1, 2), (30, 40)",
        "[0.1, 0.2, 0.3, 0.4]",
        "x1: 1, y1: 2, x2: 30, y2: 40",
        "box_2d: [2, 1, 40, 30]",
        "\x00",
        "\ud800",
    ),
    *("<|box_start|>", "<|box_end|>", "\u202e", "\u200b", "\ufeff", "é", "漢", "🙂", "9" * 40, " " * 30),
)
_SIZES = ((80, 60), (1, 1), (1, 5000), (1000, 1000), (5000, 3), (640, 480))
_FRAMES = [frame for frame in CoordinateFrame if frame is not CoordinateFrame.RESIZED_PIXEL]


def hostile_texts(count: int, seed: int) -> Iterator[str]:
    """Yield texts: made of pieces, of numbers in brackets, of any characters, and strict ones with a few changes."""
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.randrange(4)
        if kind == 0:
            yield "".join(rng.choices(_PIECES, k=rng.randrange(1, 24)))
        elif kind == 1:
            left, right = rng.choice(("[]", "()", "{}", "<>", "[)"))
            values = rng.choices(_PIECES, k=rng.choice((2, 3, 4, 4, 4, 5)))
            yield left + rng.choice((", ", ",", " ", ";")).join(values) + right
        elif kind == 2:
            yield "".join(
                chr(rng.choice((rng.randrange(128), rng.randrange(0x3000)))) for _ in range(rng.randrange(40))
            )
        else:
            bound = rng.choice((4, 110, 1100))
            text = list("<answer>[{}, {}, {}, {}]</answer>".format(*(rng.randrange(bound) for _ in range(4))))
            for _ in range(rng.randrange(4)):
                place = rng.randrange(len(text))
                text[place : place + rng.randrange(2)] = rng.choice(_PIECES)
            yield "".join(text)


def find_faults(count: int, seed: int, *, batch: int = 64) -> tuple[collections.Counter[ParseStatus], list[str]]:
    """Score hostile texts as the environment does.

    Returns:
        How many had which status, and a line for each text, or batch of them, that broke a rule.
    """
    rng = random.Random(seed)
    reward = WeightedReward.from_spec(",".join([*REWARD_TERMS, "iou_at(0.5)", "length(60)"]))
    targets = (Box(0.0, 0.0, 1.0, 1.0), None)
    statuses: collections.Counter[ParseStatus] = collections.Counter()
    faults: list[str] = []
    texts = hostile_texts(count, seed)
    while chunk := list(itertools.islice(texts, batch)):
        size = rng.choice(_SIZES)
        template = _template(rng)
        episode = make_episode(query_wh=size, target_box=rng.choice(targets))
        try:
            scores = score_answers(episode, chunk, template=template, reward=reward)
        except Exception as error:  # whatever it is, it is what is looked for
            faults.append(f"{type(error).__name__}: {error}: one of {chunk!a}")
            continue
        if not np.isfinite(scores.rewards).all():
            faults.append(f"a reward that is not finite: one of {chunk!a}")
        for text, answer in zip(chunk, scores.answers, strict=True):
            statuses[answer.status] += 1
            has_box = answer.status in (ParseStatus.OK, ParseStatus.CLIPPED)
            box = answer.box
            is_legal = box is None or (0 <= box.x1 < box.x2 <= size[0] and 0 <= box.y1 < box.y2 <= size[1])
            if has_box != (box is not None) or not is_legal:
                faults.append(f"{answer.status} with {box}: {text!a}")
    return statuses, faults


def _template(rng: random.Random) -> PromptTemplate:
    return dataclasses.replace(TEMPLATES[rng.choice(("default", "thinking"))], frame=rng.choice(_FRAMES))


if __name__ == "__main__":
    total, step = int(sys.argv[1]), 100_000
    counts: collections.Counter[ParseStatus] = collections.Counter()
    started = time.perf_counter()
    for number in range(0, total, step):
        told, broken = find_faults(min(step, total - number), seed=number)
        counts += told
        print(*broken, sep="\n", end="\n" if broken else "")
    print(f"{sum(counts.values()):,} texts in {time.perf_counter() - started:.0f} s: {dict(counts)}")
