"""Numbers that are none, in every numeric setting of every command: named, before anything starts."""

from __future__ import annotations

import dataclasses
import importlib
import math
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from focus_agents.cli.command_line import parse
from focus_agents.cli.common import ModelArguments
from focus_agents.cli.errors import user_errors
from focus_agents.cli.main import COMMANDS
from focus_agents.settings import Settings, deferred_checks

REQUIRED = {
    "plot": ["runs/a"],
    "convert": ["a.json", "b.csv"],
    "publish": ["--run", "runs/a", "--name", "focus-small-base", "--commit", "1234abc"],
    "export": ["--model", "tiny", "--to", "exported"],
    "push": ["--model", "tiny", "--to", "somebody/policy"],
}
"""Flags without which a command line is none."""

HUGE = {float: (math.nan, math.inf, -math.inf, 1e30, -1e30), int: (10**30, -(10**30), 10**400)}
"""No setting takes these, by the kind of its numbers."""

ZERO = {
    "one_shot", "beta", "weight_decay", "warmup", "cooldown", "lr_end", "adam_beta2", "signal_tolerance", "kl_coeff",
    "truncation_penalty", "seed", "seeds", "data_seed", "validation_interval", "patience", "checkpoint_interval",
    "num_data_workers", "async_steps", "max_failures", "num_workers", "num_env_runners", "num_learners",
    "num_gpus_per_worker", "num_gpus_per_env_runner", "num_gpus_per_learner", "gpus_per_run", "api_retries", "start",
    "port", "episode", "name_weight", "probe_seed", "min_score",
    "absent_fraction",
}  # fmt: skip
"""Settings in which 0 has a meaning; -1 has one nowhere."""


def number_of(annotation: Any) -> type | None:
    """The kind of number that a field holds, if it holds one, or several."""
    if annotation in (int, float):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in (typing.Union, tuple):
        return next(filter(None, map(number_of, typing.get_args(annotation))), None)
    return number_of(typing.get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else None


def numeric_settings(record: type[Settings], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each numeric field of a record, with the names of the groups around it and its annotation."""
    annotations = typing.get_type_hints(record, include_extras=True)
    for field in dataclasses.fields(record):
        annotation = annotations[field.name]
        if dataclasses.is_dataclass(annotation):
            yield from numeric_settings(annotation, (*path, field.name))
        elif number_of(annotation) is not None:
            yield (*path, field.name), annotation


def replaced(record: Any, path: tuple[str, ...], value: Any) -> Any:
    """A record with another value somewhere inside, which nobody has checked."""
    name, *rest = path
    with deferred_checks():
        return dataclasses.replace(record, **{name: replaced(getattr(record, name), rest, value) if rest else value})


def check(args: Any) -> None:
    """All that a command checks of its numbers, by its records or by what they load, before it starts anything."""
    args.check()
    if hasattr(args, "data"):
        shots = getattr(args, "shots", getattr(args.data, "shots", 1))
        args.data.load(shots=shots[0] if isinstance(shots, tuple) else shots)
    if isinstance(getattr(args, "model", None), ModelArguments):
        args.model.load_processor()


def refusal(args: Any, capsys: pytest.CaptureFixture[str]) -> str | None:
    try:
        with user_errors(type(args)):
            check(args)
    except SystemExit:
        return capsys.readouterr().err
    return None


@pytest.mark.parametrize("command", COMMANDS)
def test_each_number_of_a_command_has_a_range(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(COMMANDS[command].module)
    args = parse(module.Args, None, words=REQUIRED.get(command, []))
    settings = list(numeric_settings(module.Args))
    for path, annotation in settings:
        kind, name = number_of(annotation), path[-1]
        assert kind is not None
        bad = [*HUGE[kind], kind(-1), *([] if name in ZERO else [kind(0)])]
        for value in bad:
            is_tuple = typing.get_origin(annotation) is tuple
            message = refusal(replaced(args, path, (value,) if is_tuple else value), capsys)
            assert message is not None, (name, value)
            assert message.startswith("error: "), message
            assert f"{name}" in message.partition(":")[2].replace("-", "_"), (name, value, message)
    assert settings or command in ("report", "export", "push", "recipe", "convert")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("grpo", ["--lr", "nan"], "--lr: expected more than 0, got nan"),
        ("grpo", ["--lr", "1e30"], "--lr: expected more than 0, and at most 1, got 1e+30"),
        ("grpo", ["--num-iterations", "1_0"], "--num-iterations: expected a number in plain digits, got '1_0'"),
        ("grpo", ["--num-iterations=1_0"], "--num-iterations: expected a number in plain digits, got '1_0'"),
        ("grpo", ["--lr", "1_0e-5"], "--lr: expected a number in plain digits, got '1_0e-5'"),
        ("grpo", ["--reward", "iou:1_0"], "the weight of 'iou' must be a number, as in 'iou:0.5', got '1_0'"),
        ("grpo", ["--reward", "iou:\u0661"], "the weight of 'iou' must be a number"),
        ("evaluate", ["--num-episodes", "\u0661"], "--num-episodes: expected a number in plain digits, got '\u0661'"),
        ("evaluate", ["--shots", "1", "\u0662"], "--shots: expected a number in plain digits, got '\u0662'"),
        ("evaluate", ["--max-pixels", "1_000"], "--max-pixels: expected a number in plain digits, got '1_000'"),
        ("data", ["--dataset", "got10k:1_0,tao:1"], "different names and positive weights, got 'got10k:1_0'"),
        ("grpo", ["--lr", "1e400"], "--lr: expected more than 0, and finite, got inf"),
        ("grpo", ["--seed", "-1"], "--seed: expected 0 or more, got -1"),
        ("grpo", ["--seed", f"{10**30}"], f"--seed: expected 0 or more, and at most 4294967295, got {10**30}"),
        ("grpo", ["--num-learners", "-1"], "--num-learners: expected 0 or more, got -1"),
        ("grpo", ["--num-env-runners", "-1"], "--num-env-runners: expected 0 or more, got -1"),
        ("grpo", ["--groups-per-iteration", "0"], "--groups-per-iteration: expected 1 or more, got 0"),
        ("grpo", ["--num-passes", "0"], "--num-passes: expected 1 or more, got 0"),
        ("grpo", ["--temperature", "nan"], "--temperature: expected more than 0, got nan"),
        ("grpo", ["--delta", "inf"], "--delta: expected "),
        ("grpo", ["--delta", "nan"], "--delta: expected "),
        ("grpo", ["--lora-rank", "100000"], "--lora-rank: expected 1 or more, and at most 4096, got 100000"),
        ("grpo", ["--reward", "iou:0"], "reward 'iou:0': expected a weight other than 0, got none"),
        ("grpo", ["--reward", "iou:-1"], "reward 'iou:-1': expected a weight above 0, got none; the worst answers"),
        ("grpo", ["--reward", "iou_at(0.5):-1,format:0"], "expected a weight above 0, got none; the worst answers"),
        ("grpo", ["--reward", "iou:nan"], "must be a finite number, got nan"),
        ("grpo", ["--reward", "iou:1e30"], "the weight of reward term 'iou' must be from -1e6 to 1e6, got 1e+30"),
        ("sft", ["--image-size", "100000"], "--image-size: expected a whole number, and at most 4096, got 100000"),
        ("sft", ["--shots", "0"], "--shots: shots must be at least 1, got 0"),
        ("sft", ["--num-steps", "1e400"], "num-steps"),
        ("sft", ["--max-completion-tokens", f"{10**6}"], "--max-completion-tokens: expected 1 or more, and at most "),
        ("plot", ["runs/a", "--window", "-1"], "--window: expected 1 or more, got -1"),
        ("rewards", ["--seeds", "0", "-1"], "--seeds: expected 0 or more, got -1"),
        ("rewards", ["--gpus-per-run", "nan"], "--gpus-per-run: expected 0 or more, got nan"),
        ("evaluate", ["--num-gpus-per-worker", "nan"], "--num-gpus-per-worker: expected 0 or more, got nan"),
        ("sft", ["--level", "1", "--distractors", "near"], "--distractors: a picture of one object has none"),
        ("data", ["--num-objects", "1", "--distractors", "any"], "--distractors: a picture of one object has none"),
        ("evaluate", ["--output-dir", ""], "--output-dir: expected a value, got an empty one"),
        ("evaluate", ["--output-dir="], "--output-dir: expected a value, got an empty one"),
        ("demo", ["--query", ""], "--query: expected a value, got an empty one"),
        (
            "sft",
            ["--name", "a/b"],
            "--name: expected the name of one folder, got 'a/b'; where it lies is said by --out",
        ),
        ("grpo", ["--name", ".."], "--name: expected the name of one folder, got '..'"),
        ("pretrain", ["--name", "/tmp/x"], "--name: expected the name of one folder, got '/tmp/x'"),
        ("sft", ["--dataset", "got10k"], "--data-root: data set 'got10k' is read from files"),
        ("grpo", ["--reward", "/no/such.yaml"], "/no/such.yaml: expected a path that can be used, got: No such file"),
        ("evaluate", ["--shots", "0"], "--shots: shots must be at least 1, got 0"),
        ("pretrain", ["--lr-end", "nan"], "--lr-end: expected a share of the peak from 0 to 1, got nan"),
        ("pretrain", ["--warmup", "inf"], "--warmup: expected a number, and at most 1000000000, got inf"),
    ],
)
def test_a_number_that_is_none_names_its_flag(
    command: str,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [f"focus {command}", *words])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(COMMANDS[command].module).main()
    error = capsys.readouterr().err
    assert message in error, error
