"""What Ray and RLlib cost GRPO on one machine, and what more processes and sampling ahead gain there.

    python benchmarks/grpo_on_ray.py [--cases overhead async workers] [--groups 2] [--group-size 8]
                                     [--answer-tokens 32] [--shots 4] [--image-size 224]
                                     [--repetitions 5] [--block 4]

    overhead    ours: `GRPO.train` with runner and learner in this process. Peer: a bare loop, without RLlib, that does
                the same work. CPU time of this process; `ratio` is ours / peer, so 1.05 is an overhead of 5%.
    async       ours: one EnvRunner and one Learner, sampling one update ahead (`async_steps=1`, with "token_tis").
                Peer: the same two, on-policy.
    workers     ours: two EnvRunners and two Learners; then two EnvRunners and a learner in this process. Peer: one.

In `async` and `workers` time is that of the wall clock, and `ratio` is peer / ours: above 1, ours is so many times
faster. The sides take turns within a run; a turn is one iteration (overhead) or a block of them, and `ratio` is the
median over the rounds. A block ends when the runners have nothing left to do, so each block samples, within its time,
as many groups as it learns from; without this, a side that samples ahead would do so in the other side's turn. All
processes have one thread each, and share the cores with this one, the driver: on a machine with fewer cores than busy
processes, more workers cannot be faster, and these figures say nothing about a machine that has the cores.

Both sides of `overhead` run the very same iterations: the same episodes, seeds and answers in each round, and at the
end the same weights, to a part in 100,000 of what training has changed of them. In one process the learner takes over
the sampler's forward pass over the prompts, on both sides. RLlib's own share of an iteration holds, besides RLlib's
bookkeeping, our metrics of rollouts and learner, which the bare loop has not. In `async` and `workers` the answers of
the first iteration must be the same on both sides.

The model is the built-in one with random weights, which write noise and rarely end an answer early; so that noise earns
different rewards, any text is read as a box whose size is a function of it. A prompt's length follows from `--shots`
and `--image-size`, a token for 16 x 16 pixels; the lines say what it is.

Prints one JSON line for each comparison, with the milliseconds of each part of ours and of the peer, as RLlib's metrics
have them; then tables. `load` is the machine's load average over the last minute: well above the number of busy
processes, something else was running, and wall-clock figures are worth little.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import os
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium
import numpy as np
import ray
import torch
import tyro
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_UPDATE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import focus_env
from benchmarks.measuring import command, machine, print_line, run_quietly_on_one_thread
from focus_agents.cli.common import quiet_libraries, user_errors
from focus_agents.engine.scoring import score_completions
from focus_agents.grpo.advantage import group_advantages, has_signal
from focus_agents.grpo.algorithm import GRPO
from focus_agents.grpo.batch import collate_groups
from focus_agents.grpo.config import GRPOConfig
from focus_agents.grpo.loss import LossSettings, StepTotals, policy_loss
from focus_agents.grpo.selection import training_group
from focus_agents.models.loading import TINY, load_processor, load_trainable_model
from focus_agents.models.tiny import MERGE_SIZE, PATCH_SIZE
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import RolloutGroup, Sampling
from focus_env.datasets import SyntheticDataset
from focus_env.datasets.order import shuffled_indices
from focus_env.prompts import PromptTemplate, get_template
from focus_env.types import Box, ParseResult, ParseStatus

CaseName = Literal["overhead", "async", "workers"]
Line = dict[str, Any]
Weights = Mapping[str, torch.Tensor]

SIDES = ("ours", "peer")
PARTS = {
    "sampling": ENV_RUNNER_SAMPLING_TIMER,
    "learning": LEARNER_UPDATE_TIMER,
    "sync": SYNCH_WORKER_WEIGHTS_TIMER,
}
"""Parts of an iteration, and RLlib's timers of them. "rest" is what is left of the iteration."""

NUM_CPUS = 8
"""Of Ray: one for each process that two algorithms can have, whatever the machine has."""
NUM_EPISODES = 1_000
"""Few, since shuffling a million would take a part of each iteration on both sides, and hide some of the overhead."""
LEARNING_RATE = 1e-3
"""High enough that answers of one iteration show what the one before has learned."""
MAX_GRAD_NORM = 1.0
WEIGHT_TOLERANCE = 1e-5
"""Norm of the difference of both sides' weights, over the norm of what training has changed."""

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Args:
    """What Ray and RLlib cost GRPO, and what more processes gain."""

    cases: tuple[CaseName, ...] = ("overhead", "async", "workers")
    """What to compare."""
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


@dataclass
class Result:
    """What a contest gave.

    Attributes:
        readings: By side, milliseconds of an iteration, one for each round.
        parts: By side that has metrics, by part, milliseconds of an iteration, one for each iteration.
        groups: Of one iteration.
        weight_difference: Between the sides in the end, relative to what has changed; None: not compared.
    """

    readings: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})
    parts: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    groups: Sequence[RolloutGroup] = ()
    weight_difference: float | None = None

    def add_parts(self, side: str, parts: Mapping[str, float]) -> None:
        """Those of one more iteration."""
        for name, milliseconds in parts.items():
            self.parts.setdefault(side, {}).setdefault(name, []).append(milliseconds)


class NoiseTemplate(PromptTemplate):
    """A prompt whose answers may be anything: any text is read as most of the picture, how much is a function of it."""

    def parse(self, text: str, image_wh: tuple[int, int], input_wh: tuple[int, int] | None = None) -> ParseResult:
        """A box for a text. It leaves out a tenth at most on each side, so it always meets the object."""
        margin = zlib.crc32(text.encode()) % 1_000 / 10_000
        width, height = image_wh
        box = Box(width * margin, height * margin, width * (1 - margin), height * (1 - margin))
        return ParseResult(ParseStatus.OK, box, is_strict=False)


def build_environment(args: Args) -> dict[str, Any]:
    """The environment's arguments."""
    compact = get_template("compact")
    fields = {field.name: getattr(compact, field.name) for field in dataclasses.fields(compact)}
    dataset = SyntheticDataset(
        split="train", num_episodes=NUM_EPISODES, shots=args.shots, level=1, image_size=args.image_size, seed=SEED
    )
    return {"dataset": dataset, "template": NoiseTemplate(**fields)}


def build_config(args: Args, topology: Topology, *, num_batches: int) -> GRPOConfig:
    """The settings of GRPO there, all others being the defaults."""
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
            grad_clip=MAX_GRAD_NORM,
            async_steps=topology.async_steps,
            rollout_correction="token_tis" if topology.async_steps else "none",
        )
        .rl_module(model_config={"model": TINY, "max_image_tokens": args.max_image_tokens})
        .debugging(seed=SEED, log_level="ERROR")
    )  # fmt: skip


class BareLoop:
    """GRPO in one process and without RLlib: nothing but the work of an iteration."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.env = gymnasium.make(focus_env.ENV_ID, **build_environment(args))
        self.processor = load_processor(TINY, max_image_tokens=args.max_image_tokens)
        self.model = load_trainable_model(TINY, seed=SEED)
        self.policy = VLMPolicy(self.model, self.processor, keeps_prefix=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        self.num_iterations = 0

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Copies, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    def take_step(self) -> list[RolloutGroup]:
        """One iteration; returns its groups."""
        groups = self.sample()
        self.learn(groups)
        self.num_iterations += 1
        return groups

    def sample(self) -> list[RolloutGroup]:
        """The next episodes, answered and scored."""
        count = self.args.groups
        return collect_groups(
            self.env,
            self.policy,
            shuffled_indices(self.num_iterations * count, count, num_episodes=NUM_EPISODES, seed=SEED),
            group_size=self.args.group_size,
            sampling=Sampling(1.0, self.args.answer_tokens),
            seeds=[group_seed(self.num_iterations, position) for position in range(count)],
        )

    def learn(self, groups: Sequence[RolloutGroup]) -> None:
        """One optimizer step from groups that all have signal."""
        rewards = np.stack([group.rewards for group in groups])
        assert has_signal(rewards).all(), f"rewards: a group without signal, which RLlib's side skips: {rewards}"
        advantages = group_advantages(rewards)
        rows = [training_group(group, row) for group, row in zip(groups, advantages, strict=True)]
        batch = collate_groups(rows, self.processor)
        logprobs, _ = score_completions(
            self.model,
            batch.prompts,
            batch.token_ids,
            batch.lengths,
            banned_token_ids=self.processor.banned_token_ids,
            prefix=batch.prefix,
        )
        loss, _ = policy_loss(
            logprobs.flatten(0, 1),
            batch.sampler_logprobs.flatten(0, 1),
            batch.advantages.flatten(),
            batch.loss_mask.flatten(0, 1),
            settings=LossSettings(max_completion_tokens=self.args.answer_tokens),
            totals=StepTotals(int(batch.lengths.sum()), batch.lengths.numel(), num_micro_batches=1),
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()


def group_seed(iteration: int, position: int) -> int:
    """The seed that the algorithm gives a group; if it gives another, the answers differ."""
    return int(np.random.SeedSequence([SEED, iteration, position]).generate_state(1)[0])


def get_weights(algorithm: GRPO) -> dict[str, torch.Tensor]:
    """What `algorithm` trains, by the model's names; copies, as long as the learner is in this process."""
    state = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
    return {name.removeprefix("policy."): weight for name, weight in state.items()}


def relative_difference(ours: Weights, peer: Weights, start: Weights) -> float:
    """Norm of the difference of two trainings' weights, over the norm of what the second has changed."""
    assert ours.keys() == peer.keys() == start.keys(), "weights: the sides train different parameters"

    def norm(one: Weights, other: Weights) -> float:
        return math.sqrt(sum(float((one[name] - other[name]).double().square().sum()) for name in one))

    return norm(ours, peer) / norm(peer, start)


def texts(groups: Sequence[RolloutGroup]) -> list[list[str]]:
    """The answers to each episode."""
    return [[completion.text for completion in group.generation.completions] for group in groups]


def check_same_answers(ours: Sequence[RolloutGroup], peer: Sequence[RolloutGroup]) -> None:
    """Both sides were asked about the same episodes and answered alike, but not all alike."""
    episodes = [[group.episode_index for group in groups] for groups in (ours, peer)]
    assert episodes[0] == episodes[1], f"episodes: ours {episodes[0]}, the peer's {episodes[1]}"
    assert texts(ours) == texts(peer), f"answers: ours {texts(ours)}, the peer's {texts(peer)}"
    assert len({text for group in texts(ours) for text in group}) > 1, "answers: all the same, which shows nothing"


def train(algorithm: GRPO) -> dict[str, float]:
    """One iteration; returns the milliseconds of its parts by the wall clock."""
    start = time.perf_counter()
    timers = algorithm.train()[TIMERS]
    seconds = time.perf_counter() - start
    parts = {name: float(timers[timer]) for name, timer in PARTS.items()}
    return {name: part * 1e3 for name, part in (parts | {"rest": seconds - sum(parts.values())}).items()}


@contextlib.contextmanager
def built(args: Args, contest: Contest, side: str) -> Iterator[GRPO]:
    """An algorithm, whose processes end with the context."""
    algorithm = build_config(args, contest.topologies[side], num_batches=contest.num_batches).build_algo()
    try:
        yield algorithm
    finally:
        algorithm.stop()


def cpu_milliseconds(step: Callable[[], object]) -> float:
    """CPU time of this process, all its threads; each step collects its own garbage, and none of the other side's."""
    gc.collect()
    start = time.process_time()
    step()
    return (time.process_time() - start) * 1e3


def measure_overhead(args: Args, contest: Contest) -> Result:
    """RLlib's iteration and the bare loop's, in turns, in this process."""
    result, bare = Result(), BareLoop(args)
    start = bare.weights
    with built(args, contest, "ours") as algorithm:
        for is_measured in [False] + [True] * args.repetitions:  # the first warms up
            parts: dict[str, float] = {}
            groups: list[RolloutGroup] = []
            steps = {
                "ours": lambda parts=parts: parts.update(train(algorithm)),
                "peer": lambda groups=groups: groups.extend(bare.take_step()),
            }
            milliseconds = {side: cpu_milliseconds(step) for side, step in steps.items()}
            check_same_answers(algorithm.last_groups, groups)
            if is_measured:
                result.add_parts("ours", parts)
                for side in SIDES:
                    result.readings[side].append(milliseconds[side])
        result.groups = algorithm.last_groups
        difference = relative_difference(get_weights(algorithm), bare.weights, start)
    assert difference <= WEIGHT_TOLERANCE, f"weights: after training they differ by {difference:.1e} of what it changed"
    result.weight_difference = difference
    return result


def run_block(algorithm: GRPO, num_iterations: int) -> tuple[float, list[dict[str, float]]]:
    """(Milliseconds of an iteration by the wall clock, those of the parts of each) until the runners rest."""
    start = time.perf_counter()
    parts = [train(algorithm) for _ in range(num_iterations)]
    # A runner answers its calls in their order, so this one waits for what it samples ahead.
    algorithm.env_runner_group.foreach_env_runner(lambda runner: None, local_env_runner=False)
    return (time.perf_counter() - start) / num_iterations * 1e3, parts


def measure_processes(args: Args, contest: Contest) -> Result:
    """Two algorithms with processes of their own, which take turns to work."""
    result = Result()
    with contextlib.ExitStack() as stack:
        sides = {side: stack.enter_context(built(args, contest, side)) for side in SIDES}
        for algorithm in sides.values():
            run_block(algorithm, 1)
        check_same_answers(*(sides[side].last_groups for side in SIDES))
        result.groups = sides["ours"].last_groups
        for _ in range(args.repetitions):
            for side, algorithm in sides.items():
                milliseconds, parts = run_block(algorithm, args.block)
                result.readings[side].append(milliseconds)
                for part in parts:
                    result.add_parts(side, part)
    return result


def measure(args: Args, contest: Contest) -> Result:
    """One contest."""
    return (measure_overhead if contest.peer is None else measure_processes)(args, contest)


def compare(case: CaseName, contest: Contest, result: Result) -> Line:
    """The JSON line of a contest, but for what all lines have in common."""
    first, second = ("ours", "peer") if contest.peer is None else ("peer", "ours")
    ratios = [one / other for one, other in zip(result.readings[first], result.readings[second], strict=True)]
    prompt_tokens = statistics.median(len(group.generation.prompt.input_ids) for group in result.groups)
    lengths = [len(completion.token_ids) for group in result.groups for completion in group.generation.completions]
    return {
        "case": f"{case}: {contest.names['ours']} against {contest.names['peer']}",
        "name": case,
        **{side: round(statistics.median(result.readings[side]), 2) for side in SIDES},
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "ratio_of": f"{first} / {second}",
        "unit": "ms",
        "clock": "CPU" if contest.peer is None else "wall",
        "ours_name": contest.names["ours"],
        "peer_name": contest.names["peer"],
        "parts": {
            side: {name: round(statistics.median(values), 2) for name, values in parts.items()}
            for side, parts in result.parts.items()
        },
        "weight_difference": result.weight_difference,
        "prompt_tokens": prompt_tokens,
        "mean_answer_tokens": round(statistics.fmean(lengths), 2),
    }


def build_tables(lines: Sequence[Line]) -> list[Table]:
    """The comparisons, and the parts of an iteration."""
    first = lines[0]
    size = f"P {first['prompt_tokens']:,.0f}, G {first['group_size']}, {first['groups']} groups an iteration"
    sides = Table(
        title=f"Milliseconds of an iteration\n{size}",
        caption="EnvRunners + Learners; CPU: time of the process; wall: until the runners rest",
        box=SIMPLE,
        padding=0,
    )
    parts = Table(
        title="Parts of an iteration, milliseconds by the wall clock",
        caption="Medians of iterations; ahead, sampling is the wait for what is not there yet",
        box=SIMPLE,
        padding=0,
    )
    for column in ("case", "ours", "peer", "clock", "ours\nms", "peer\nms", "ratio", "range"):
        sides.add_column(column, justify="right" if "ms" in column or "ra" in column else "left")
    for column in ("case", "processes", *PARTS, "rest"):
        parts.add_column(column, justify="left" if column in ("case", "processes") else "right")
    for line in lines:
        low, high = line["ratio_range"]
        sides.add_row(
            line["name"],
            line["ours_name"],
            line["peer_name"],
            line["clock"],
            f"{line['ours']:,.1f}",
            f"{line['peer']:,.1f}",
            f"{line['ratio']:.3f}",
            f"{low:.3f} to {high:.3f}",
        )
        for side, values in line["parts"].items():
            parts.add_row(line["name"], line[f"{side}_name"], *(f"{value:,.1f}" for value in values.values()))
    return [sides, parts]


@contextlib.contextmanager
def started_ray() -> Iterator[None]:
    """Ray on this machine, its processes with one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(
        address="local", num_cpus=NUM_CPUS, include_dashboard=False, logging_level="ERROR", log_to_driver=False
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    quiet_libraries()
    with user_errors():
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    common = {
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(args) if field.name != "cases"},
        "machine": machine("cpu", ("torch", "transformers", "ray")),
        "command": command(),
    }
    lines: list[Line] = []
    with started_ray():
        for case in args.cases:
            for contest in CONTESTS[case]:
                line = {**compare(case, contest, measure(args, contest)), **common, "load": os.getloadavg()[0]}
                print_line(line)
                lines.append(line)
    console = Console()
    for table in build_tables(lines):
        console.print(table)


if __name__ == "__main__":
    main()
