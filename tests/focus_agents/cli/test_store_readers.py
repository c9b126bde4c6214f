"""A store in the hands of others: many workers at once, pandas, Ray Data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
import ray.data
from torch.utils.data import DataLoader

from focus_env.datasets import store_writer
from focus_env.datasets.store import StoreEpisodes
from focus_env.datasets.store_writer import write_store
from focus_env.types import Episode
from tests.fakes import FakeDataset

NUM_EPISODES, NUM_WORKERS = 40, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "MAX_SHARD_EPISODES", 15)
        write_store(FakeDataset(NUM_EPISODES, with_absent=True), folder, source={})
    return folder


def _first(batch: list[Episode]) -> tuple[str, float]:
    return batch[0].episode_id, float(batch[0].query_frame.image().mean())


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_disjoint_parts(folder: Path, context: str) -> None:
    episodes = StoreEpisodes(folder)
    episodes[0].query_frame.image()  # files that are open here must not be in the way there
    loader = DataLoader(
        episodes,  # type: ignore[arg-type]
        batch_size=1,
        shuffle=True,
        num_workers=NUM_WORKERS if context == "fork" else 2,
        collate_fn=_first,
        multiprocessing_context=context,
    )
    dataset = FakeDataset(NUM_EPISODES)
    expected = {f"fake/{i}": float(dataset[i].query_frame.image().mean()) for i in range(NUM_EPISODES - 1)}
    seen = list(loader)
    assert len(seen) == len({episode_id for episode_id, _ in seen}) == NUM_EPISODES
    assert {episode_id: mean for episode_id, mean in seen if episode_id in expected} == expected


def test_pandas_reads_it(folder: Path) -> None:
    table = pd.read_parquet(folder / "episodes")
    dataset = FakeDataset(NUM_EPISODES, with_absent=True)
    assert list(table["episode_id"]) == [f"fake/{index}" for index in range(NUM_EPISODES)]
    np.testing.assert_array_equal(table["target_box"][3], dataset[3].target_box)
    assert table["target_box"].isna().sum() == 1
    frames = pd.read_parquet(folder / "frames" / "part-00001.parquet")
    row = table.iloc[15 + 2]  # the third episode of the second part
    assert frames["name"][row["query_frame"]] == row["query_name"] == "17/query"


def test_ray_data_reads_it(folder: Path) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        table = ray.data.read_parquet(str(folder / "episodes"))
        assert table.count() == NUM_EPISODES
        assert {row["identity"] for row in table.take_all()} == {f"object-{index}" for index in range(NUM_EPISODES)}
    finally:
        ray.shutdown()
