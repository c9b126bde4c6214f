"""Episodes that cannot be trained on: the next ones stand in, counted and named, until there is none."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from focus_agents.errors import EpisodeError, TrainingError
from focus_agents.models.loading import load_processor
from focus_agents.sft.data import SFTBatch, SFTExamples, load_batches
from focus_agents.sft.train import check_plan, train_sft
from focus_env.errors import DatasetError
from focus_env.prompts import get_template
from focus_env.types import Box, Episode, Exemplar
from tests.fakes import FakeDataset, make_frame
from tests.focus_agents.sft.runs import IN_PROCESS, make_plan, metrics


class SomeBad(FakeDataset):
    """One-shot episodes, of which some are of a shape that no image processor takes, or cannot be had at all."""

    def __init__(self, num_episodes: int, bad: Callable[[int], bool], *, are_there: bool = True) -> None:
        super().__init__(num_episodes, shots=1)
        self.bad, self.are_there = bad, are_there

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        if not self.bad(index):
            return episode
        if not self.are_there:
            raise DatasetError(f"row {index}: damaged")
        return dataclasses.replace(episode, support=(Exemplar(make_frame("thin", (1300, 6)), Box(0, 0, 3, 3)),))


def batches(dataset: FakeDataset, **options: int) -> list[list[SFTBatch]]:
    examples = SFTExamples(dataset, get_template("compact"), load_processor("tiny"))
    given = {"batch_size": 3, "seed": 0, "num_data_workers": 0, "micro_batch_size": 2, **options}
    return list(load_batches(examples, steps=range(2), **given))


@pytest.mark.parametrize("are_there", [True, False])
@pytest.mark.parametrize("num_one_shot_steps", [0, 2])
def test_the_next_one_stands_in(are_there: bool, num_one_shot_steps: int) -> None:
    """Six episodes in two steps of three: the third and fourth are bad, so the fifth is there three times."""
    options = {"num_one_shot_steps": num_one_shot_steps}
    found = batches(SomeBad(6, lambda index: index in (2, 3), are_there=are_there), **options)
    good = batches(FakeDataset(6, shots=1), **options)
    assert [[len(batch.answer_ids) for batch in step] for step in found] == [[2, 1], [2, 1]]

    def answers(steps: list[list[SFTBatch]]) -> list[list[int]]:
        flat = [batch for step in steps for batch in step]
        rows = [zip(batch.answer_ids, batch.answer_mask, strict=True) for batch in flat]
        return sorted(ids[mask].tolist() for pairs in rows for ids, mask in pairs)

    expected = answers(good)
    missing, there = [row for row in expected if row not in answers(found)], answers(found)
    assert len(missing) == 2
    assert max(there.count(row) for row in there) == 3
    reasons = [reason for step in found for batch in step for reason in batch.replaces]
    assert len(reasons) == 3, "the third stands aside for the fourth and the fifth, the fourth for the fifth"
    text = (
        r"episode 'fake/2': ValueError: picture 1 of 2, 1300 x 6 pixels" if are_there else "episode 2: row 2: damaged"
    )
    assert sum(reason.startswith(text) for reason in reasons) == 1


def test_a_process_that_draws_ahead_names_it_as_well() -> None:
    (first, *_), _ = batches(SomeBad(6, lambda index: index > 0), num_data_workers=1, micro_batch_size=3)
    assert len(first.replaces) > 2
    with pytest.raises(EpisodeError, match=r"^training data: .* got 6 in a row that cannot, the first: episode 'fake/"):
        batches(SomeBad(6, lambda index: True), num_data_workers=1)


def test_a_run_counts_and_names_them(tmp_path: Path) -> None:
    """Checked before a model starts, too: some bad ones are no reason not to."""
    plan = make_plan(tmp_path / "run", episodes=SomeBad(6, lambda index: index == 2), num_steps=4)
    check_plan(plan, IN_PROCESS)
    console = Console(file=io.StringIO(), width=200)
    summary = train_sft(plan, IN_PROCESS, console=console)
    assert summary["num_steps"] == 4
    lines = metrics(plan.run_path)
    assert sorted(line["skipped_episodes"] for line in lines) == [0, 0, 1, 1], "once in each epoch of two steps"
    shown = console.file.getvalue()
    assert shown.count("skipped: episode 'fake/2': ValueError: picture 1 of 2, 1300 x 6 pixels") == 1


def test_nothing_but_bad_ones(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run", episodes=SomeBad(40, lambda index: index != 0), num_steps=4)
    with pytest.raises(TrainingError, match=r"stopped after step \d: training data: .* got 16 in a row that cannot"):
        train_sft(plan, IN_PROCESS, console=Console(file=io.StringIO()))
    with pytest.raises(EpisodeError, match=r"'fake/0': ValueError: picture 1 of 2, 1300 x 6"):
        check_plan(make_plan(tmp_path / "all", episodes=SomeBad(40, lambda index: True)), IN_PROCESS)


def test_a_batch_travels_without_losing_its_reasons() -> None:
    ((batch, _), _) = batches(FakeDataset(6, shots=1))
    moved = dataclasses.replace(batch, replaces=("a reason",)).to("cpu")
    assert moved.replaces == ("a reason",)
    assert torch.equal(moved.answer_ids, batch.answer_ids)
