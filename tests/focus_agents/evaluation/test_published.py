"""The paper's figures, typed a second time."""

from __future__ import annotations

import numpy as np
import pytest

from focus_agents.evaluation.published import DATA, LAYOUTS, TABLES, why_not_published

PUBLISHED = """
Idefics3      | 6.8 15.0 25.5  | 9.3 21.2 32.3  | 3.6 8.7 14.7   | 15.2
Pixtral-12B   | 8.2 22.7 16.8  | 13.9 19.4 23.7 | 4.6 7.6 22.4   | 15.5
LLaVA-OV      | 22.5 29.5 33.5 | 18.6 26.4 33.7 | 10.8 14.1 17.7 | 23.0
Qwen2-VL-7B   | 26.0 31.6 36.1 | 36.2 37.0 39.3 | 26.2 22.3 25.0 | 31.1
IPLoc, Qwen2-VL-7B | 51.7 54.3 56.1 | 64.2 68.1 68.7 | 49.7 57.1 59.4 | 58.8
Qwen2-VL-72B  | 46.2 52.8 55.6 | 62.7 60.1 59.9 | 51.9 50.7 55.4 | 55.0
InternVL2-76B | 50.4 55.2 57.5 | 65.8 66.7 65.4 | 44.2 47.3 52.5 | 56.1
FOCUS, Qwen2-VL-7B | 55.8 63.0 68.5 | 77.1 80.6 82.6 | 56.1 59.9 65.6 | 67.7
"""
"""Table 1: TAO, GOT-10k and ICL-LaSOT at 1, 2 and 4 shots, and the average."""
PUBLISHED_OTHERS = """
Qwen2-VL-7B  | 24.5 50.2 | 64.0 65.7 63.4
IPLoc, Qwen2-VL-7B | 41.2 53.3 | 84.1 83.1 79.4
Qwen2-VL-72B | 43.9 54.3 | 91.5 92.6 95.8
FOCUS, Qwen2-VL-7B | 53.8 72.8 | 95.5 96.6 97.5
"""
"""Table 2: PerMIRS at 1 and 2 shots, PerSeg at 1, 2 and 4."""


TABLE_3 = """
Qwen2-VL-7B | 26.0 31.6 36.1
FOCUS without attention loss, Qwen2-VL-7B | 24.3 27.2 33.7
FOCUS, Qwen2-VL-7B | 55.8 63.0 68.5
"""
TABLE_4 = """
LLaVA-OV | 22.5 29.5 33.5
FOCUS, LLaVA-OV | 52.2 59.7 65.7
"""
TABLE_5 = """
first 5 layers | 62.8
all layers | 57.1
last 5 layers | 42.12
"""
_BETAS = "0.01 0.15 0.2 0.25 0.3 0.35 1"
_GRID = """
0.025 | 37.2 53.2 55.9 57.1 56.4 52.5 28.1
0.05 | 40.8 48.6 49.7 50.2 51.3 50.7 24.2
0.075 | 38.7 46.1 47.3 47.5 45.5 44.7 23.4
"""
TABLE_6 = "without attention loss | 34.3\n" + "\n".join(
    f"mu {line.split(' | ')[0]}, beta {beta} | {score}"
    for line in _GRID.strip().splitlines()
    for beta, score in zip(_BETAS.split(), line.split(" | ")[1].split(), strict=True)
)


class TestPublished:
    """The paper's figures, typed a second time."""

    @pytest.mark.parametrize(("position", "text"), [(0, PUBLISHED), (1, PUBLISHED_OTHERS)])
    def test_figures(self, position: int, text: str) -> None:
        expected = {}
        for line in text.strip().splitlines():
            model, *columns = (part.strip() for part in line.split("|"))
            expected[model] = [[float(value) for value in column.split()] for column in columns]
        table = TABLES[position]
        found = {row.model: [list(scores) for scores in row.scores.values()] for row in table.rows if row.table < 3}
        for row in table.rows:
            if row.average is not None:
                found[row.model].append([row.average])
        assert found == expected
        assert all(row.table in (position + 1, 3, 4) for row in table.rows)
        for row in table.rows:
            assert [len(scores) for scores in row.scores.values()] == [
                len(table.datasets[name][1]) for name in row.scores
            ]

    def test_rows_of_other_tables(self) -> None:
        rows = {row.table: row for row in TABLES[0].rows if row.table > 2}
        assert rows[3].scores == {"tao": (24.3, 27.2, 33.7)}
        assert rows[4].scores == {"tao": (52.2, 59.7, 65.7)}

    @pytest.mark.parametrize(("number", "text"), [(3, TABLE_3), (4, TABLE_4), (5, TABLE_5), (6, TABLE_6)])
    def test_ablations(self, number: int, text: str) -> None:
        rows = [line.split("|") for line in text.strip().splitlines()]
        expected = {model.strip(): [float(value) for value in values.split()] for model, values in rows}
        assert {row.model: list(row.scores["tao"]) for row in LAYOUTS[number].rows} == expected
        assert all(row.table in (1, number) for row in LAYOUTS[number].rows)

    def test_averages_are_those_of_the_figures(self) -> None:
        averages = [(row.average, np.mean(sum(row.scores.values(), ()))) for row in TABLES[0].rows if row.table == 1]
        assert len(averages) == 8
        for printed, mean in averages:
            assert printed == pytest.approx(mean, abs=0.051)


GOT = [f"GOT-10k_Val_{number:06d}" for number in range(1, 181)]
VAL = {"dataset": "got10k", "split": "val", "protocol": "focus", "shuffle_supports": False, "on_bad": "raise"}


class TestPublishedData:
    """Whether episodes are those of the paper."""

    @pytest.mark.parametrize(
        ("changes", "identities", "reason"),
        [
            ({}, GOT[:4], "4 episodes of 4 objects, where the published data have 180"),
            ({}, [*GOT[:-1], GOT[0]], "180 episodes of 179 objects"),
            ({}, [*GOT[:-1], "my_dog"], "'my_dog' is none of its names"),
            ({}, [], "0 episodes"),
            ({"split": "train"}, GOT, "split is 'train', not 'val'"),
            ({"protocol": "random"}, GOT, "protocol is 'random', not 'focus'"),
            ({"shuffle_supports": True}, GOT, "shuffle_supports is True"),
            ({"on_bad": "skip"}, GOT, "on_bad is 'skip'"),
            ({"dataset": "store"}, GOT, "no figures on the data set 'store'"),
            ({"dataset": "tao:0.5,got10k:0.5"}, GOT, "no figures on"),
            ({}, GOT, ""),
        ],
    )
    def test_they_are_or_there_is_a_reason(
        self, changes: dict[str, object], identities: list[str], reason: str
    ) -> None:
        found = why_not_published(VAL | changes, identities)
        assert reason in found
        assert bool(reason) == bool(found)

    def test_each_has_a_column(self) -> None:
        assert set(DATA) < {name for table in TABLES for name in table.datasets}
