"""The whole script on a CPU: its rows, what it leaves out, and what it says of faults."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import on_gpu
from benchmarks.gpu import speed
from benchmarks.gpu.parity import PATHS
from benchmarks.gpu.rows import TimeBudget, Writer
from benchmarks.gpu.shapes import shape_config
from benchmarks.gpu.speed import Work
from focus_agents.models.budget import PromptSize
from focus_agents.models.shape import shape_of
from focus_agents.runs.files import read_json_lines

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--device", "cpu", "--shapes", "tiny", "--prompt-tokens", "128", "--group-sizes", "2", "--answer-tokens", "4"]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    output = folder / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", *SMALL, "--rounds", "1", "--output", str(output), *arguments])
    status = on_gpu.main()
    return status, read_json_lines(output)


def agree(name: str, bench: Any) -> list[dict[str, Any]]:
    return [{"path": name, "status": "agrees", "what": "log-probabilities", "gap": 0.0, "limit": 1.0}]


@pytest.fixture
def agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity without work."""
    monkeypatch.setattr(on_gpu, "Bench", lambda *args, **kwargs: None)
    monkeypatch.setattr(on_gpu, "check_path", agree)


def test_all_of_it_runs_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl")
    status, rows = run(monkeypatch, tmp_path, "--peak-tflops", "0.1")
    assert status == 0
    assert {row["path"] for row in rows if row["kind"] == "parity"} == set(PATHS)
    assert {row["status"] for row in rows if row["kind"] == "parity"} <= {"agrees", "seen", "left out"}
    speeds = {row["side"]: row for row in rows if row["kind"] == "speed"}
    assert list(speeds) == ["ours", "repeated", "trl", "trl_vllm"]
    for side in ("ours", "repeated", "trl"):
        row = speeds[side]
        assert (row["status"], row["rounds"]) == ("measured", 1)
        assert row["memory_gb"] > row["held_gb"] > 0
        for part in ("sampling", "learning"):
            seconds = row[f"{part}_seconds"]
            assert seconds > 0
            assert row[f"{part}_groups_per_second"] == pytest.approx(1 / seconds)
            assert row[f"{part}_peak_share"] == pytest.approx(row[f"{part}_tflop"] / seconds / 0.1)
    assert speeds["ours"]["counted_gb"] == pytest.approx(speeds["ours"]["memory_gb"], rel=0.5)
    assert speeds["trl_vllm"]["reason"] == "vllm not installed"
    assert all(row["machine"]["name"] and "torch" in row["machine"] and row["command"] for row in rows)
    shown = capsys.readouterr().out
    assert "| tiny | 128 | 2 | ours, prompts repeated |" in shown
    assert "parity holds in all that was checked" in shown


def test_parity_that_does_not_hold_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], agreed: None
) -> None:
    def check(name: str, bench: Any) -> list[dict[str, Any]]:
        if name == "decoding with lean adapters":
            raise RuntimeError("no kernel for this card")
        verdict = {"shared prompts": "differs"}.get(name, "agrees")
        return [row | {"status": verdict} for row in agree(name, bench)]

    monkeypatch.setattr(on_gpu, "check_path", check)
    status, rows = run(monkeypatch, tmp_path, "--sides", "ours")
    assert status == 1
    said = "parity does not hold: shared prompts differs, decoding with lean adapters failed"
    assert said in capsys.readouterr().out
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert failed["reason"] == "RuntimeError: no kernel for this card"
    assert rows[-1]["status"] == "measured"


def test_rows_beyond_the_budget_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], agreed: None
) -> None:
    clock = [0.0]
    make = TimeBudget
    monkeypatch.setattr(on_gpu, "TimeBudget", lambda seconds: make(seconds, clock=lambda: clock[0]))
    measure = speed.measure

    def take_a_minute(*args: Any) -> Any:
        clock[0] += 60
        return measure(*args)

    monkeypatch.setattr(on_gpu, "measure", take_a_minute)
    sizes = ["--prompt-tokens", "128", "256", "--group-sizes", "2", "3"]
    _, rows = run(monkeypatch, tmp_path, *sizes, "--sides", "ours", "--budget-s", "150")
    speeds = [row for row in rows if row["kind"] == "speed"]
    assert [row["status"] for row in speeds] == ["measured", "measured", "left out", "left out"]
    # P of 256 is twice the tokens, and six times the patches.
    expected, left = (float(word) for word in speeds[2]["reason"].split() if word.isdecimal())
    assert 2 * 60 < expected < 3 * 60
    assert left == 30
    assert "2 left out" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["build", "side"])
def test_a_row_without_memory_lets_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, agreed: None, place: str
) -> None:
    def run_out(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError

    if place == "build":
        monkeypatch.setattr(on_gpu, "shape_model", run_out)
    else:
        monkeypatch.setattr(speed, "sample", run_out)
    _, rows = run(monkeypatch, tmp_path, "--sides", "ours", "repeated")
    statuses = [row["status"] for row in rows if row["kind"] == "speed"]
    assert statuses == ["out of memory", "out of memory" if place == "build" else "measured"]


def test_each_row_is_on_the_disk_at_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "rows.jsonl", {"machine": {"name": "one"}})
    writer.add([{"status": "measured", "gap": math.nan}], kind="speed")
    (line,) = writer.path.read_text().splitlines()
    assert json.loads(line) == {"kind": "speed", "status": "measured", "gap": None, "machine": {"name": "one"}}


def test_what_rows_take_tells_of_those_behind() -> None:
    clock = [0.0]
    budget = TimeBudget(100, clock=lambda: clock[0])
    assert budget.expected("speed/ours", 1e12) == 0
    budget.took("build", 1.0, 50)
    budget.took("speed/ours", 1e12, 2)
    budget.took("speed/ours", 1e12, 1)
    assert budget.expected("speed/ours", 3e12) == pytest.approx(6)
    budget.took("speed/repeated", 1e12, 4)
    assert budget.expected("speed/trl", 1e12) == pytest.approx(4)
    assert budget.expected("parity", 1.0) == 0
    clock[0] = 101
    assert budget.spend("parity", 1.0, list) == [{"status": "left out", "reason": "about 0 s of work, 0 s left"}]


@pytest.mark.parametrize(("name", "parameters", "layers"), [("2b", 2_208_985_600, 28), ("7b", 8_291_375_616, 28)])
def test_shapes_are_those_of_the_known_models(name: Any, parameters: int, layers: int) -> None:
    """The counts of the published weights; the ones of the 2B model have one matrix for embedding and head."""
    shape = shape_of(shape_config(name))
    assert shape.num_layers == layers
    assert shape.parameters == parameters


def test_the_work_of_each_side() -> None:
    shape = shape_of(shape_config("tiny"))
    prompt = PromptSize(tokens=100, visual_tokens=80, num_pictures=5, patches=320, pixel_bytes=1)
    work = {side: Work.of(side, shape, prompt, 4, 25) for side in speed.SIDES}
    assert work["repeated"].learning == pytest.approx(work["ours"].learning * 4 * 125 / 200)
    assert work["trl"].learning - work["repeated"].learning == 4 * 320 * 2 * shape.vision_parameters
    assert work["trl_vllm"].sampling == work["ours"].sampling
    assert work["trl_vllm"].learning == work["trl"].learning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cpu"}, "shapes: expected tiny on cpu, got 2b 7b; add --shapes tiny"),
        ({"group_sizes": (1,)}, "group_sizes: expected at least 2, got 1"),
        ({"prompt_tokens": (20,)}, "prompt_tokens: expected at least 124, got 20"),
        ({"rounds": 0}, "rounds: expected at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_gpu.Args(**arguments)


def test_without_a_card_it_names_the_run_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no CUDA device that torch can use; .* --device cpu --shapes tiny"):
        on_gpu.Args()
