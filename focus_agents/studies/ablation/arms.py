"""The plan of an ablation as data: bases, kinds of scenes, and arms.

An arm is a command line that starts from a base or from another arm's model. It names the bases and scenes on which it
is run, its pool of episodes, and its number of seeds. `grid` makes runs of the arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["sft", "grpo"]
Work = Literal["own", "seconds", "steps"]
"""Length of a run of stage 1: as the kind of scenes has it, or as many seconds or steps as a run of GRPO has."""

BASE = "base"


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model.

    Attributes:
        title: Title in tables.
        model: Name among the models that come with the package.
    """

    title: str
    model: str


BASES: Mapping[str, Base] = {
    "where": Base("where", "focus-small-base"),
    "how": Base("where and how", "focus-small-base-how"),
    "more": Base("where, control", "focus-small-base-more"),
}
"""Bases by name; see docs/bases.md. The third is the control of the second: as many more steps without heads."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of scenes, and the length of stage 1 on it.

    Attributes:
        title: Title in tables.
        share: Fraction of `num_sft_steps` that an arm takes.
        one_shot: Fraction of these steps, at the start, that show one support.
        after: The kind on which an arm that starts from a base is trained first, with steps of its own.
    """

    title: str
    share: float
    one_shot: float
    after: str | None = None


KINDS: Mapping[str, Kind] = {
    "one_look": Kind("one look", share=0.8, one_shot=0.7),
    "parts": Kind("parts", share=0.5, one_shot=0.0, after="one_look"),
    "tracks": Kind("tracks", share=0.7, one_shot=0.4),
}
"""Kinds by their name in `Scenes`; see docs/scenes.md. Parts are learned after whole objects: from a base, 1,000 steps
on parts hardly teach anything."""

COMMON: Mapping[Stage, tuple[str, ...]] = {
    "sft": (
        "--attention-layers", "last:3", "--shots-drawn", "1", "2", "4",
        "--validation-interval", "100", "--num-validation-episodes", "64", "--checkpoint-interval", "200",
    ),
    "grpo": (
        "--lr", "3e-4", "--warmup", "0.05", "--cooldown", "0.5", "--lr-end", "0.1", "--group-size", "8",
        "--groups-per-iteration", "32", "--max-completion-tokens", "16", "--shots-drawn", "1", "2", "4",
        "--validation-interval", "50", "--num-validation-episodes", "64",
        "--checkpoint-interval", "100",
    ),
}  # fmt: skip
"""Flags that differ from the experiments' defaults. An episode has four supports, and four objects in each picture, the
same throughout the episode, which texture and colours tell apart. The vision tower is frozen, as it is under the
paper's adapters, which change the language model only."""

SECONDS = {"sft_one_shot": 0.233, "sft": 0.363, "grpo": 1.1, "start": 25.0, "episode": 0.006, "probe": 15.0}
"""Seconds on one core with bfloat16 units. Keys `sft_one_shot` and `sft` are a step of stage 1 with one support and
with a drawn number of supports. The others are an iteration of GRPO, a run's start and end, an answered episode, and a
base's probe. Estimates and arms of equal seconds use these numbers, so that the plan does not depend
on a machine's load; the report has measured seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        title: Title in tables.
        stage: The experiment that trains the arm; None for the base, which is not trained here.
        parent: The arm whose model this arm starts from, on the same base and scenes.
        flags: Changes to the common settings. Stage 1 after stage 1 keeps the parent's flags.
        grid: The bases on which the arm is run, by kind of scenes.
        work: Length of the arm.
        share: Fraction of that length.
        pool: Number of episodes to train on repeatedly; None: as many as the arm needs, or the parent's pool.
        num_seeds: Number of the study's seeds with which the arm is run; None: all seeds.
        is_paper: Whether the arm is one of the paper's own arms.
        is_default: Whether the arm is run when no arms are named.
    """

    title: str
    stage: Stage | None
    parent: str = BASE
    flags: tuple[str, ...] = ()
    grid: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    work: Work = "own"
    share: float = 1.0
    pool: int | None = None
    num_seeds: int | None = None
    is_paper: bool = False
    is_default: bool = True


_ALL = ("where", "how", "more")
_BOTH = ("where", "how")
_WHERE = ("where",)
_HOW = ("how",)
_LOOK_WHERE = {"one_look": _WHERE}
_TRACKS_WHERE = {"tracks": _WHERE}
_COORDS = ("--attention-target", "coords")


def _setting(title: str, *flags: str, grid: Mapping[str, tuple[str, ...]], num_seeds: int | None = None) -> Arm:
    """Make an arm of stage 1 from a base with another setting."""
    return Arm(title=title, stage="sft", flags=flags, grid=grid, num_seeds=num_seeds)


def _old(title: str, *flags: str) -> Arm:
    """Make an arm of stage 1 that is run only when it is named."""
    return Arm(title=title, stage="sft", flags=flags, grid=_LOOK_WHERE, is_default=False)


def _after(title: str, parent: str, *flags: str, grid: Mapping[str, tuple[str, ...]], seeds: int | None = None) -> Arm:
    """Make an arm of GRPO from another arm's model."""
    return Arm(title=title, stage="grpo", parent=parent, flags=flags, grid=grid, num_seeds=seeds)


def _more(title: str, parent: str, grid: Mapping[str, tuple[str, ...]], work: Work = "seconds") -> Arm:
    """Make an arm of more stage 1, in place of GRPO."""
    return Arm(title=title, stage="sft", parent=parent, grid=grid, work=work)


def _pool(title: str, pool: int, *flags: str, num_seeds: int) -> Arm:
    """Make an arm of stage 1 from a bounded pool of episodes."""
    return Arm(title=title, stage="sft", flags=flags, pool=pool, grid=_TRACKS_WHERE, num_seeds=num_seeds)


_GRPO_GRID = {"one_look": _WHERE, "parts": _HOW, "tracks": _WHERE}

ARMS: Mapping[str, Arm] = {
    BASE: Arm(title="base", stage=None, grid=dict.fromkeys(KINDS, _ALL), is_paper=True),
    "sft": Arm(
        title="SFT", stage="sft", flags=("--beta", "0"), is_paper=True,
        grid={"one_look": _ALL, "parts": _BOTH, "tracks": _BOTH},
    ),
    "grpo": Arm(title="GRPO only", stage="grpo", grid={"one_look": _WHERE, "tracks": _WHERE}, is_paper=True),
    "sft-grpo": Arm(
        title="SFT + GRPO", stage="grpo", parent="sft", grid={"one_look": _WHERE, "tracks": _WHERE}, is_paper=True
    ),
    "attention": Arm(
        title="SFT + attention loss", stage="sft", is_paper=True,
        grid={"one_look": _BOTH, "parts": _BOTH, "tracks": _BOTH},
    ),
    "attention-grpo": Arm(
        title="SFT + attention loss + GRPO", stage="grpo", parent="attention", grid=_GRPO_GRID, is_paper=True
    ),
    "attention-more": _more("SFT + attention loss, and more at equal seconds", "attention", _GRPO_GRID),
    "target-coords": _setting(
        "target: the numbers of the support boxes (the paper's)", *_COORDS,
        grid={"one_look": _ALL, "parts": _HOW, "tracks": _ALL},
    ),
    "target-span": _setting(
        "target: the text of the support boxes", "--attention-target", "span", grid={"one_look": _HOW}, num_seeds=1
    ),
    "target-last": _setting(
        "target: the last token of that text", "--attention-target", "last", grid={"one_look": _BOTH}, num_seeds=2
    ),
    "coords-grpo": _after("target: the numbers, + GRPO", "target-coords", grid=_TRACKS_WHERE),
    "coords-more": _more("target: the numbers, and more at equal seconds", "target-coords", _TRACKS_WHERE),
    "coords-steps": _more("target: the numbers, and more in equal steps", "target-coords", _TRACKS_WHERE, "steps"),
    "sft-more": _more("SFT, and more at equal seconds", "sft", _TRACKS_WHERE),
    "short": Arm(title="target: the numbers, half as long", stage="sft", flags=_COORDS, share=0.5, grid=_TRACKS_WHERE),
    "short-grpo": _after("target: the numbers, half as long, + GRPO", "short", grid=_TRACKS_WHERE),
    "short-more": _more("target: the numbers, half as long, and more at equal seconds", "short", _TRACKS_WHERE),
    "long": Arm(
        title="target: the numbers, three times as long", stage="sft", flags=_COORDS, share=3.0, grid=_TRACKS_WHERE,
        num_seeds=1,
    ),
    "long-grpo": _after("target: the numbers, three times as long, + GRPO", "long", grid=_TRACKS_WHERE, seeds=1),
    "layers-first": _setting(
        "layers: the first three", "--attention-layers", "first:3", grid=_LOOK_WHERE, num_seeds=1
    ),
    "layers-all": _setting("layers: all (the paper's)", "--attention-layers", "all", grid=_LOOK_WHERE),
    "heads": _setting("heads: the 4 that look most", "--attention-heads", "top:4", grid=_LOOK_WHERE, num_seeds=2),
    "contrast": _setting(
        "contrast: the rest of the support pictures", "--attention-contrast", "supports", grid=_LOOK_WHERE, num_seeds=2
    ),
    "shuffled": _setting(
        "SFT + attention loss, supports shuffled", "--shuffle-supports", grid={"one_look": _WHERE, "tracks": _WHERE},
        num_seeds=2,
    ),
    "labels-full": _setting(
        "labels on every token (the paper's code)", *_COORDS, "--labels", "full", grid=_TRACKS_WHERE
    ),
    "labels-full-grpo": _after("labels on every token, + GRPO", "labels-full", grid=_TRACKS_WHERE, seeds=2),
    "margin-beyond": _setting(
        "margin beyond what is reachable, mu 1.5", *_COORDS, "--margin", "1.5", grid=_TRACKS_WHERE, num_seeds=1
    ),
    "lora": _setting("LoRA of rank 8", *_COORDS, "--lora-rank", "8", grid=_TRACKS_WHERE, num_seeds=1),
    "pool-512-sft": _pool("SFT, 512 episodes", 512, "--beta", "0", num_seeds=2),
    "pool-512": _pool("target: the numbers, 512 episodes", 512, *_COORDS, num_seeds=2),
    "pool-512-grpo": _after("target: the numbers, 512 episodes, + GRPO", "pool-512", grid=_TRACKS_WHERE, seeds=2),
    "pool-4000-sft": _pool("SFT, 4,000 episodes", 4000, "--beta", "0", num_seeds=1),
    "pool-4000": _pool("target: the numbers, 4,000 episodes", 4000, *_COORDS, num_seeds=1),
    "grpo-gold": _after(
        "GRPO with the right answer in each group", "target-coords", "--gold-answer", grid=_TRACKS_WHERE
    ),
    "grpo-ranks": _after("GRPO by ranks of rewards", "target-coords", "--rank-rewards", grid=_TRACKS_WHERE),
    "grpo-difficulty": _after(
        "GRPO, groups by difficulty", "target-coords", "--group-weights", "difficulty", grid=_TRACKS_WHERE, seeds=1
    ),
    "grpo-size": _after(
        "GRPO, groups by size of objects", "target-coords", "--group-weights", "size", grid=_TRACKS_WHERE, seeds=1
    ),
    "grpo-unscaled": _after(
        "GRPO without scaling by the deviation", "target-coords", "--advantage-scale", "none", grid=_TRACKS_WHERE,
        seeds=1,
    ),
    "grpo-kl": _after(
        "GRPO with KL 0.04 to stage 1", "target-coords", "--kl-coeff", "0.04", grid=_TRACKS_WHERE, seeds=1
    ),
    "attention-twice": Arm(
        title="SFT + attention loss, and once more", stage="sft", parent="attention", grid=_LOOK_WHERE, is_default=False
    ),
    "target-both": _old("target: numbers and region", "--attention-target", "both"),
    "mu-low": _old("mu 0.25 of what is reachable", "--margin", "0.25"),
    "mu-high": _old("mu 0.75 of what is reachable", "--margin", "0.75"),
    "beta-low": _old("beta 0.5", "--beta", "0.5"),
    "beta-high": _old("beta 8", "--beta", "8"),
    "iploc": _old("IPLoc: names in the prompt, no attention loss", "--template", "iploc", "--beta", "0"),
}  # fmt: skip
"""Arms by name. New options, and arms that only accompany others, have one seed or two; a promising arm gets all seeds
here. The defaults: attention loss on the region inside the support boxes, mean over the last three of five layers, mu
0.5 of the reachable gap, beta 2, labels on the answer, and 1, 2 or 4 supports drawn for each step."""

QUICK_GRID: Mapping[str, tuple[str, ...]] = {
    BASE: ("one_look", "parts", "tracks"),
    "sft": ("one_look", "tracks"),
    "attention": ("one_look", "parts", "tracks"),
    "target-coords": ("tracks",),
    "grpo": ("tracks",),
    "attention-grpo": ("tracks",),
    "attention-more": ("tracks",),
}
"""Arms of a quick look with the scenes of each, on the base `where`."""

PUBLISHED: Mapping[str, float] = {
    BASE: 36.1, "sft": 34.3, "sft-grpo": 33.7, "attention": 57.1, "attention-grpo": 68.5,
}  # fmt: skip
"""The paper's figures (mIoU * 100, TAO, 4 shots, Qwen2-VL-7B): tables 1, 3 and 6 of arXiv:2605.31145, without
intervals. The data and the model are others, so only the order of the rows can be compared."""


@dataclass(frozen=True, slots=True)
class Split:
    """Episodes to evaluate on.

    Attributes:
        title: Title in tables.
        options: Arguments of the synthetic data set that differ from those of the training.
        is_shuffled: Whether supports are those of other episodes.
        shots: Numbers of supports, answered in turn.
        scenes: Kinds of scenes that have this split.
    """

    title: str
    options: Mapping[str, object]
    is_shuffled: bool = False
    shots: tuple[int, ...] = (4,)
    scenes: tuple[str, ...] = ("one_look",)


MAIN_SPLIT = "unseen"
SPLITS: Mapping[str, Split] = {
    MAIN_SPLIT: Split("unseen identities", {"split": "test"}, shots=(1, 2, 4), scenes=tuple(KINDS)),
    "seen": Split("seen identities", {"split": "train", "seed": 1}),
    "shapes": Split("unseen shapes", {"split": "test_shapes"}),
    "many": Split("six objects", {"split": "test", "num_objects": 6}),
    "same-shape": Split("same-shape distractors", {"split": "test", "distractors": "same_shape"}),
    "shuffled": Split("supports shuffled", {"split": "test"}, is_shuffled=True, scenes=tuple(KINDS)),
}
"""Splits by name. Only the paper's arms answer splits other than unseen and shuffled. Seen identities are in new
scenes."""


def cell(split: str, shots: int) -> str:
    """Return the key of a table's cell."""
    return f"{split}/{shots}"


SHOTS = 4
MAIN_CELL = cell(MAIN_SPLIT, SHOTS)
"""The cell on which most claims rest."""
