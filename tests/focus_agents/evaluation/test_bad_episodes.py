"""Episodes that cannot be asked, or at which a policy raises: one failed answer each, with its reason, and no more."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from focus_agents.evaluation.sheets import write_sheet
from focus_agents.policies.registry import PolicySpec
from focus_env.errors import DatasetError
from focus_env.types import Box, Episode, Frame
from tests.fakes import FakeDataset, make_frame
from tests.focus_agents.evaluation.scripted import NUM_EPISODES, make_plan, records_of, run


class Torn:
    """A picture that cannot be had."""

    def read(self) -> bytes:
        raise DatasetError("frame 5: cut after 20 of 200 bytes")


class SomeBad(FakeDataset):
    """The fifth episode has a picture as no image processor takes it, the sixth one that cannot be read."""

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        if index == 4:
            return dataclasses.replace(episode, query_frame=make_frame("thin", (1300, 6)), target_box=Box(0, 0, 9, 3))
        if index == 5:
            return dataclasses.replace(episode, query_frame=Frame("torn", (80, 60), Torn()))
        return episode


def test_pictures_that_a_model_cannot_take(tmp_path: Path) -> None:
    plan = make_plan(policies={"tiny": PolicySpec(text="vlm:tiny")}, episodes={2: SomeBad(NUM_EPISODES)})
    results = run(tmp_path, plan)
    records = records_of(results)
    assert [record.index for record in records if record.error is not None] == [4, 5]
    assert "1300 x 6 pixels" in str(records[4].error)
    assert "frame 5: cut after 20 of 200 bytes" in str(records[5].error)
    assert [record.answer.iou for record in records[4:6]] == [0.0, 0.0]
    write_sheet(results, results.cells()[0], SomeBad(NUM_EPISODES))
    assert results.sheet(results.cells()[0]).exists()
