"""The variants of the plan in `arms`: an arm on a base, with a kind of scenes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from focus_agents.studies.ablation.arms import ARMS, BASE, BASES, COMMON, KINDS, QUICK_GRID, SECONDS, Stage


class Variant(NamedTuple):
    """An arm on a base, with a kind of scenes; folders and reports name it "arm/base/scenes"."""

    arm: str
    base: str
    scenes: str

    def __str__(self) -> str:
        return "/".join(self)

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read the text of a variant.

        Raises:
            ValueError: If the text is not that of a variant.
        """
        parts = text.split("/")
        if len(parts) != 3 or parts[0] not in ARMS or parts[1] not in BASES or parts[2] not in KINDS:
            raise ValueError(f"variant: expected arm/base/scenes, such as sft/where/one_look, got {text!r}")
        return cls(*parts)

    @property
    def parent(self) -> Variant | None:
        """The variant whose model this variant starts from; None for a base."""
        arm, after = ARMS[self.arm], KINDS[self.scenes].after
        if arm.stage is None:
            return None
        if (arm.stage, arm.parent) == ("sft", BASE) and after is not None:
            return Variant(self.arm, self.base, after)
        return Variant(arm.parent, self.base, self.scenes)

    @property
    def lineage(self) -> list[Variant]:
        """All variants that this variant needs, the base first, itself last."""
        return [*([] if self.parent is None else self.parent.lineage), self]

    def flags(self, num_sft_steps: int, num_grpo_iterations: int) -> tuple[str, ...]:
        """Return the command's flags, except for seed and paths; of a repeated flag the last one counts."""
        arm, parent = ARMS[self.arm], self.parent
        if arm.stage is None or parent is None:
            return ()
        number = self.num_steps(num_sft_steps, num_grpo_iterations)
        budget = ("--num-steps" if arm.stage == "sft" else "--num-iterations", str(number))
        one_shot = ("--one-shot", f"{self.one_shot:g}") if arm.stage == "sft" else ()
        pool = () if self.pool is None else ("--num-training-episodes", str(self.pool))
        return (*budget, *COMMON[arm.stage], "--scenes", self.scenes, *one_shot, *self._own_flags, *pool)

    @property
    def one_shot(self) -> float:
        """Fraction of the steps of stage 1, at the start, that show one support: 0 after an earlier stage 1."""
        parent = self.parent
        return KINDS[self.scenes].one_shot if parent is not None and ARMS[parent.arm].stage is None else 0.0

    @property
    def pool(self) -> int | None:
        """The arm's pool of episodes, or that of its parent."""
        own, parent = ARMS[self.arm].pool, self.parent
        return own if own is not None or parent is None else parent.pool

    @property
    def _own_flags(self) -> tuple[str, ...]:
        arm = ARMS[self.arm]
        before = ARMS[arm.parent]
        return (*(before.flags if arm.stage == before.stage == "sft" else ()), *arm.flags)

    def num_steps(self, num_sft_steps: int, num_grpo_iterations: int) -> int:
        """Return the optimizer steps of stage 1, or the iterations of GRPO; 0 for a base."""
        arm = ARMS[self.arm]
        if arm.stage is None:
            return 0
        if arm.stage == "grpo":
            return num_grpo_iterations
        steps = {
            "own": KINDS[self.scenes].share * num_sft_steps,
            "seconds": num_grpo_iterations * SECONDS["grpo"] / SECONDS["sft"],
            "steps": num_grpo_iterations,
        }
        return max(1, round(arm.share * steps[arm.work]))

    def training_seconds(self, num_sft_steps: int, num_grpo_iterations: int) -> float:
        """Return the seconds of the variant's steps on one core, by `SECONDS`."""
        number, stage = self.num_steps(num_sft_steps, num_grpo_iterations), ARMS[self.arm].stage
        if stage == "sft":
            one_shot = self.one_shot
            return number * (one_shot * SECONDS["sft_one_shot"] + (1 - one_shot) * SECONDS["sft"])
        return number * SECONDS["grpo"]

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        """Return the seeds of a study with which the variant is run."""
        return seeds[: ARMS[self.arm].num_seeds]


def planned(arms: Collection[str], bases: Collection[str], scenes: Collection[str]) -> list[Variant]:
    """Return the plan's variants of some arms on some bases and scenes."""
    return [
        Variant(arm, base, kind)
        for kind in KINDS
        if kind in scenes
        for arm in ARMS
        if arm in arms
        for base in ARMS[arm].grid.get(kind, ())
        if base in bases
    ]


def quick() -> list[Variant]:
    """Return the variants of a quick look."""
    return [Variant(arm, next(iter(BASES)), kind) for kind in KINDS for arm in QUICK_GRID if kind in QUICK_GRID[arm]]


def default_arms() -> tuple[str, ...]:
    """Return the arms that are run when no arm is named."""
    return tuple(name for name, arm in ARMS.items() if arm.is_default)


def stage_of(variant: str) -> Stage | None:
    """Return the stage of a variant, by its text."""
    return ARMS[Variant.parse(variant).arm].stage


def in_plan_order(variants: Sequence[Variant]) -> Iterator[Variant]:
    """Yield variants once each, by scenes, then as their arms and bases are declared."""
    kinds, arms, bases = list(KINDS), list(ARMS), list(BASES)
    yield from sorted(set(variants), key=lambda v: (kinds.index(v.scenes), arms.index(v.arm), bases.index(v.base)))
