"""The benchmark of RLlib's overhead and of more processes: what it prints, and that its sides do the same work."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.rllib.utils.metrics import TIMERS
from rich.console import Console

from benchmarks import grpo_on_ray as benchmark
from benchmarks.measuring import count_flops
from benchmarks.on_ray import bare_loop, turns
from benchmarks.on_ray.bare_loop import BareLoop
from benchmarks.on_ray.report import build_tables, compare
from benchmarks.on_ray.setup import CONTESTS, SIDES, Args, CaseName, Contest, NoiseTemplate
from benchmarks.on_ray.turns import PARTS, Result, built, check_same_answers, measure, relative_difference
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.rollout.records import Completion, Generation, RolloutGroup
from focus_env.types import ParseResult, ParseStatus

pytestmark = pytest.mark.ray

SIZE = ["--groups", "2", "--group-size", "3", "--answer-tokens", "4", "--shots", "1", "--image-size", "56"]
ARGS = Args(
    cases=("overhead",), groups=2, group_size=3, answer_tokens=4, shots=1, image_size=56, repetitions=1
)  # fmt: skip
(OVERHEAD,), (AHEAD,) = CONTESTS["overhead"], CONTESTS["async"]
KEYS = {
    "case", "name", "ours", "peer", "ratio", "ratio_range", "ratio_of", "unit", "clock", "ours_name", "peer_name",
    "parts", "weight_difference", "prompt_tokens", "mean_answer_tokens", "groups", "group_size", "answer_tokens",
    "shots", "image_size", "repetitions", "block", "machine", "command", "load",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()
    torch.set_num_threads(num_threads)


def test_prints_a_line_for_the_overhead_then_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "started_ray", contextlib.nullcontext)
    monkeypatch.setattr(sys, "argv", ["grpo_on_ray.py", "--cases", "overhead", "--repetitions", "2", *SIZE])
    benchmark.main()
    shown = capsys.readouterr().out.splitlines()
    (line,) = (json.loads(text) for text in shown if text.startswith("{"))
    assert line.keys() == KEYS
    assert (line["name"], line["ratio_of"], line["unit"], line["clock"]) == ("overhead", "ours / peer", "ms", "CPU")
    assert (line["groups"], line["group_size"], line["shots"], line["repetitions"]) == (2, 3, 1, 2)
    # Two pictures of 16 tokens, and the words around them.
    assert 32 < line["prompt_tokens"] < 32 + 60
    assert 1 <= line["mean_answer_tokens"] <= 4
    low, high = line["ratio_range"]
    assert 0 < low <= line["ratio"] <= high
    assert line["weight_difference"] <= 1e-5
    (parts,) = line["parts"].values()
    assert list(parts) == ["sampling", "learning", "sync", "rest"]
    assert all(value > 0 for value in parts.values())
    assert sum(text.split()[:2] == ["overhead", "0+0"] for text in shown) == 2


def test_both_sides_of_the_overhead_compute_the_same() -> None:
    """FLOPs: RLlib's side neither encodes a prompt more often nor leaves a group out."""
    bare = BareLoop(ARGS)
    with built(ARGS, OVERHEAD, "ours") as algorithm:
        algorithm.train()  # whose learner compares shared and repeated prompts once
        bare.take_step()
        flops = count_flops(algorithm.train)
        assert flops == count_flops(bare.take_step) > 0


def shift_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = BareLoop.learn

    def learn_and_shift(self: BareLoop, groups: Any) -> None:
        learn(self, groups)
        with torch.no_grad():
            next(self.model.parameters()).view(-1)[0] += 1e-4

    monkeypatch.setattr(BareLoop, "learn", learn_and_shift)


def answer_to_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_loop, "group_seed", lambda iteration, position: position)


def ask_about_other_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_loop, "shuffled_indices", lambda start, count, **options: [0] * count)


def learn_the_opposite(monkeypatch: pytest.MonkeyPatch) -> None:
    advantages = bare_loop.group_advantages
    monkeypatch.setattr(bare_loop, "group_advantages", lambda rewards: -advantages(rewards))


def reward_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = ParseResult(ParseStatus.NO_BOX, None, is_strict=False)
    monkeypatch.setattr(NoiseTemplate, "parse", lambda *_: nothing)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (shift_a_weight, "weights: after training they differ by"),
        (answer_to_other_seeds, "answers: ours"),
        (ask_about_other_episodes, r"episodes: ours \[\d+, \d+\], the peer's \[0, 0\]"),
        (learn_the_opposite, "answers: ours|weights: after training"),
        (reward_all_alike, "rewards: a group without signal"),
    ],
)
def test_sides_that_do_not_do_the_same_are_found(
    monkeypatch: pytest.MonkeyPatch, breaks: Callable[[pytest.MonkeyPatch], None], message: str
) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError, match=message):
        measure(ARGS, OVERHEAD)


def make_groups(*texts: str, episode: int = 0) -> list[RolloutGroup]:
    ids, nothing = np.arange(3), np.zeros(0, dtype=np.float32)
    prompt = EncodedPrompt(np.zeros(7, dtype=np.int64), np.zeros((0, 2), dtype=np.int64), {})
    completions = tuple(Completion(text, ids, nothing, is_finished=False) for text in texts)
    return [RolloutGroup(episode, Generation(completions, prompt), np.zeros(len(texts)), (), ())]


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (make_groups("a", "c"), "answers: ours"),
        (make_groups("a", "b", episode=1), "episodes: ours"),
        (make_groups("a", "b") * 2, "episodes: ours"),
    ],
)
def test_other_answers_are_found(peer: list[RolloutGroup], message: str) -> None:
    check_same_answers(make_groups("a", "b"), make_groups("a", "b"))
    with pytest.raises(AssertionError, match=message):
        check_same_answers(make_groups("a", "b"), peer)
    with pytest.raises(AssertionError, match="answers: all the same"):
        check_same_answers(make_groups("a", "a"), make_groups("a", "a"))


def test_the_difference_of_weights_is_relative_to_what_training_changed() -> None:
    start = {"a": torch.tensor([7.0, 1.0]), "b": torch.zeros(1)}
    peer = {"a": torch.tensor([10.0, 1.0]), "b": torch.tensor([4.0])}
    ours = {"a": torch.tensor([10.0, 1.5]), "b": torch.tensor([4.0])}
    assert relative_difference(ours, peer, start) == pytest.approx(0.1)
    with pytest.raises(AssertionError, match="different parameters"):
        relative_difference({"a": ours["a"]}, peer, start)


class FakeAlgorithm:
    """Its iterations take no time, and its runners some at the end of a block."""

    def __init__(self, side: str, log: list[str], seconds: float) -> None:
        self.side, self.log, self.seconds = side, log, seconds
        self.last_groups = make_groups("a", "b")
        self.env_runner_group = self

    def train(self) -> dict[str, Any]:
        self.log.append(self.side)
        return {TIMERS: dict.fromkeys(PARTS.values(), 1e-3)}

    def foreach_env_runner(self, function: Callable[[Any], None], *, local_env_runner: bool) -> None:
        assert not local_env_runner
        self.log.append(f"{self.side} rests")
        time.sleep(self.seconds)


def test_processes_work_in_turns_and_rest_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    sides = {"ours": FakeAlgorithm("ours", log, 0.02), "peer": FakeAlgorithm("peer", log, 0.06)}
    monkeypatch.setattr(turns, "built", lambda args, contest, side: contextlib.nullcontext(sides[side]))
    result = measure(dataclasses.replace(ARGS, block=2, repetitions=3), AHEAD)
    warm = ["ours", "ours rests", "peer", "peer rests"]
    assert log == warm + ["ours", "ours", "ours rests", "peer", "peer", "peer rests"] * 3
    assert [len(result.readings[side]) for side in SIDES] == [3, 3]
    assert all(10 <= reading < 30 for reading in result.readings["ours"])
    assert [len(values) for parts in result.parts.values() for values in parts.values()] == [6] * 8
    line = compare("async", AHEAD, result)
    assert line["ratio_of"] == "peer / ours"
    assert line["ratio"] == pytest.approx(3, rel=0.3)
    assert (line["prompt_tokens"], line["mean_answer_tokens"], line["clock"]) == (7, 3, "wall")
    sides["peer"].last_groups = make_groups("a", "c")
    with pytest.raises(AssertionError, match="answers: ours"):
        measure(ARGS, AHEAD)


@pytest.mark.parametrize(
    ("case", "contest", "ratio", "names"),
    [
        ("overhead", OVERHEAD, 0.5, ("0+0", "bare loop")),
        ("async", AHEAD, 2.0, ("1+1 ahead", "1+1")),
        ("workers", CONTESTS["workers"][0], 2.0, ("2+2", "1+1")),
        ("workers", CONTESTS["workers"][1], 2.0, ("2+0", "1+0")),
    ],
)
def test_a_ratio_says_what_it_is_of(case: CaseName, contest: Contest, ratio: float, names: tuple[str, str]) -> None:
    readings = {"ours": [1000.0, 3.0, 2000.0], "peer": [2000.0, 3.0, 4000.0]}
    parts = {name: [float(number)] for number, name in enumerate([*PARTS, "rest"])}
    line = compare(case, contest, Result(readings, dict.fromkeys(contest.topologies, parts), make_groups("a", "b")))
    assert (line["ours"], line["peer"], line["ratio"]) == (1000.0, 2000.0, ratio)
    assert line["ratio_range"] == sorted([ratio, 1.0])
    assert (line["ours_name"], line["peer_name"]) == names
    console = Console(width=80, file=io.StringIO())
    for table in build_tables([{**line, "group_size": 8, "groups": 2}]):
        console.print(table)
    shown = [text.split() for text in console.file.getvalue().splitlines()]
    low, high = line["ratio_range"]
    row = f"{case} {' '.join(names)} {line['clock']} 1,000.0 2,000.0 {ratio:.3f} {low:.3f} to {high:.3f}"
    assert row.split() in shown
    assert [f"{case} {names[SIDES.index(side)]} 0.0 1.0 2.0 3.0".split() in shown for side in SIDES] == [
        side in contest.topologies for side in SIDES
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repetitions", "0"], "repetitions: expected at least 1, got 0"),
        (["--block", "0"], "block: expected at least 1, got 0"),
        (["--group-size", "1"], "group_size: expected 2 or more, got 1"),
        (["--groups", "1"], "groups_per_iteration: expected 2 or more, got 1"),
        (["--cases", "overhead", "--groups", "0"], "groups_per_iteration: expected 1 or more, got 0"),
        (["--answer-tokens", "0"], "max_completion_tokens: expected 1 or more, got 0"),
        (["--image-size", "32"], "image_size"),
        (["--shots", "0"], "shots"),
    ],
)
def test_wrong_arguments_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["grpo_on_ray.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
