"""What is compared: each arm is one command line, from the model that another arm made or from the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Stage = Literal["sft", "grpo"]

BASE = "base"

COMMON: Mapping[Stage, tuple[str, ...]] = {
    "sft": (
        "--one-shot", "0.7", "--attention-layers", "last:3", "--precision", "bf16",
        "--validation-interval", "100", "--num-validation-episodes", "64", "--checkpoint-interval", "200",
    ),
    "grpo": (
        "--lr", "3e-4", "--warmup", "0.05", "--cooldown", "0.5", "--lr-end", "0.1", "--group-size", "8",
        "--groups-per-iteration", "32", "--max-completion-tokens", "16", "--precision", "bf16",
        "--validation-interval", "250", "--num-validation-episodes", "256", "--checkpoint-interval", "100",
    ),
}  # fmt: skip
"""What differs from the experiments' defaults. These: four supports, four objects in each picture, the same ones
throughout an episode and told apart by texture and colours; the vision tower stays as it is, as under the paper's
adapters, which reach the language model only."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm.

    Attributes:
        title: For tables.
        stage: Which experiment trains it; None for the base, which is not trained here.
        parent: The arm whose model it starts from.
        flags: What it changes of the common settings.
        is_paper: Whether it is one of the paper's own arms.
    """

    title: str
    stage: Stage | None
    parent: str = BASE
    flags: tuple[str, ...] = ()
    is_paper: bool = False


def _sft(title: str, *flags: str) -> Arm:
    return Arm(title, "sft", flags=flags)


ARMS: Mapping[str, Arm] = {
    BASE: Arm("base", None, is_paper=True),
    "sft": Arm("SFT", "sft", flags=("--beta", "0"), is_paper=True),
    "grpo": Arm("GRPO only", "grpo", is_paper=True),
    "sft-grpo": Arm("SFT + GRPO", "grpo", parent="sft", is_paper=True),
    "attention": Arm("SFT + attention loss", "sft", is_paper=True),
    "attention-grpo": Arm("SFT + attention loss + GRPO", "grpo", parent="attention", is_paper=True),
    "attention-twice": Arm("SFT + attention loss, and once more", "sft", parent="attention", flags=("--one-shot", "0")),
    "shuffled": _sft("SFT + attention loss, supports shuffled", "--shuffle-supports"),
    "target-coords": _sft("target: the numbers of the support boxes (the paper's)", "--attention-target", "coords"),
    "target-span": _sft("target: the text of the support boxes", "--attention-target", "span"),
    "target-both": _sft("target: numbers and region", "--attention-target", "both"),
    "layers-first": _sft("layers: the first three", "--attention-layers", "first:3"),
    "layers-all": _sft("layers: all (the paper's)", "--attention-layers", "all"),
    "mu-low": _sft("mu 0.25 of what is reachable", "--margin", "0.25"),
    "mu-high": _sft("mu 0.75 of what is reachable", "--margin", "0.75"),
    "beta-low": _sft("beta 0.5", "--beta", "0.5"),
    "beta-high": _sft("beta 8", "--beta", "8"),
    "labels-full": _sft("labels on every token (the paper's code)", "--labels", "full"),
    "iploc": _sft("IPLoc: names in the prompt, no attention loss", "--template", "iploc", "--beta", "0"),
}
"""By name. Where nothing else is said: attention loss on the region inside the support boxes, mean over the last three
of five layers, mu 0.5 of what is reachable, beta 2, labels on the answer."""

PUBLISHED: Mapping[str, float] = {
    BASE: 36.1, "sft": 34.3, "sft-grpo": 33.7, "attention": 57.1, "attention-grpo": 68.5,
}  # fmt: skip
"""What the paper reports (mIoU * 100, TAO, 4 shots, Qwen2-VL-7B): tables 1, 3 and 6 of arXiv:2605.31145, without
intervals. Other data and another model, so only the order of the rows can be compared."""


@dataclass(frozen=True, slots=True)
class Split:
    """Episodes to evaluate on.

    Attributes:
        title: For tables.
        options: Arguments of the synthetic data set that differ from the training's.
        is_shuffled: Whether supports are those of other episodes.
        shots: How many supports, in turn.
    """

    title: str
    options: Mapping[str, object]
    is_shuffled: bool = False
    shots: tuple[int, ...] = (4,)


MAIN_SPLIT = "unseen"
SPLITS: Mapping[str, Split] = {
    MAIN_SPLIT: Split("unseen identities", {"split": "test"}, shots=(1, 2, 4)),
    "seen": Split("seen identities", {"split": "train", "seed": 1}),
    "shapes": Split("unseen shapes", {"split": "test_shapes"}),
    "many": Split("six objects", {"split": "test", "num_objects": 6}),
    "same-shape": Split("same-shape distractors", {"split": "test", "distractors": "same_shape"}),
    "shuffled": Split("supports shuffled", {"split": "test"}, is_shuffled=True),
}
"""By name; all but the first are answered by the paper's arms alone. Seen identities stand in new scenes."""
