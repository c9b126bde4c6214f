"""The sentences of the paper as comparisons that can come out either way, and the verdict from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from focus_agents.studies.ablation.arms import ARMS

Kind = Literal["gain", "none", "context"]
"""gain: the sentence says that the second exceeds the first; none: that the second does not exceed the first by more
than `MATTERS`; context: there is no verdict."""
Verdict = Literal["holds", "does not hold", "open"]

MATTERS = 0.05
"""Least difference of mIoU that counts as a gain like the paper's, whose gains are 11 to 23 points."""

SENTENCES: Mapping[str, str] = {
    "sft": "Plain SFT does not learn to use the supports.",
    "loss": "The attention loss gives the jump.",
    "target": "Its target, the numbers of the support boxes, does it.",
    "layers": "The mean over all layers is the one to train.",
    "shots": "More shots help.",
    "grpo": "GRPO adds to stage 1 with the loss.",
    "grpo-more": "GRPO adds more than as much more of stage 1.",
    "grpo-alone": "GRPO alone does not learn to use the supports.",
    "grpo-plain": "GRPO adds nothing to plain SFT.",
}
"""Sentences of the paper by name; that of `grpo-more` is the condition under which GRPO is worth its seconds."""

Place = tuple[str, str]
"""An arm, and a cell of its table."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One comparison, made on each base and kind of scenes that have both sides.

    Attributes:
        name: Unique name in tables.
        before: Arm and cell.
        after: Arm and cell.
        sentence: Name in `SENTENCES`; "" for a comparison that belongs to no sentence.
        kind: The sentence's statement about the difference.
    """

    name: str
    before: Place
    after: Place
    sentence: str = ""
    kind: Kind = "context"


def _shots(arm: str, title: str) -> tuple[Claim, ...]:
    return (
        Claim(f"two shots against one, {title}", (arm, "unseen/1"), (arm, "unseen/2"), "shots", "gain"),
        Claim(f"four shots against two, {title}", (arm, "unseen/2"), (arm, "unseen/4"), "shots", "gain"),
        Claim(f"four shots against one, {title}", (arm, "unseen/1"), (arm, "unseen/4"), "shots", "gain"),
    )


def _four(name: str, before: str, after: str, sentence: str = "", kind: Kind = "context") -> Claim:
    return Claim(name, (before, "unseen/4"), (after, "unseen/4"), sentence, kind)


def _one(name: str, before: str, after: str, sentence: str = "", kind: Kind = "context") -> Claim:
    return Claim(f"{name}, one shot", (before, "unseen/1"), (after, "unseen/1"), sentence, kind)


def _supports(arm: str, title: str, sentence: str = "", kind: Kind = "context") -> Claim:
    return Claim(f"supports against shuffled ones, {title}", (arm, "shuffled/4"), (arm, "unseen/4"), sentence, kind)


CLAIMS: Sequence[Claim] = (
    _supports("sft", "plain SFT", "sft", "none"),
    _four("plain SFT, against training on shuffled supports", "shuffled", "sft"),
    _four("attention loss above plain SFT", "sft", "attention", "loss", "gain"),
    _four("attention loss to the numbers above plain SFT", "sft", "target-coords", "target", "gain"),
    _four("numbers against region", "attention", "target-coords"),
    _four("end of the box text against region", "attention", "target-last"),
    _four("all layers against the last three", "attention", "layers-all", "layers", "gain"),
    _four("the first three layers against the last three", "attention", "layers-first"),
    _four("chosen heads against all", "attention", "heads"),
    _four("contrast with distractors against all tokens", "attention", "contrast"),
    _supports("attention", "attention loss"),
    *_shots("sft", "plain SFT"),
    *_shots("attention", "attention loss"),
    *_shots("target-coords", "attention loss to the numbers"),
    *_shots("attention-grpo", "final model"),
    _supports("attention-grpo", "final model"),
    _four("GRPO on top of that", "attention", "attention-grpo", "grpo", "gain"),
    _four("GRPO after a loss to the numbers", "target-coords", "coords-grpo", "grpo", "gain"),
    _four("GRPO after half of stage 1", "short", "short-grpo", "grpo", "gain"),
    _four("GRPO after three times of stage 1", "long", "long-grpo", "grpo", "gain"),
    _four("GRPO after labels on every token", "labels-full", "labels-full-grpo", "grpo", "gain"),
    _four("GRPO after 512 episodes", "pool-512", "pool-512-grpo", "grpo", "gain"),
    _four("stage 1 at equal seconds instead of GRPO", "attention", "attention-more"),
    _four("stage 1 once more instead of GRPO", "attention", "attention-twice"),
    _four("GRPO against stage 1 at equal seconds", "attention-more", "attention-grpo", "grpo-more", "gain"),
    _one("GRPO against stage 1 at equal seconds", "attention-more", "attention-grpo", "grpo-more", "gain"),
    _four("GRPO against stage 1 once more", "attention-twice", "attention-grpo", "grpo-more", "gain"),
    _four("the same after a loss to the numbers", "coords-more", "coords-grpo", "grpo-more", "gain"),
    _one("the same after a loss to the numbers", "coords-more", "coords-grpo", "grpo-more", "gain"),
    _four("the same in equal steps", "coords-steps", "coords-grpo", "grpo-more", "gain"),
    _four("the same after half of stage 1", "short-more", "short-grpo", "grpo-more", "gain"),
    _one("the same after half of stage 1", "short-more", "short-grpo", "grpo-more", "gain"),
    _supports("grpo", "GRPO alone", "grpo-alone", "none"),
    _four("GRPO without stage 1", "base", "grpo"),
    _four("GRPO without the attention loss", "sft", "sft-grpo", "grpo-plain", "none"),
    _four("stage 1 at equal seconds instead, without the attention loss", "sft", "sft-more"),
    _four("labels on every token against those on the answer", "target-coords", "labels-full"),
    _four("margin beyond what is reachable", "target-coords", "margin-beyond"),
    _four("LoRA against all parameters", "target-coords", "lora"),
    _four("512 episodes against new ones", "target-coords", "pool-512"),
    _four("4,000 episodes against new ones", "target-coords", "pool-4000"),
    _four("attention loss with 512 episodes", "pool-512-sft", "pool-512"),
    _four("attention loss with 4,000 episodes", "pool-4000-sft", "pool-4000"),
    *(
        _four(f"{title}, against plain GRPO", "coords-grpo", arm)
        for arm, title in (
            ("grpo-gold", "right answer in each group"),
            ("grpo-ranks", "ranks of rewards"),
            ("grpo-difficulty", "groups by difficulty"),
            ("grpo-size", "groups by size"),
            ("grpo-unscaled", "no scaling"),
            ("grpo-kl", "KL to stage 1"),
        )
    ),
    _four("target: the text of the support boxes, against SFT + attention loss", "attention", "target-span"),
    *(
        _four(f"{ARMS[arm].title}, against SFT + attention loss", "attention", arm)
        for arm in ("shuffled", "target-both", "mu-low", "mu-high", "beta-low", "beta-high", "labels-full", "iploc")
    ),
    _four("right answer in each group, against stage 1 at equal seconds", "coords-more", "grpo-gold"),
    _four("ranks of rewards, against stage 1 at equal seconds", "coords-more", "grpo-ranks"),
)
"""All comparisons, in the order of the page."""


def verdict(kind: Kind, difference: Mapping[str, Any]) -> Verdict | None:
    """Judge a sentence by a difference.

    Args:
        kind: The sentence's statement about the difference.
        difference: The difference with its `interval`.

    Returns:
        A sentence of a gain holds if the whole interval is above 0, does not hold if the whole interval is below
        `MATTERS`, and is open otherwise. A sentence of no gain holds if the whole interval is below `MATTERS`, and does
        not hold if the whole interval is above.
    """
    low, high = difference["interval"]
    if kind == "context":
        return None
    if kind == "none":
        return "holds" if high < MATTERS else "does not hold" if low > MATTERS else "open"
    return "holds" if low > 0 else "does not hold" if high < MATTERS else "open"
