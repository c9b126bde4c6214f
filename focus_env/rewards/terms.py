"""Reward terms: the reward of an answer for one property.

A term is a pure function of N answers: it takes an `AnswerBatch` and returns [N] float64. A term with parameters is a
frozen dataclass with `__call__`. `docs/rewards.md` has a table of all terms, with how each can be gamed.

Terms of overlap without a box: an answer without a readable box gets the term's minimum. If the object is absent, the
answer "absent" gets 1, and any other answer the minimum.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from focus_env.answer_text import ANSWER_CLOSE, ANSWER_OPEN
from focus_env.overlap import ciou, covers_image, diou, giou, repeats_support
from focus_env.registry import Registry
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.controls import RandomReward, area_reward

Values: TypeAlias = npt.NDArray[np.float64]
"""[N] float64."""

RewardTerm: TypeAlias = Callable[[AnswerBatch], Values]
"""A pure function of N answers: [N] finite numbers, the more the better. A picklable one (no lambda, no closure) can
travel between processes."""

CURRICULUM_SWITCH = 0.5
"""Share of the training after which `piecewise_reward` asks for more."""


# ---- overlap with the target


def iou_reward(answers: AnswerBatch) -> Values:
    """IoU with the target, in [0, 1] (arXiv:2605.31145)."""
    return _settle_absent(answers.ious, answers)


def iou_squared_reward(answers: AnswerBatch) -> Values:
    """Return the square of the IoU, in [0, 1]: between good boxes it tells more apart (Perception-R1's code)."""
    values = iou_reward(answers)
    return values * values


@dataclass(frozen=True)
class IoUAt:
    """1 from an IoU of `threshold` on, else 0 (Curr-ReFT, Seg-Zero: above 0.5)."""

    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"iou_at: expected a threshold above 0 and up to 1, got {self.threshold}")

    def __call__(self, answers: AnswerBatch) -> Values:
        """Return [N] in {0, 1}."""
        return (iou_reward(answers) >= self.threshold).astype(np.float64)


@dataclass(frozen=True)
class Piecewise:
    """1 from an IoU of `high` on, 0 below `low`, and the IoU between (Vision-R1, arXiv:2503.18013)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1:
            raise ValueError(f"piecewise: expected 0 < low <= high <= 1, got {self.low} and {self.high}")

    def __call__(self, answers: AnswerBatch) -> Values:
        """Return [N] in [0, 1]."""
        values = iou_reward(answers)
        return np.where(values >= self.high, 1.0, np.where(values < self.low, 0.0, values))


EARLY_STAGE, LATE_STAGE = Piecewise(0.5, 0.75), Piecewise(0.75, 0.9)


def piecewise_reward(answers: AnswerBatch) -> Values:
    """Score by `Piecewise` with Vision-R1's two stages, in [0, 1]: (0.5, 0.75), from half of it on (0.75, 0.9)."""
    stage = EARLY_STAGE if answers.progress < CURRICULUM_SWITCH else LATE_STAGE
    return stage(answers)


def giou_reward(answers: AnswerBatch) -> Values:
    """Score by `overlap.giou` with the target, in [-1, 1]: boxes that do not touch it differ by their distance."""
    return _settle_absent(giou(answers.boxes, answers.target_boxes), answers)


def diou_reward(answers: AnswerBatch) -> Values:
    """Score by `overlap.diou` with the target, in [-1, 1]: the centres count."""
    return _settle_absent(diou(answers.boxes, answers.target_boxes), answers)


def ciou_reward(answers: AnswerBatch) -> Values:
    """Score by `overlap.ciou` with the target, in [-1.5, 1]: the centres and the shapes count."""
    return _settle_absent(ciou(answers.boxes, answers.target_boxes), answers)


def l1_reward(answers: AnswerBatch) -> Values:
    """Return 1 - the mean distance of the four coordinates, as shares of the query's width and height; in [0, 1]."""
    shares = np.abs(answers.boxes - answers.target_boxes)
    width, height = answers.image_wh[:, 0], answers.image_wh[:, 1]
    distance = ((shares[:, 0] + shares[:, 2]) / width + (shares[:, 1] + shares[:, 3]) / height) / 4
    return _settle_absent(np.where(distance < 1, 1 - distance, 0.0), answers)  # nan < 1 is false


def _settle_absent(values: Values, answers: AnswerBatch) -> Values:
    """Return 1 where an absent object is called absent; elsewhere a box that is nan has got the minimum already."""
    return np.where(answers.says_absent & ~answers.is_present, 1.0, values)


# ---- the answer's form


def format_reward(answers: AnswerBatch) -> Values:
    """Return 1 if the whole text has the answer format, else 0; whatever its numbers."""
    return answers.is_strict.astype(np.float64)


def format_soft_reward(answers: AnswerBatch) -> Values:
    """Return 1 for the format; else a quarter for each: the opening tag, the closing tag, one readable answer.

    A box action has no text, and so no tags.
    """
    num_tags = np.array(
        [0 if text is None else (ANSWER_OPEN in text) + (ANSWER_CLOSE in text) for text in answers.texts],
        dtype=np.float64,
    )
    is_readable = answers.has_box | answers.says_absent
    return np.where(answers.is_strict, 1.0, (num_tags + is_readable) / 4)


@dataclass(frozen=True)
class LengthReward:
    """1 for a text of up to `max_chars` characters, falling linearly to 0 at twice as many; 1 for a box action."""

    max_chars: float

    def __post_init__(self) -> None:
        if not 0 < self.max_chars < math.inf:
            raise ValueError(f"length: expected a number of characters above 0, got {self.max_chars}")

    def __call__(self, answers: AnswerBatch) -> Values:
        """Return [N] in [0, 1]."""
        lengths = np.array([0 if text is None else len(text) for text in answers.texts], dtype=np.float64)
        return np.clip(2 - lengths / self.max_chars, 0.0, 1.0)


# ---- presence, and shortcuts


def present_reward(answers: AnswerBatch) -> Values:
    """Return 1 for a box if the object is there, and for saying that it is absent if it is; else 0."""
    return np.where(answers.is_present, answers.has_box, answers.says_absent).astype(np.float64)


def whole_image_penalty(answers: AnswerBatch) -> Values:
    """Return -1 for answering the whole image, see `overlap.covers_image`, unless that is the target; else 0."""
    is_right = covers_image(answers.target_boxes, answers.image_wh)
    return np.where(answers.is_whole_image & ~is_right, -1.0, 0.0)


def copy_penalty(answers: AnswerBatch) -> Values:
    """Return -1 for repeating a support box, see `overlap.repeats_support`, unless the target is there too; else 0."""
    is_still = repeats_support(answers.target_shares, answers.support_boxes)
    return np.where((answers.copies_support & ~is_still).any(axis=-1), -1.0, 0.0)


# ---- by name


@dataclass(frozen=True, kw_only=True)
class RewardTermEntry:
    """A term that is known by name: without numbers, with numbers behind the name as in ``iou_at(0.5)``, or both.

    Attributes:
        name: As users write it.
        help: A short description without a full stop.
        least: The least value.
        most: The greatest value; a term that is never above 0 is a penalty, whose weight is not negative.
        function: The term without numbers, if there is one.
        factory: Makes the term from numbers, if it takes any; its parameters have no defaults.
        is_control: Whether it pays for something else than right answers, for comparison.

    Raises:
        ValueError: If there is neither a function nor a factory.
    """

    name: str
    help: str
    least: float = 0.0
    most: float = 1.0
    function: RewardTerm | None = None
    factory: Callable[..., RewardTerm] | None = None
    is_control: bool = False

    def __post_init__(self) -> None:
        if self.function is None and self.factory is None:
            raise ValueError(f"reward term {self.name!r}: expected a function, a factory or both, got neither")

    @property
    def is_penalty(self) -> bool:
        """Whether the term is negative itself, so that its weight is not."""
        return self.most <= 0

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the numbers that the factory takes."""
        return () if self.factory is None else tuple(inspect.signature(self.factory).parameters)

    @property
    def signature(self) -> str:
        """The name with the names of its numbers."""
        return f"{self.name}({', '.join(self.parameters)})"

    @property
    def usage(self) -> str:
        """The forms in which the name may be written."""
        forms = [self.name] if self.function is not None else []
        return ", ".join([*forms, self.signature] if self.factory is not None else forms)

    @property
    def summary(self) -> str:
        """The help, with the range of the values."""
        return f"{self.help}; {self.least:g} to {self.most:g}"


TERMS: Registry[RewardTermEntry] = Registry(
    "reward term",
    "focus_env.reward_terms",
    RewardTermEntry,
    [
        RewardTermEntry(name="iou", function=iou_reward, help="the IoU with the target"),
        RewardTermEntry(name="iou_squared", function=iou_squared_reward, help="the square of the IoU"),
        RewardTermEntry(name="iou_at", factory=IoUAt, help="1 from an IoU of the threshold on, else 0"),
        RewardTermEntry(
            name="piecewise",
            function=piecewise_reward,
            factory=Piecewise,
            help="1 from an IoU of `high` on, 0 below `low`, the IoU between; without numbers (0.5, 0.75), and in the "
            "second half of a training (0.75, 0.9)",
        ),
        RewardTermEntry(name="giou", function=giou_reward, least=-1, help="the generalised IoU"),
        RewardTermEntry(name="diou", function=diou_reward, least=-1, help="the IoU and the distance of the centres"),
        RewardTermEntry(
            name="ciou",
            function=ciou_reward,
            least=-1.5,
            help="the IoU, the distance of the centres and the difference of the shapes",
        ),
        RewardTermEntry(name="l1", function=l1_reward, help="1 - the mean distance of the four coordinates"),
        RewardTermEntry(name="format", function=format_reward, help="1 for the answer format, else 0"),
        RewardTermEntry(name="format_soft", function=format_soft_reward, help="the format with partial credit"),
        RewardTermEntry(
            name="length", factory=LengthReward, help="1 for up to so many characters, falling to 0 at twice as many"
        ),
        RewardTermEntry(name="present", function=present_reward, help="1 for knowing whether the object is there"),
        RewardTermEntry(
            name="whole_image", function=whole_image_penalty, least=-1, most=0, help="-1 for answering the whole image"
        ),
        RewardTermEntry(
            name="copy", function=copy_penalty, least=-1, most=0, help="-1 for repeating the box of a support"
        ),
        RewardTermEntry(
            name="area", function=area_reward, is_control=True, help="a control: the box's share of the picture"
        ),
        RewardTermEntry(
            name="random",
            factory=RandomReward,
            is_control=True,
            help="a control: a number that seed, episode and answer decide",
        ),
    ],
)
"""The terms that `WeightedReward.from_spec` knows by name; installed packages add theirs, see `focus_env.registry`."""

REWARD_TERMS: Mapping[str, RewardTerm] = MappingProxyType(
    {name: entry.function for name, entry in TERMS.built_in.items() if entry.function is not None}
)
"""The built-in terms without numbers."""

PARAMETRIC_TERMS: Mapping[str, Callable[..., RewardTerm]] = MappingProxyType(
    {name: entry.factory for name, entry in TERMS.built_in.items() if entry.factory is not None}
)
"""The built-in terms with numbers behind the name, as in ``iou_at(0.5)``."""


def terms_help() -> str:
    """Return what `--help` says of reward terms: a line for each of `TERMS`."""
    return (
        "Terms with weights, as in iou:1,format:0.5. A term is one of these, or your own as module:function:\n"
        + TERMS.help()
    )
