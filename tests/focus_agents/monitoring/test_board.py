"""The board as Grafana's schema has it, and that it shows every metric with its declaration."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from focus_agents.monitoring import board as module
from focus_agents.monitoring.board import DATASOURCE, Panel, board, groups
from focus_agents.monitoring.endpoint import TAGS, endpoint_name
from focus_agents.runs.metrics import METRICS, Metric

BOARD = board()
ROWS = [panel for panel in BOARD["panels"] if panel["type"] == "row"]
CURVES = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def test_the_board_has_what_grafanas_schema_asks_for() -> None:
    assert json.loads(json.dumps(BOARD, allow_nan=False)) == BOARD
    assert BOARD["schemaVersion"] >= 36  # since then a datasource is named by its type and uid
    assert re.fullmatch(r"[\w-]{1,40}", BOARD["uid"])
    assert BOARD["title"]
    assert {type(BOARD["templating"]["list"]), type(BOARD["annotations"]["list"]), type(BOARD["links"])} == {list}
    assert re.fullmatch(r"\d+[smh]", BOARD["refresh"])
    assert BOARD["time"].keys() == {"from", "to"}
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len({*ids}) == len(ids)
    for panel in CURVES:
        assert panel["type"] == "timeseries"
        assert panel["title"]
        assert panel["datasource"] == DATASOURCE
        assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
        assert panel["options"].keys() == {"legend", "tooltip"}
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == [*"ABCDEFG"][: len(letters)]
        for target in panel["targets"]:
            assert target["datasource"] == DATASOURCE
            assert target["legendFormat"].startswith("{{run}}")
    titles = [panel["title"] for panel in CURVES]
    assert len({*titles}) == len(titles)


def test_panels_lie_in_the_grid_and_none_over_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x, y in itertools.product(range(place["w"]), range(place["h"])):
            cell = place["x"] + x, place["y"] + y
            assert cell not in taken, (panel["title"], taken[cell])
            taken[cell] = panel["title"]
    assert [row["title"] for row in ROWS] == ["Learning", "Boxes", "Policy update", "Attention", "Speed", "Health"]
    tops = [row["gridPos"]["y"] for row in ROWS]
    assert tops == sorted(tops)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if {*metric.stages} & {"grpo", "sft"}])
def test_each_metric_has_a_curve_with_its_meaning_and_what_is_healthy(name: str) -> None:
    metric = METRICS[name]
    shown = [panel for row in groups().values() for panel in row if name in panel.names]
    assert sorted(panel.by_part for panel in shown) == ([False, True] if metric.part else [False])
    drawn = [panel for panel in CURVES if re.search(rf"\b{endpoint_name(name)}\{{", json.dumps(panel["targets"]))]
    assert len(drawn) == len(shown)
    for panel in drawn:
        assert f"{name} [{metric.unit}]" in panel["description"]
        assert metric.meaning in panel["description"]
        assert metric.healthy in panel["description"]


def test_a_metric_without_a_place_comes_last_whole_and_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    new = {"new_one": Metric("restarts", "processes that died", "0", ("grpo",), "role"), "old": METRICS["box_iou"]}
    monkeypatch.setattr(module, "METRICS", {**METRICS, **new})
    found = {row: [panel.title for panel in panels] for row, panels in groups().items()}
    assert found["Health"][-2:] == ["New one", "New one by role"]
    assert "Old" not in str(found)  # pretraining does not run on Ray


def test_queries_choose_by_the_boards_variables() -> None:
    assert Panel("", ("reward",)).queries() == {
        "reward": 'max by (run, stage) (ray_focus_reward{run=~"$run",stage=~"$stage",part=""})'
    }
    assert Panel("", ("support_mass",), by_part=True).queries() == {
        "support_mass": 'max by (run, stage, part) (ray_focus_support_mass{run=~"$run",stage=~"$stage",part!=""})'
    }
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert variables.keys() == {"run", "stage"}
    assert {*variables, "part"} == {*TAGS}
    for name, variable in variables.items():
        assert variable["datasource"] == DATASOURCE
        assert (variable["type"], variable["allValue"], variable["includeAll"]) == ("query", ".*", True)
        assert re.fullmatch(rf"label_values\(ray_focus_seconds.*, {name}\)", variable["query"]["query"])


@pytest.mark.parametrize(
    ("low", "high", "steps"),
    [
        (None, None, [("green", None)]),
        (None, 0.5, [("green", None), ("red", 0.5)]),
        (0.02, None, [("red", None), ("green", 0.02)]),
        (0.8, 1.25, [("red", None), ("green", 0.8), ("red", 1.25)]),
        (None, 0.0, [("green", None), ("red", 1e-9)]),  # 0 is healthy
    ],
)
def test_bounds_are_thresholds(low: float | None, high: float | None, steps: list[tuple[str, float | None]]) -> None:
    metric = Metric("share", "m", low=low, high=high)
    assert [(step["color"], step["value"]) for step in module._steps([metric, metric])] == steps
    assert module._steps([metric, Metric("share", "m", high=0.7)]) == module._steps([Metric("share", "m")])


def test_units_are_those_that_grafana_knows() -> None:
    defaults = {panel["title"]: panel["fieldConfig"]["defaults"] for panel in CURVES}
    assert defaults["Groups that teach nothing"]["unit"] == "percentunit"
    assert (defaults["Groups that teach nothing"]["min"], defaults["Groups that teach nothing"]["max"]) == (0, 1)
    assert defaults["Groups that teach nothing"]["custom"]["thresholdsStyle"]["mode"] == "dashed"
    assert defaults["Seconds by part"]["unit"] == "s"
    assert (defaults["Entropy"]["unit"], defaults["Entropy"]["custom"]["axisLabel"]) == ("none", "nats")
