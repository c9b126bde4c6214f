"""Reward terms, and their weighted sum.

A term is a pure function `(parse, target_box, image_wh) -> float`. `WeightedReward` adds terms up; the
default is FOCUS's reward, IoU + 0.5 * [the format is right] (arXiv:2605.31145).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from focus_env.boxes import box_iou
from focus_env.types import Box, ParseResult, ParseStatus


class RewardTerm(Protocol):
    """A pure function of one answer; a picklable one (no lambda, no closure) can travel between processes."""

    def __call__(self, parse: ParseResult, target_box: Box | None, image_wh: tuple[int, int], /) -> float:
        """Score an answer.

        Args:
            parse: What was read from the model's text.
            target_box: Where the object is, `xyxy` in pixels; None where it is absent.
            image_wh: (width, height) of the query image in pixels.

        Returns:
            A finite number; the more, the better.
        """
        ...


def iou_reward(parse: ParseResult, target_box: Box | None, image_wh: tuple[int, int]) -> float:
    """IoU of the answer with the target, in [0, 1].

    Where the object is absent there is no box to overlap with: 1.0 for the answer that it is absent, else
    0.0. An unreadable answer scores 0.0.
    """
    if target_box is None:
        return float(parse.status is ParseStatus.ABSENT)
    return box_iou(parse.box, target_box)


def format_reward(parse: ParseResult, target_box: Box | None, image_wh: tuple[int, int]) -> float:
    """1.0 if the whole text has the answer format, else 0.0."""
    return float(parse.is_strict)


REWARD_TERMS: Mapping[str, RewardTerm] = MappingProxyType({"iou": iou_reward, "format": format_reward})
"""The terms that `WeightedReward.from_spec` knows by name."""


@dataclass(frozen=True)
class WeightedReward:
    """A weighted sum of named terms.

    Attributes:
        terms: Name -> (function, weight). Weights are finite; a penalty has a negative one.

    Raises:
        ValueError: If there is no term, or a weight is not finite.
    """

    terms: Mapping[str, tuple[RewardTerm, float]]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError(
                "WeightedReward needs at least one term, got none; the default is WeightedReward.default()"
            )
        for name, (_, weight) in self.terms.items():
            if not math.isfinite(weight):
                raise ValueError(f"the weight of reward term {name!r} must be a finite number, got {weight}")
        object.__setattr__(self, "terms", dict(self.terms))  # a copy: later changes to the caller's dict do not count

    @classmethod
    def default(cls) -> WeightedReward:
        """IoU + 0.5 * format (arXiv:2605.31145)."""
        return cls({"iou": (iou_reward, 1.0), "format": (format_reward, 0.5)})

    @classmethod
    def from_spec(cls, spec: str) -> WeightedReward:
        """Build a reward from text such as ``"iou:1,format:0.5"``.

        Args:
            spec: Pairs `name:weight` with commas between them; the names are those of `REWARD_TERMS`.

        Raises:
            ValueError: If a pair is malformed, a name is unknown or stands twice, or a weight is not finite.
        """
        terms: dict[str, tuple[RewardTerm, float]] = {}
        for pair in spec.split(","):
            name, separator, number = (part.strip() for part in pair.partition(":"))
            try:
                weight = float(number)
            except ValueError:
                separator = ""
            if not separator:
                raise ValueError(
                    f"reward {spec!r}: expected name:weight pairs such as 'iou:1,format:0.5', got {pair.strip()!r}"
                )
            if name not in REWARD_TERMS:
                raise ValueError(f"reward {spec!r}: unknown term {name!r}; known are {', '.join(REWARD_TERMS)}")
            if name in terms:
                raise ValueError(f"reward {spec!r}: the term {name!r} stands twice; give it one weight")
            terms[name] = (REWARD_TERMS[name], weight)
        return cls(terms)

    def __call__(
        self, parse: ParseResult, target_box: Box | None, image_wh: tuple[int, int]
    ) -> tuple[float, dict[str, float]]:
        """Score an answer.

        Returns:
            The weighted sum, and each term's value *before* weighting, so that what is logged under a term's
            name (the mean IoU, the share of well-formed answers) means the same whatever the weights.

        Raises:
            ValueError: If a term gives a number that is not finite.
        """
        values = {name: float(term(parse, target_box, image_wh)) for name, (term, _) in self.terms.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"reward term {name!r} must give a finite number, got {value} for {parse}")
        total = math.fsum(weight * values[name] for name, (_, weight) in self.terms.items())
        return total, values
