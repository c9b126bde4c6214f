"""Seconds to score a group of answers, against an environment that is stepped once for each of them.

    python benchmarks/score_answers.py [--sizes 640x480 1280x720] [--group-size 8] [--shots 4] [--repetitions 9]

Ours is `focus_env.rewards.scores.score_answers`, which `step` and the rollouts of training call: one call for a group,
from texts to rewards, terms and what metrics need. Two others do the same work in the same run:

stepped: reset and step for each answer; its observations are read-only views of the question's pictures.
copied: likewise, but reset and step each give a copy of the pictures, as rollouts were scored before.

The pictures are noise, all of one size. The answers are boxes around the target and elsewhere, one without the format,
one that is cut, one that says that the object is absent. All sides are checked to give the same rewards, terms and
scored answers first. They take turns; times are CPU times of one thread, the median of all turns. No model is involved.

Prints one JSON line per size, then a table. `ratio` is how many times less time ours takes.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import command, machine, print_line
from focus_env import ENV_ID
from focus_env.metrics import ScoredAnswer
from focus_env.rewards.scores import score_answer, score_answers
from focus_env.spaces import Observation
from focus_env.types import Box, Episode, Exemplar, Frame, ParseResult, ParseStatus

SEED = 0
MIN_SECONDS = 0.2
"""CPU time of a turn, at least."""

BOXES = (0.25, 0.25, 0.5, 0.75), (0.3, 0.2, 0.6, 0.8)
"""Of the supports and of the target, as shares of the pictures."""

Scores = tuple[list[float], list[dict[str, float]], list[ScoredAnswer]]
"""Of each answer, its reward, the reward's terms and what metrics need."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Seconds to score a group of answers."""

    sizes: tuple[str, ...] = ("640x480", "1280x720")
    """Width and height of the pictures in pixels."""
    group_size: int = 8
    """Answers to the episode."""
    shots: int = 4
    """Support pictures of the episode."""
    repetitions: int = 9
    """Turns of each side."""


# ---- what is scored


def make_episode(image_wh: tuple[int, int], *, shots: int) -> Episode:
    """Return an episode whose pictures are noise in memory."""
    rng = np.random.default_rng(SEED)
    width, height = image_wh

    def draw(name: str) -> Frame:
        return Frame(name, image_wh, rng.integers(256, size=(height, width, 3), dtype=np.uint8))

    box, target = (Box(x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in BOXES)
    support = tuple(Exemplar(draw(f"support-{shot}"), box) for shot in range(shots))
    return Episode("noise/0", support, draw("query"), target, "noise")


def make_texts(count: int) -> list[str]:
    """Return answers in thousandths of the picture."""
    rng = np.random.default_rng(SEED)
    special = ["It is at [300, 200, 600, 800].", "<answer>[300, 200, 6", "<answer>none</answer>"]
    boxes = np.array([300, 200, 600, 800]) + rng.integers(-150, 150, size=(count, 4))
    written = [f"<answer>[{', '.join(map(str, box))}]</answer>" for box in boxes.tolist()]
    return [*special, *written][:count]


# ---- the sides


class CopiedObservations(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Gives each caller pictures of its own."""

    def observation(self, observation: Observation) -> Observation:
        """Copy each array."""
        return Observation(
            support_images=tuple(image.copy() for image in observation["support_images"]),
            support_boxes=observation["support_boxes"].copy(),
            query_image=observation["query_image"].copy(),
        )


def score_at_once(env: gymnasium.Env[Any, Any], episode: Episode, texts: list[str]) -> Scores:
    template, reward = env.get_wrapper_attr("template"), env.get_wrapper_attr("reward")
    scores = score_answers(episode, texts, template=template, reward=reward)
    terms = [{name: float(values[place]) for name, values in scores.terms.items()} for place in range(len(texts))]
    return scores.rewards.tolist(), terms, list(scores.answers)


def score_in_steps(env: gymnasium.Env[Any, Any], episode: Episode, texts: list[str]) -> Scores:
    """Reset and step for each answer, and back from what `info` says to what was read."""
    rewards, terms, answers = [], [], []
    for text in texts:
        env.reset(options={"episode_index": 0, "progress": 1.0})
        _, reward, _, _, info = env.step(text)
        box = None if info["box"] is None else Box(*info["box"])
        parse = ParseResult(ParseStatus(info["parse_status"]), box, info["is_strict"])
        rewards.append(float(reward))
        terms.append(info["reward_terms"])
        answers.append(score_answer(episode, parse))
    return rewards, terms, answers


def make_sides(episode: Episode, texts: list[str]) -> dict[str, Callable[[], Scores]]:
    env = gymnasium.make(ENV_ID, dataset=[episode])
    copying = CopiedObservations(gymnasium.make(ENV_ID, dataset=[episode]))
    return {
        "ours": lambda: score_at_once(env, episode, texts),
        "stepped": lambda: score_in_steps(env, episode, texts),
        "copied": lambda: score_in_steps(copying, episode, texts),
    }


# ---- measuring


def measure(action: Callable[[], object]) -> float:
    """Return seconds of CPU time that a call takes, over as many calls as fill a turn."""
    calls, start = 0, time.thread_time()
    while (elapsed := time.thread_time() - start) < MIN_SECONDS:
        action()
        calls += 1
    return elapsed / calls


def measure_size(args: Args, size: str) -> dict[str, Any]:
    """Return the line of a size.

    Raises:
        ValueError: If the size is not two numbers.
        AssertionError: If the sides do not give the same.
    """
    if not (found := re.fullmatch(r"(\d+)x(\d+)", size)):
        raise ValueError(f"sizes: expected width x height as in 640x480, got {size!r}")
    episode = make_episode((int(found[1]), int(found[2])), shots=args.shots)
    sides = make_sides(episode, make_texts(args.group_size))
    expected = sides["copied"]()
    for name, action in sides.items():
        assert action() == expected, f"{name} does not score as the environment does in steps"
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repetitions):
        for name, action in sides.items():
            turns[name].append(measure(action))
    seconds = {name: statistics.median(values) for name, values in turns.items()}
    return {
        "case": size,
        **{name: float(f"{value:.3g}") for name, value in seconds.items()},
        "ratio": round(seconds["copied"] / seconds["ours"], 1),
        "ratio_to_stepped": round(seconds["stepped"] / seconds["ours"], 1),
        "unit": "s per group",
        "peer_name": "reset and step of the environment for each answer, pictures copied by each",
        "slowest_turn": float(f"{max(turns['ours']):.3g}"),
        "group_size": args.group_size,
        "pictures": args.shots + 1,
        "seed": SEED,
        "machine": machine("cpu", ("gymnasium", "numpy")),
        "command": command(),
    }


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    lines = []
    for size in args.sizes:
        lines.append(measure_size(args, size))
        print_line(lines[-1])
    table = Table("size", "ours", "stepped", "copied", "copied / ours", title="milliseconds to score a group")
    for line in lines:
        times = (f"{1e3 * line[name]:.2f}" for name in ("ours", "stepped", "copied"))
        table.add_row(line["case"], *times, f"{line['ratio']:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
