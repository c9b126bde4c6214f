"""Both sides at work in turns, and that they do the same."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_SAMPLING_TIMER, LEARNER_UPDATE_TIMER, SYNCH_WORKER_WEIGHTS_TIMER, TIMERS

from benchmarks.on_ray.bare_loop import BareLoop
from benchmarks.on_ray.setup import SIDES, Args, Contest, build_config
from focus_agents.grpo.algorithm import GRPO
from focus_agents.rollout.records import RolloutGroup

Weights = Mapping[str, torch.Tensor]

PARTS = {
    "sampling": ENV_RUNNER_SAMPLING_TIMER,
    "learning": LEARNER_UPDATE_TIMER,
    "sync": SYNCH_WORKER_WEIGHTS_TIMER,
}
"""Parts of an iteration, and RLlib's timers of them. "rest" is what is left of the iteration."""

WEIGHT_TOLERANCE = 1e-5
"""Norm of the difference of both sides' weights, over the norm of what training has changed."""


@dataclass
class Result:
    """The result of a contest.

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
        """Add the parts of one more iteration."""
        for name, milliseconds in parts.items():
            self.parts.setdefault(side, {}).setdefault(name, []).append(milliseconds)


def get_weights(algorithm: GRPO) -> dict[str, torch.Tensor]:
    """Return the weights that `algorithm` trains, by the model's names; copies, if the learner is in this process."""
    state = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
    return {name.removeprefix("policy."): weight for name, weight in state.items()}


def relative_difference(ours: Weights, peer: Weights, start: Weights) -> float:
    """Norm of the difference of two trainings' weights, over the norm of what the second has changed."""
    assert ours.keys() == peer.keys() == start.keys(), "weights: the sides train different parameters"

    def norm(one: Weights, other: Weights) -> float:
        return math.sqrt(sum(float((one[name] - other[name]).double().square().sum()) for name in one))

    return norm(ours, peer) / norm(peer, start)


def texts(groups: Sequence[RolloutGroup]) -> list[list[str]]:
    """Return the answers to each episode."""
    return [[completion.text for completion in group.generation.completions] for group in groups]


def check_same_answers(ours: Sequence[RolloutGroup], peer: Sequence[RolloutGroup]) -> None:
    """Check that both sides were asked about the same episodes and answered alike, but not all alike."""
    episodes = [[group.episode_index for group in groups] for groups in (ours, peer)]
    assert episodes[0] == episodes[1], f"episodes: ours {episodes[0]}, the peer's {episodes[1]}"
    assert texts(ours) == texts(peer), f"answers: ours {texts(ours)}, the peer's {texts(peer)}"
    assert len({text for group in texts(ours) for text in group}) > 1, "answers: all the same, which shows nothing"


def train(algorithm: GRPO) -> dict[str, float]:
    """Run one iteration, and return the milliseconds of its parts by the wall clock."""
    start = time.perf_counter()
    timers = algorithm.train()[TIMERS]
    seconds = time.perf_counter() - start
    parts = {name: float(timers[timer]) for name, timer in PARTS.items()}
    return {name: part * 1e3 for name, part in (parts | {"rest": seconds - sum(parts.values())}).items()}


@contextlib.contextmanager
def built(args: Args, contest: Contest, side: str) -> Iterator[GRPO]:
    """Build an algorithm, whose processes end with the context."""
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
    """Measure RLlib's iteration and the bare loop's, in turns, in this process."""
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
    """Return (milliseconds of an iteration by the wall clock, those of the parts of each) until the runners rest."""
    start = time.perf_counter()
    parts = [train(algorithm) for _ in range(num_iterations)]
    # A runner answers its calls in their order, so this one waits for what it samples ahead.
    algorithm.env_runner_group.foreach_env_runner(lambda runner: None, local_env_runner=False)
    return (time.perf_counter() - start) / num_iterations * 1e3, parts


def measure_processes(args: Args, contest: Contest) -> Result:
    """Return two algorithms with processes of their own, which take turns to work."""
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
    """Run one contest."""
    return (measure_overhead if contest.peer is None else measure_processes)(args, contest)
