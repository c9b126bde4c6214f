"""Workers that divide the weights train as one process does, and go on from each other's checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from focus_agents.models.budget import Memory, total
from focus_agents.runs.checkpoint import read_training_state
from focus_agents.runs.folder import RunDirectory
from focus_agents.sft.budget import TRAINING, VALIDATION, worker_memory
from focus_agents.sft.model import build_model
from focus_agents.sft.outcome import trained_parameters
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.settings import SFTConfig, SFTSchedule
from focus_agents.sft.train import Workers, check_plan
from focus_env.errors import MissingDependencyError
from tests.fakes import FakeDataset
from tests.focus_agents.models.hub_models import hub_prompt, qwen2_vl_7b
from tests.focus_agents.sft.runs import largest_difference, make_plan, metrics, train
from tests.focus_agents.sft.sharing import run_workers

STEPS = {"batch_size": 5, "cooldown": 0.0, "checkpoint_interval": 2, "validation_interval": 2}
"""Five episodes, so that one of two and of four workers has more passes than the others; three to validate on, so that
one of four workers has none."""
HALF, ALL = 2, 3
"""Steps."""
CASES: dict[str, dict[str, Any]] = {
    "full": {"micro_batch_size": 1},
    "chunked": {"labels": "full", "gradient_checkpointing": True},
    "adapters": {"lora_rank": 2, "micro_batch_size": 2, "gradient_checkpointing": True, "attention_heads": "top:2"},
    "narrow": {"lora_rank": 2, "precision": "bf16"},
}


def plan_of(run: Path, num_steps: int = HALF) -> SFTPlan:
    """A run whose name begins with its case."""
    case = CASES[run.name.partition("_")[0]]
    return make_plan(run, episodes=FakeDataset(5, shots=1, with_absent=True), num_steps=num_steps, **STEPS, **case)


def going_on(source: Path, target: Path) -> SFTPlan:
    """A copy of a run of the first steps, to be made longer."""
    plan = plan_of(target, ALL)
    shutil.rmtree(target)
    shutil.copytree(source, target)
    return plan


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs by the number of their processes: "full_4to2" is begun by four and gone on with by two."""
    folder = tmp_path_factory.mktemp("runs")
    for case in CASES:
        train(plan_of(folder / f"{case}_1"))
    train(plan_of(folder / "full_straight", ALL))
    run_workers(folder, 4, [plan_of(folder / "full_4"), going_on(folder / "full_1", folder / "full_1to4")])
    two = [plan_of(folder / f"{case}_2") for case in ("chunked", "adapters", "narrow")]
    run_workers(folder, 2, [*two, going_on(folder / "full_4", folder / "full_4to2")])
    train(going_on(folder / "full_4", folder / "full_4to1"))
    return folder


@pytest.mark.parametrize(
    ("run", "alone"),
    [
        ("full_4", "full_1"),
        ("full_4to1", "full_straight"),
        ("full_4to2", "full_straight"),
        ("full_1to4", "full_straight"),
        ("chunked_2", "chunked_1"),
        ("adapters_2", "adapters_1"),
        ("narrow_2", "narrow_1"),
    ],
)
def test_the_run_is_that_of_one_process(runs: Path, run: str, alone: str) -> None:
    """Up to the order of sums: over the episodes of a step, and over parts of the gradient for its norm.

    Measured: metrics differed by 1.2e-6 of themselves, and weights by 5e-6. AdamW divides a gradient by its size, so
    more is possible where a gradient is nearly nothing but rounding; a step moves all other weights by 1e-3. In
    bfloat16, metrics differed by 6e-4, and weights by 5e-4, the last digit of the policy that is saved in it.
    """
    rel, atol = (5e-3, 2e-3) if run.startswith("narrow") else (1e-5, 1e-4)
    for ours, theirs in zip(metrics(runs / run), metrics(runs / alone), strict=True):
        assert ours == pytest.approx(theirs, rel=rel)
    assert largest_difference(runs / run, runs / alone) < atol
    for when in ("before", "after"):
        assert RunDirectory(runs / run).read_answers(when) == RunDirectory(runs / alone).read_answers(when)
    policies = [sorted(path.name for path in (runs / name / "checkpoints").iterdir()) for name in (run, alone)]
    assert set(policies[0]) >= set(policies[1]) >= {"final"}


def test_a_checkpoint_is_that_of_one_process(runs: Path) -> None:
    """In the same form, with the same numbers up to the order of sums."""
    ours, theirs = (read_training_state(runs / run / f"checkpoints/step_{HALF:06d}") for run in ("full_4", "full_1"))
    assert ours[2] == theirs[2]
    assert ours[1]["param_groups"] == theirs[1]["param_groups"]
    states = [{name: {"": value} for name, value in part[0].items()} | part[1]["state"] for part in (ours, theirs)]
    assert list(states[0]) == list(states[1])
    for key, expected in states[1].items():
        assert list(states[0][key]) == list(expected)
        for name, value in expected.items():
            atol = 1e-4 * float(value.abs().max())
            torch.testing.assert_close(states[0][key][name], value, rtol=0, atol=atol, msg=f"{key} {name}")


@pytest.mark.parametrize(("run", "size"), [("full_4", 4), ("adapters_2", 2), ("narrow_2", 2)])
def test_each_process_holds_its_share(runs: Path, run: str, size: int) -> None:
    """Between two steps, to the byte; of rows that do not divide evenly, each has room for the largest share."""
    plan = make_plan(runs / "again" / run, **CASES[run.partition("_")[0]])
    model = build_model(plan.model, plan.config)

    def share(parameters: Iterable[torch.nn.Parameter]) -> int:
        return sum(math.ceil(len(parameter) / size) * parameter[:1].nbytes for parameter in parameters)

    weights, trained = share(model.parameters()), share(trained_parameters(model).values())
    assert weights < 1.01 / size * sum(parameter.nbytes for parameter in model.parameters())
    expected = {
        "weights": weights,
        "gradients": trained,
        "optimizer": 2 * trained,
        "weights after a validation": weights,
    }
    for rank in range(size):
        held = json.loads((runs / run / f"held_{rank}.json").read_text())
        assert {name: held[name] for name in expected} == expected


def test_a_number_that_is_none_is_found_by_all_processes(runs: Path) -> None:
    for rank in range(4):
        assert json.loads((runs / f"full_4/held_{rank}.json").read_text())["finite"] == [True, False]


@pytest.mark.parametrize(
    ("options", "num_workers", "message"),
    [
        ({}, 0, "num_workers: expected 2 or more with `shard_weights`, .* got 0"),
        ({}, 1, "num_workers: expected 2 or more with `shard_weights`, .* got 1"),
        ({"compile": True}, 2, "compile: expected False with `shard_weights`, .* got True; leave out one"),
        ({"quantization": "4bit", "lora_rank": 2}, 2, "quantization: expected none with `shard_weights`, .* got 4bit"),
    ],
)
def test_refused(tmp_path: Path, options: dict[str, Any], num_workers: int, message: str) -> None:
    plan = make_plan(tmp_path / "run", **options)
    with pytest.raises(ValueError, match=message):
        check_plan(plan, Workers(num_workers=num_workers, shard_weights=True))


def test_a_torch_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FSDPModule, "reset_iter_state")
    with pytest.raises(MissingDependencyError, match=r"shard_weights: expected torch 2\.13 or newer, got"):
        check_plan(make_plan(tmp_path / "run"), Workers(num_workers=2, shard_weights=True))


@pytest.mark.parametrize("lora_rank", [None, 8])
def test_what_it_takes_is_counted(lora_rank: int | None) -> None:
    """Of a 7B: less with each worker, and never less than what is gathered."""
    config = SFTConfig(lora_rank=lora_rank, precision="bf16", batch_size=64, micro_batch_size=1)
    prompt = hub_prompt((1280, 720), 4, 352)

    def counted(num_workers: int, *, shard_weights: bool = True) -> tuple[Memory, Memory]:
        options: dict[str, Any] = {"prompts": (prompt, prompt), "num_workers": num_workers}
        memory = worker_memory(qwen2_vl_7b(), config, SFTSchedule(), shard_weights=shard_weights, **options)
        return memory[TRAINING], memory[VALIDATION]

    whole, two, eight = counted(2, shard_weights=False), counted(2), counted(8)
    for part in (0, 1):
        assert two[part]["optimizer"] == pytest.approx(whole[part]["optimizer"] / 2)
        assert eight[part]["weights"] == pytest.approx(two[part]["weights"] / 4)
        assert eight[part]["gathered"] == two[part]["gathered"]
    assert total(eight[0]) < total(two[0]) < total(whole[0])
    assert eight[1]["gathered"] == whole[1]["weights"]
