"""Measure how many boxes a second and core each reward term scores, against a plain loop of the same formula.

    python benchmarks/reward_terms.py [--batch-size 4096] [--repetitions 9] [--shots 4]

Ours is a term of `focus_env.rewards.terms`, called with a batch; its peer goes through the same answers one by one, in
Python's floats. Both are checked to give the same values first. The answers are boxes around their targets and
elsewhere, whole images and copies of supports; one in eight is unreadable or says that the object is absent, and in one
episode of eight it is. The sides take turns; rates are by CPU time of one thread, the median of all turns.

Before a term can score answers they must be an `AnswerBatch`; the last case is how fast one is made of parsed answers,
without a peer.

Prints one JSON line per case, then a table.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import command, machine, print_line
from focus_env.answer_text import ANSWER_CLOSE, ANSWER_OPEN
from focus_env.overlap import COPY_IOU, WHOLE_IMAGE_SHARE
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.terms import PARAMETRIC_TERMS, REWARD_TERMS, RewardTerm, Values
from focus_env.types import Box, Episode, Exemplar, Frame, ParseResult, ParseStatus

SEED = 0
WH = (640, 480)
MIN_SECONDS = 0.05
"""CPU time of a turn, at least."""


# ---- the peers: one answer, in Python's floats


class Answer(NamedTuple):
    """One answer and its episode; boxes in pixels, supports as shares."""

    box: Box | None
    says_absent: bool
    is_strict: bool
    target: Box | None
    supports: tuple[Box, ...]
    text: str
    episode_id: str


def plain_iou(a: Box, b: Box) -> float:
    width, height = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    return intersection / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - intersection)


def plain_hull(a: Box, b: Box) -> tuple[float, float]:
    return max(a.x2, b.x2) - min(a.x1, b.x1), max(a.y2, b.y2) - min(a.y1, b.y1)


def plain_giou(a: Box, b: Box) -> float:
    width, height = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
    intersection = max(width, 0.0) * max(height, 0.0)
    union = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - intersection
    hull_width, hull_height = plain_hull(a, b)
    hull = hull_width * hull_height
    return intersection / union - (hull - union) / hull


def plain_diou(a: Box, b: Box) -> float:
    dx, dy = (a.x1 + a.x2 - b.x1 - b.x2) / 2, (a.y1 + a.y2 - b.y1 - b.y2) / 2
    width, height = plain_hull(a, b)
    return plain_iou(a, b) - (dx * dx + dy * dy) / (width * width + height * height)


def plain_ciou(a: Box, b: Box) -> float:
    angle = math.atan((a.x2 - a.x1) / (a.y2 - a.y1)) - math.atan((b.x2 - b.x1) / (b.y2 - b.y1))
    v = 4 / math.pi**2 * angle * angle
    return plain_diou(a, b) - (v * v / (1 - plain_iou(a, b) + v) if v > 0 else 0.0)


def plain_l1(a: Box, b: Box) -> float:
    distance = (abs(a.x1 - b.x1) + abs(a.x2 - b.x2)) / WH[0] + (abs(a.y1 - b.y1) + abs(a.y2 - b.y2)) / WH[1]
    return max(0.0, 1 - distance / 4)


def overlap(function: Callable[[Box, Box], float], least: float = 0.0) -> Callable[[Answer], float]:
    """Return a term of a function of two boxes."""

    def term(answer: Answer) -> float:
        if answer.target is None:
            return 1.0 if answer.says_absent else least
        return least if answer.box is None else function(answer.box, answer.target)

    return term


def piecewise(low: float, high: float) -> Callable[[Box, Box], float]:
    def function(a: Box, b: Box) -> float:
        value = plain_iou(a, b)
        return 1.0 if value >= high else value if value >= low else 0.0

    return function


def plain_format_soft(answer: Answer) -> float:
    if answer.is_strict:
        return 1.0
    is_readable = answer.box is not None or answer.says_absent
    return ((ANSWER_OPEN in answer.text) + (ANSWER_CLOSE in answer.text) + is_readable) / 4


def plain_length(answer: Answer) -> float:
    return min(1.0, max(0.0, 2 - len(answer.text) / 40))


def plain_present(answer: Answer) -> float:
    return float(answer.says_absent if answer.target is None else answer.box is not None)


WHOLE = Box(0.0, 0.0, *map(float, WH))


def plain_whole_image(answer: Answer) -> float:
    if answer.box is None or plain_iou(answer.box, WHOLE) < WHOLE_IMAGE_SHARE:
        return 0.0
    return 0.0 if answer.target is not None and plain_iou(answer.target, WHOLE) >= WHOLE_IMAGE_SHARE else -1.0


def plain_shares(box: Box) -> Box:
    return Box(box.x1 / WH[0], box.y1 / WH[1], box.x2 / WH[0], box.y2 / WH[1])


def plain_copy(answer: Answer) -> float:
    if answer.box is None:
        return 0.0
    box = plain_shares(answer.box)
    target = None if answer.target is None else plain_shares(answer.target)
    for support in answer.supports:
        is_still = target is not None and plain_iou(target, support) >= COPY_IOU
        if not is_still and plain_iou(box, support) >= COPY_IOU:
            return -1.0
    return 0.0


def plain_area(answer: Answer) -> float:
    if answer.box is None:
        return 0.0
    return (answer.box.x2 - answer.box.x1) * (answer.box.y2 - answer.box.y1) / (WH[0] * WH[1])


def plain_random(answer: Answer) -> float:
    key = zlib.crc32(answer.text.encode(), zlib.crc32(answer.episode_id.encode())) + 0x9E3779B97F4A7C15
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        key = (key ^ (key >> shift)) * factor % 2**64
    return ((key ^ (key >> 31)) >> 11) / 2**53


TERMS: dict[str, RewardTerm] = {
    **REWARD_TERMS,
    "iou_at(0.5)": PARAMETRIC_TERMS["iou_at"](0.5),
    "piecewise(0.5, 0.75)": PARAMETRIC_TERMS["piecewise"](0.5, 0.75),
    "length(40)": PARAMETRIC_TERMS["length"](40),
    "random(0)": PARAMETRIC_TERMS["random"](0),
}
PEERS: dict[str, Callable[[Answer], float]] = {
    "iou": overlap(plain_iou),
    "iou_squared": overlap(lambda a, b: plain_iou(a, b) ** 2),
    "iou_at(0.5)": overlap(lambda a, b: float(plain_iou(a, b) >= 0.5)),
    "piecewise": overlap(piecewise(0.75, 0.9)),
    "piecewise(0.5, 0.75)": overlap(piecewise(0.5, 0.75)),
    "giou": overlap(plain_giou, -1.0),
    "diou": overlap(plain_diou, -1.0),
    "ciou": overlap(plain_ciou, -1.5),
    "l1": overlap(plain_l1),
    "format": lambda answer: float(answer.is_strict),
    "format_soft": plain_format_soft,
    "length(40)": plain_length,
    "present": plain_present,
    "whole_image": plain_whole_image,
    "copy": plain_copy,
    "area": plain_area,
    "random(0)": plain_random,
}


# ---- answers


def draw_answers(count: int, *, shots: int) -> tuple[list[Episode], list[ParseResult], list[str]]:
    """Return episodes, what was read of the answers to them, and texts."""
    rng = np.random.default_rng(SEED)
    episodes, parses, texts = [], [], []
    frame = Frame("none", image_wh=WH, source=np.empty((0, 0, 3), np.uint8))  # no term decodes a picture
    for position in range(count):
        supports = tuple(Exemplar(frame, draw_box(rng)) for _ in range(shots))
        target = draw_box(rng) if rng.random() < 7 / 8 else None
        box = (target or WHOLE, draw_box(rng), shaken(target or WHOLE, rng), WHOLE, supports[0].box)[rng.integers(5)]
        status = ([ParseStatus.OK] * 14 + [ParseStatus.NO_BOX, ParseStatus.ABSENT])[rng.integers(16)]
        is_strict = bool(rng.random() < 0.8)
        episodes.append(Episode(f"{position}", supports, frame, target, "none"))
        parses.append(ParseResult(status, box if status is ParseStatus.OK else None, is_strict))
        numbers = ", ".join(str(int(value)) for value in box)
        texts.append(f"<answer>[{numbers}]</answer>" if is_strict else f"The object is <answer>[{numbers}], I think.")
    return episodes, parses, texts


def draw_box(rng: np.random.Generator) -> Box:
    x1, y1 = rng.random(2) * (WH[0] - 40, WH[1] - 40)
    return Box(x1, y1, x1 + 10 + rng.random() * (WH[0] - 10 - x1), y1 + 10 + rng.random() * (WH[1] - 10 - y1))


def shaken(box: Box, rng: np.random.Generator) -> Box:
    """Much the same box."""
    dx, dy = rng.random(2) * ((box.x2 - box.x1) / 4, (box.y2 - box.y1) / 4)
    return Box(box.x1 + dx, box.y1 + dy, box.x2, box.y2)


# ---- measuring


def score_one_by_one(peer: Callable[[Answer], float], answers: Sequence[Answer]) -> list[float]:
    """Take the peer's turn."""
    return [peer(answer) for answer in answers]


def rate(action: Callable[[], object], count: int) -> float:
    """Return boxes per second of CPU time, over as many calls as fill a turn."""
    calls, start = 0, time.thread_time()
    while (elapsed := time.thread_time() - start) < MIN_SECONDS:
        action()
        calls += 1
    return calls * count / elapsed


KEPT = [name for name, value in vars(AnswerBatch).items() if isinstance(value, cached_property)]


def forget(batch: AnswerBatch) -> AnswerBatch:
    """Return the batch without the overlaps that it keeps once a term has asked, so that each call computes its own."""
    for name in KEPT:
        vars(batch).pop(name, None)
    return batch


def score_afresh(term: RewardTerm, batch: AnswerBatch) -> Values:
    """Take our turn."""
    return term(forget(batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--repetitions", type=int, default=9, help="turns of each side")
    parser.add_argument("--shots", type=int, default=4, help="support boxes of each episode")
    arguments = parser.parse_args()
    count = arguments.batch_size
    episodes, parses, texts = draw_answers(count, shots=arguments.shots)
    batch = AnswerBatch.from_parses(episodes, parses, texts)
    answers = [
        Answer(
            parse.box,
            parse.status is ParseStatus.ABSENT,
            parse.is_strict,
            episode.target_box,
            tuple(plain_shares(exemplar.box) for exemplar in episode.support),
            text,
            episode.episode_id,
        )
        for episode, parse, text in zip(episodes, parses, texts, strict=True)
    ]
    assert TERMS.keys() == PEERS.keys()
    assert (batch.has_box & batch.is_present).mean() > 0.7, "too few boxes to measure"

    actions: dict[str, dict[str, Callable[[], object]]] = {}
    for name, term in TERMS.items():
        peer = PEERS[name]
        np.testing.assert_allclose(term(batch), score_one_by_one(peer, answers), atol=1e-9, err_msg=name)
        actions[name] = {
            "ours": functools.partial(score_afresh, term, batch),
            "peer": functools.partial(score_one_by_one, peer, answers),
        }
    actions["AnswerBatch.from_parses"] = {"ours": lambda: AnswerBatch.from_parses(episodes, parses, texts)}

    table = Table("case", "ours", "peer", "ratio", title="boxes per second and core")
    for name, sides in actions.items():
        turns: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(arguments.repetitions):
            for side, action in sides.items():
                turns[side].append(rate(action, count))
        rates = {side: round(statistics.median(values)) for side, values in turns.items()}
        peer_rate = rates.get("peer")
        result = {
            "case": name,
            "ours": rates["ours"],
            "peer": peer_rate,
            "ratio": None if peer_rate is None else round(rates["ours"] / peer_rate, 1),
            "unit": "boxes/s per core",
            "peer_name": None if peer_rate is None else "a plain loop over the answers, in Python's floats",
            "slowest_turn": round(min(turns["ours"])),
            "batch_size": count,
            "shots": arguments.shots,
            "machine": machine("cpu", ("numpy",)),
            "command": command(),
        }
        print_line(result)
        table.add_row(name, *("" if result[key] is None else f"{result[key]:,}" for key in ("ours", "peer", "ratio")))
    Console().print(table)


if __name__ == "__main__":
    main()
