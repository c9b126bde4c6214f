"""Weighted sums of reward terms, in Python and as text.

    WeightedReward.from_spec("iou:1,format:0.5")
    WeightedReward.from_mapping({"piecewise": 1, "iou_at(0.5)": 0.5, "my_package.rewards:centre_reward": 0.2})

The default is FOCUS's reward, IoU + 0.5 * [the format is right] (arXiv:2605.31145). The terms are in
`focus_env.rewards.terms`; `docs/rewards.md` explains each term, and how to write your own.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from focus_env.errors import RewardError
from focus_env.importing import import_object
from focus_env.plain_numbers import is_plain
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.terms import TERMS, RewardTerm, RewardTermEntry, Values, format_reward, iou_reward

_NAMED = re.compile(r"([^():,\s]+)\s*(?:\((.*)\))?")
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_COMMA = re.compile(r",(?![^()]*\))")
"""A comma that stands outside of parentheses."""

MOST_WEIGHT = 1e6
"""The largest size of a weight; rewards and what is computed from them stay far within float32."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = 200


@dataclass(frozen=True)
class WeightedReward:
    """A weighted sum of named terms.

    Attributes:
        terms: Name -> (function, weight). Weights are finite and at most `MOST_WEIGHT` in size; those of penalties,
            whose values are negative, are positive like others.

    Raises:
        ValueError: If there is no term, or a weight is not finite or too large.
    """

    terms: Mapping[str, tuple[RewardTerm, float]]

    def __post_init__(self) -> None:
        if not isinstance(self.terms, Mapping):
            raise ValueError(f"WeightedReward: expected a mapping from names to terms, got {self.terms!r:.80}")
        if not self.terms:
            raise ValueError(
                "WeightedReward needs at least one term, got none; the default is WeightedReward.default()"
            )
        for name, value in self.terms.items():
            if not (isinstance(value, tuple) and len(value) == 2 and callable(value[0]) and _is_number(value[1])):
                raise ValueError(f"reward term {name!r}: expected (function, weight), got {value!r:.80}")
            weight = value[1]
            if not math.isfinite(weight):
                raise ValueError(f"the weight of reward term {name!r} must be a finite number, got {weight}")
            if abs(weight) > MOST_WEIGHT:
                raise ValueError(f"the weight of reward term {name!r} must be from -1e6 to 1e6, got {weight}")
        object.__setattr__(self, "terms", dict(self.terms))  # a copy: later changes to the caller's dict do not count

    @classmethod
    def default(cls) -> WeightedReward:
        """IoU + 0.5 * format (arXiv:2605.31145)."""
        return cls({"iou": (iou_reward, 1.0), "format": (format_reward, 0.5)})

    @classmethod
    def from_spec(cls, spec: str) -> WeightedReward:
        """Build a reward from text such as ``"iou:1,format:0.5"``.

        Args:
            spec: Terms with commas between them, each `name:weight`; without a weight it is 1. A name is one of
                `focus_env.rewards.terms.TERMS` or one that an installed package adds, with numbers where the term takes
                some, as in ``iou_at(0.5)``; or the import path of a term of one's own, as in
                ``my_package.rewards:centre_reward``, whose module is imported then.

        Raises:
            ValueError: If a part is malformed, a name is unknown, cannot be imported or stands twice, or a weight is
                not finite.
        """
        return cls._build((_split_weight(part.strip()) for part in _COMMA.split(spec)), source=f"reward {spec!r}")

    @classmethod
    def from_mapping(cls, weights: Mapping[str, float | str]) -> WeightedReward:
        """Build a reward from terms, as `from_spec` names them, and their weights.

        Raises:
            ValueError: As `from_spec` does.
        """
        return cls._build(((str(term).strip(), weight) for term, weight in weights.items()), source="reward")

    @classmethod
    def _build(cls, parts: Iterable[tuple[str, Any]], *, source: str) -> WeightedReward:
        terms: dict[str, tuple[RewardTerm, float]] = {}
        for text, weight in parts:
            try:
                name, term, is_penalty = _resolve(text)
                number = _to_weight(name, weight, is_penalty=is_penalty)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from error
            if name in terms:
                raise ValueError(f"{source}: the term {name!r} appears twice; give it one weight")
            terms[name] = (term, number)
        return cls(terms)

    @property
    def spec(self) -> str:
        """The text that `from_spec` makes this reward of, if its terms have the names by which it knows them."""
        return ",".join(f"{name}:{_number_text(weight)}" for name, (_, weight) in self.terms.items())

    def __call__(self, answers: AnswerBatch) -> tuple[Values, dict[str, Values]]:
        """Score answers.

        Returns:
            [N] weighted sums, and each term's [N] values *before* weighting, so that what is logged under a term's
            name (the mean IoU, the share of well-formed answers) means the same whatever the weights.

        Raises:
            RewardError: If a term raises an error, or gives anything but N finite numbers. The message names the term,
                the episode and the completion.
        """
        totals = np.zeros(len(answers))
        values: dict[str, Values] = {}
        for name, (term, weight) in self.terms.items():
            values[name] = _evaluate(name, term, answers)
            totals += weight * values[name]
        return totals, values


# ---- calling a term


def _evaluate(name: str, term: RewardTerm, answers: AnswerBatch) -> Values:
    """Return a term's values, if it keeps its contract."""
    try:
        given = np.asarray(term(answers))
        if given.dtype.kind == "c":  # NumPy would drop the imaginary part with a warning
            raise TypeError("expected real numbers, got complex ones")
        values = given.astype(np.float64)
    except (Exception, SystemExit) as error:  # an exit would look like an end of the work
        raise RewardError(
            f"reward term {name!r} raised {type(error).__name__}: {error}{_place(error)}, "
            f"for {_describe(answers, _first_failure(term, answers))}"
        ) from error
    if values.shape != (len(answers),):
        raise RewardError(
            f"reward term {name!r}: expected {len(answers)} numbers, shape [{len(answers)}], one for each answer, got "
            f"shape {list(values.shape)}, for {_describe(answers, 0)}"
        )
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        raise RewardError(
            f"reward term {name!r} must give finite numbers, got {values[position]}, for {_describe(answers, position)}"
        )
    return values


def _first_failure(term: RewardTerm, answers: AnswerBatch) -> int:
    """Find the answer that a term raises for, by asking for each alone; the first if it raises for none."""
    for position in range(len(answers)):
        try:
            term(answers.row(position))
        except (Exception, SystemExit):
            return position
    return 0


def _place(error: BaseException) -> str:
    """Return the line of the term's own code that raised: other processes and the command line show no traceback."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return f" ({frames[0].filename}, line {frames[0].lineno})" if frames else ""


def _describe(answers: AnswerBatch, position: int) -> str:
    if not answers:
        return "a batch without answers"
    text = answers.texts[position]
    what = f"box action {answers.boxes[position].tolist()}" if text is None else f"completion {_SHORT.repr(text)}"
    return f"episode {answers.episode_ids[position]!r}, {what}"


# ---- reading terms and weights


def _split_weight(part: str) -> tuple[str, Any]:
    """Split ``name:weight``; a colon may belong to an import path."""
    head, colon, tail = part.rpartition(":")
    if colon and _is_number(tail):
        return head.strip(), tail
    name = part.split(":")[0].split("(")[0].strip()
    # Built-in names alone: a package may well add a term of its own name, and have other terms in its module.
    if colon and name in TERMS.built_in:
        return head.strip(), tail
    return part, 1.0


def _to_weight(name: str, weight: Any, *, is_penalty: bool) -> float:
    if isinstance(weight, bool) or not _is_number(weight):
        raise ValueError(f"the weight of {name!r} must be a number, as in '{name}:0.5', got {weight!r}")
    if is_penalty and float(weight) < 0:
        raise ValueError(f"{name!r} is a penalty with negative values, so a weight of {weight} would reward it")
    return float(weight)


def _resolve(text: str) -> tuple[str, RewardTerm, bool]:
    """Return the canonical name of a term, the term, and whether it is a penalty."""
    if _IMPORT_PATH.fullmatch(text):
        return text, _import_term(text), False
    named = _NAMED.fullmatch(text)
    if named is None:
        raise ValueError(f"expected terms such as 'iou', 'iou:1', 'iou_at(0.5):1' or 'module:function:1', got {text!r}")
    name, arguments = named.groups()
    entry = TERMS.find(name)
    if entry is None:
        raise ValueError(
            f"unknown term {name!r}{_nearest(name)}; known are {TERMS.known()}, and your own as module:function"
        )
    if arguments is None:
        if entry.function is None:
            raise ValueError(f"{name!r} needs numbers: {entry.signature}")
        return name, entry.function, entry.is_penalty
    canonical, term = _with_numbers(entry, arguments, text)
    return canonical, term, entry.is_penalty


def _with_numbers(entry: RewardTermEntry, arguments: str, text: str) -> tuple[str, RewardTerm]:
    """Return the canonical name of a term with numbers, and the term."""
    if entry.factory is None:
        raise ValueError(f"{entry.name!r} takes no numbers, got {text!r}")
    numbers = [number.strip() for number in arguments.split(",")]
    if len(numbers) != len(entry.parameters) or not all(map(_is_number, numbers)):
        raise ValueError(f"expected numbers as in {entry.signature}, got {text!r}")
    values = [float(number) for number in numbers]
    return f"{entry.name}({', '.join(map(_number_text, values))})", entry.factory(*values)


def _import_term(path: str) -> RewardTerm:
    term = import_object(path)
    if isinstance(term, type) or not callable(term):
        kind = "a class" if isinstance(term, type) else f"of type {type(term).__name__}"
        raise ValueError(f"term {path!r}: expected a function of an AnswerBatch, or an instance of a class, got {kind}")
    found: RewardTerm = term
    return found


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), TERMS.load_all()[0], n=1, cutoff=0.4)
    return f", did you mean {near[0]!r}?" if near else ""


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, str) or is_plain(value)


def _number_text(value: float) -> str:
    return repr(value).removesuffix(".0")
