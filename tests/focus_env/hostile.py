"""Hostile answers, and what must hold of each: no exception, a legal box, finite rewards.

python -m tests.focus_env.hostile 10_000_000         prints how many texts were tried, and each that broke a rule
python -m tests.focus_env.hostile 300_000 900_000    the same, of the texts behind the first 900,000
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
from focus_env.prompts import TEMPLATES
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
    *(
        "<|box_start|>(1,2),(30,40)<|box_end|>",
        "<|object_ref_start|>the object<|object_ref_end|>",
        "<ref>the object</ref>",
        "<box>[[1, 2, 30, 40]]</box>",
        "<box>(1,2),(30,40)</box>",
        "<bbox>1 2 30 40</bbox>",
        "<|begin_of_box|>[[1,2,30,40]]<|end_of_box|>",
        "<|ref|>object<|/ref|>",
        "<|det|>[[1, 2, 30, 40]]<|/det|>",
        "[[012,034,567,890]]",
        '{"bbox_2d": [1, 2, 30, 40], "label": "object"}',
        '[{"box_2d": [2, 1, 40, 30], "label": "object"}]',
        '"point_2d": [1, 2]',
        '<point x="1.5" y="2.0" alt="object">object</point>',
        '<points x1="1.0" y1="2.0" x2="30.0" y2="40.0" alt="object">object</points>',
        "<loc0001><loc0002><loc0030><loc0040>",
        "<loc0250>",
        "<loc1023>",
        "<loc1024>",
        "<loc9999>",
        "<loc",
        "<loc_120>",
        "<seg001>",
        "<patch_index_0044>",
        "detect object",
        " object ; ",
        "Do all these boxes have the same object? ",
        "Yes.",
        "No.",
        "]]",
        "[[",
        "),(",
    ),
    *("<|box_start|>", "<|box_end|>", "\u202e", "\u200b", "\ufeff", "é", "漢", "🙂", "9" * 40, " " * 30),
)
_SIZES = ((80, 60), (1, 1), (1, 5000), (1000, 1000), (5000, 3), (640, 480))


def _resized(image_wh: tuple[int, int]) -> tuple[int, int]:
    """A size as models see pictures: multiples of 28, at least one."""
    return max(28, image_wh[0] // 28 * 28), max(28, image_wh[1] // 28 * 28)


_ASKED = [
    dataclasses.replace(template, frame=frame, image_to_input_wh=_resized)
    for template in TEMPLATES.values()
    for frame in CoordinateFrame
    if not template.form.box.has_location_tokens or frame is CoordinateFrame.NORM_1024
]
"""Every template in every unit that it can be asked in."""


def hostile_texts(count: int, seed: int) -> Iterator[str]:
    """Yield texts.

    They are made of pieces, of numbers in brackets, of any characters, and of answers with a few changes: strict ones,
    and those in the form of any template.
    """
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.randrange(5)
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
        elif kind == 3:
            bound = rng.choice((4, 110, 1100))
            yield _changed("<answer>[{}, {}, {}, {}]</answer>".format(*(rng.randrange(bound) for _ in range(4))), rng)
        else:
            yield _changed(_native_answer(rng), rng)


def _changed(text: str, rng: random.Random) -> str:
    """A text with up to three pieces more or in the place of a character."""
    characters = list(text)
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(characters))
        characters[place : place + rng.randrange(2)] = rng.choice(_PIECES)
    return "".join(characters)


def _native_answer(rng: random.Random) -> str:
    """An answer in the form of a template: with a box, for an absent object, or taken back; perhaps without tokens."""
    template, size = rng.choice(_ASKED), rng.choice(_SIZES)
    text = template.answer(_box(size, rng) if rng.randrange(4) else None, size)
    if template.rejected_answer_text and not rng.randrange(3):
        written = template.write_box(_box(size, rng), size)
        text = template.rejected_answer_text.format(box=written, label="object")
    for token in template.optional_tokens:
        if not rng.randrange(3):
            text = text.replace(token, "")
    return text


def _box(size: tuple[int, int], rng: random.Random) -> Box:
    xs, ys = (sorted(rng.sample(range(9), 2)) for _ in size)
    width, height = size
    return Box(xs[0] / 8 * width, ys[0] / 8 * height, xs[1] / 8 * width, ys[1] / 8 * height)


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
        template = rng.choice(_ASKED)
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


if __name__ == "__main__":
    total, first, step = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, 100_000
    counts: collections.Counter[ParseStatus] = collections.Counter()
    started = time.perf_counter()
    for number in range(0, total, step):
        told, broken = find_faults(min(step, total - number), seed=first + number)
        counts += told
        print(*broken, sep="\n", end="\n" if broken else "")
    print(f"{sum(counts.values()):,} texts in {time.perf_counter() - started:.0f} s: {dict(counts)}")
