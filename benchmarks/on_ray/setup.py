"""Pairs of processes that are compared, and the settings of GRPO in them."""

from __future__ import annotations

import dataclasses
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal

from focus_agents.grpo.algorithm import GRPOConfig
from focus_agents.models.loading import TINY
from focus_agents.models.tiny import MERGE_SIZE, PATCH_SIZE
from focus_env.datasets import SyntheticDataset
from focus_env.prompts import PromptTemplate, get_template
from focus_env.types import Box, ParseResult, ParseStatus

CaseName = Literal["overhead", "async", "workers"]

SIDES = ("ours", "peer")

NUM_EPISODES = 1_000
"""Few, since shuffling a million would take a part of each iteration on both sides, and hide some of the overhead."""
LEARNING_RATE = 1e-3
"""High enough that answers of one iteration show what the one before has learned."""
MAX_GRAD_NORM = 1.0

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the cost of Ray and RLlib for GRPO, and the gain of more processes."""

    cases: tuple[CaseName, ...] = ("overhead", "async", "workers")
    """Cases to compare."""
    groups: int = 2
    """Episodes of an iteration; the fewer, the more overhead weighs."""
    group_size: int = 8
    """Answers to each, G."""
    answer_tokens: int = 32
    """Tokens at which an answer is cut."""
    shots: int = 4
    """Support pictures of an episode."""
    image_size: int = 224
    """Side of a picture in pixels, a token for 16 x 16."""
    repetitions: int = 5
    """Rounds in which each side has one turn."""
    block: int = 4
    """Iterations of a turn in async and workers."""

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("cases: expected at least one, got none")
        for name in ("repetitions", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        # What is left is known to the configurations and to the data set.
        for contest in (contest for case in self.cases for contest in CONTESTS[case]):
            for topology in contest.topologies.values():
                build_config(self, topology, num_batches=contest.num_batches).validate()

    @property
    def max_image_tokens(self) -> int:
        """With so many, the image processor scales no picture down."""
        return math.ceil(self.image_size / (PATCH_SIZE * MERGE_SIZE)) ** 2


@dataclass(frozen=True)
class Topology:
    """Processes beside the driver, and how far sampling runs ahead. 0: in the driver itself."""

    num_env_runners: int = 0
    num_learners: int = 0
    async_steps: int = 0

    def __str__(self) -> str:
        return f"{self.num_env_runners}+{self.num_learners}{' ahead' if self.async_steps else ''}"


@dataclass(frozen=True)
class Contest:
    """Two sides that do the same work.

    Attributes:
        ours: Where our side works.
        peer: Where the other does; None: the bare loop.
    """

    ours: Topology
    peer: Topology | None

    @property
    def topologies(self) -> dict[str, Topology]:
        """By side, without the bare loop."""
        return {side: where for side, where in self._sides if where is not None}

    @property
    def num_batches(self) -> int:
        """In which both sides sample: one for each EnvRunner of the side that has most."""
        return max(1, *(topology.num_env_runners for topology in self.topologies.values()))

    @property
    def names(self) -> dict[str, str]:
        """EnvRunners + Learners of each side."""
        return {side: "bare loop" if where is None else str(where) for side, where in self._sides}

    @property
    def _sides(self) -> list[tuple[str, Topology | None]]:
        return [("ours", self.ours), ("peer", self.peer)]


CONTESTS: dict[CaseName, tuple[Contest, ...]] = {
    "overhead": (Contest(Topology(), None),),
    "async": (Contest(Topology(1, 1, async_steps=1), Topology(1, 1)),),
    "workers": (Contest(Topology(2, 2), Topology(1, 1)), Contest(Topology(2, 0), Topology(1, 0))),
}


class NoiseTemplate(PromptTemplate):
    """A prompt whose answers may be anything: any text is read as most of the picture, how much is a function of it."""

    def parse(self, text: str, image_wh: tuple[int, int]) -> ParseResult:
        """Return a box for a text. The box leaves out a tenth at most on each side, so it always meets the object."""
        margin = zlib.crc32(text.encode()) % 1_000 / 10_000
        width, height = image_wh
        box = Box(width * margin, height * margin, width * (1 - margin), height * (1 - margin))
        return ParseResult(ParseStatus.OK, box, is_strict=False)


def build_environment(args: Args) -> dict[str, Any]:
    """Return the environment's arguments."""
    compact = get_template("compact")
    fields = {field.name: getattr(compact, field.name) for field in dataclasses.fields(compact)}
    dataset = SyntheticDataset(
        split="train", num_episodes=NUM_EPISODES, shots=args.shots, level=1, image_size=args.image_size, seed=SEED
    )
    return {"dataset": dataset, "template": NoiseTemplate(**fields)}


def build_config(args: Args, topology: Topology, *, num_batches: int) -> GRPOConfig:
    """Return the settings of GRPO there, all others being the defaults."""
    return (
        GRPOConfig()
        .environment(env_config=build_environment(args))
        .env_runners(
            num_env_runners=topology.num_env_runners, create_local_env_runner=topology.num_env_runners == 0
        )
        .learners(num_learners=topology.num_learners)
        .training(
            group_size=args.group_size,
            groups_per_iteration=args.groups,
            rollout_batch_groups=math.ceil(args.groups / num_batches),
            max_completion_tokens=args.answer_tokens,
            lr=LEARNING_RATE,
            warmup=0.0,
            cooldown=0.0,
            grad_clip=MAX_GRAD_NORM,
            async_steps=topology.async_steps,
            rollout_correction="token_tis" if topology.async_steps else "none",
        )
        .rl_module(model_config={"model": TINY, "max_image_tokens": args.max_image_tokens, "freeze_vision": False})
        .debugging(seed=SEED, log_level="ERROR")
    )  # fmt: skip
