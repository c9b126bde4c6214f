"""`focus evaluate`: the table it makes in several calls, and what it says to wrong arguments."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from focus_agents.errors import EvaluationError
from focus_env.datasets.store_writer import write_store
from tests.fakes import FakeDataset
from tests.focus_agents.cli.commands import main_error, run, start, wait_for
from tests.focus_env.datasets.readers.writers import write_got10k_sequence
from tests.places import load_experiment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "random", "vml"], "policy 'vml': no such policy. Did you mean 'vlm'? Known are random, center, "),
        (["--policy", "no.such:Policy"], "importing 'no.such' raised ModuleNotFoundError"),
        (["--policy", "copy_support:first"], "expected copy_support:last or copy_support:nearest"),
        (["--policy", "vlm:runs/nothing/here"], "model 'runs/nothing/here': there is no such folder; expected one of"),
        (["--policy", "random", "random"], "policy: expected one or several different ones, got ('random', 'random')"),
        (["--policy"], "policy"),
        (["--shots", "2", "2"], "shots: expected one or several different ones, got (2, 2)"),
        (["--shots", "0"], "shots must be at least 1, got 0"),
        (["--num-episodes", "0"], "--num-episodes: expected 1 or more, got 0"),
        (["--batch-size", "0"], "--batch-size: expected 1 or more, got 0"),
        (["--max-completion-tokens", "0"], "--max-completion-tokens: expected 1 or more, got 0"),
        (["--num-workers", "-1"], "--num-workers: expected 0 or more, got -1"),
        (["--dataset", "imagenet"], "unknown data set 'imagenet'; there are synthetic, got10k"),
        (["--dataset", "got10k"], "pass --data-root, the folder where it was unpacked"),
        (["--split", "tset"], "split must be one of"),
        (["--template", "long"], "unknown prompt template 'long'"),
        (["--max-image-tokens", "1"], "--max-image-tokens: expected at least 4, got 1"),
        (["--num-workers", "1", "--device", "cuda"], "--device cuda: workers see no GPU without --num-gpus-per-worker"),
        (["--num-workers", "64", "--num-gpus-per-worker", "1"], "64 workers need more than the"),
        (["--model", "focus-small"], "--model"),
        (
            ["--policy", "random", "--policy", "center"],
            "--policy: expected once, with all of its values behind it",
        ),
        (["--shots", "1", "--shots=2"], "--shots: expected once, with all of its values behind it, got it 2 times"),
        (["--policy", "copy_support", "copy_support:last"], "got 'copy_support' and 'copy_support:last', the same"),
        (["--policy", "random", "--device", "cuda"], "--device: without effect on the policy random"),
        (
            ["--policy", "center", "random", "--precision", "bf16"],
            "--precision: without effect on the policy center",
        ),
        (["--api-retries", "1"], "--api-retries: without effect on the policy vlm:focus-small"),
        (
            ["--protocol", "iploc"],
            "--protocol: the data set 'synthetic' has nothing that it could change",
        ),
        (["--dataset", "got10k", "--level", "2"], "--level: the data set 'got10k' has nothing that it could change"),
        (
            ["--dataset", "got10k", "--min-gap", "2"],
            "--min-gap: expected the protocol 'random', whose episodes",
        ),
        (["--no-dashboard"], "--dashboard: expected --num-workers beside it; without workers no Ray is started"),
        (["--ray-address", "auto"], "--ray-address: expected --num-workers beside it"),
        (["--policy", "json:dumps"], "called as call(observation, rng), which it does not take"),
        (["--policy", "math:pi"], "expected an object with a method `generate` (focus_agents.Policy) or a function"),
        (["--policy", "collections:OrderedDict"], "got OrderedDict, a class whose objects are neither"),
        (["--policy", "json:loads:x"], "called as call(observation, rng), which it does not take"),
    ],
)
def test_evaluate_names_a_wrong_argument(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = main_error("evaluate", ["--output-dir", str(tmp_path / "table"), *arguments], capsys)
    assert message in error, error
    assert not (tmp_path / "table").exists()


def evaluate_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    load_experiment("evaluate").main()


def test_evaluations_of_several_calls_make_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--output-dir", str(tmp_path), "--num-episodes", "4", "--shots", "1", "2"]
    evaluate_here(monkeypatch, *common, "--policy", "random", "vlm:focus-small")
    capsys.readouterr()
    shuffled = [*common, "--policy", "random", "--shuffle-supports", "--label", "shuffled"]
    evaluate_here(monkeypatch, *shuffled)
    (tmp_path / "sheets/random__shuffled__2-shot.png").unlink()  # as after a kill while sheets are drawn
    evaluate_here(monkeypatch, *shuffled, "--paper-table")
    shown = capsys.readouterr().out
    for words in (
        "synthetic, 2 shots",
        "shuffled, 1 shot",
        "vlm:focus-small",
        "FOCUS, Qwen2-VL-7B",
        "(published, table",
    ):
        assert words in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    cells = [(cell["policy"], cell["dataset"], cell["shots"], cell["num_episodes"]) for cell in summary["cells"]]
    assert cells == [
        ("random", "synthetic", 1, 4),
        ("random", "synthetic", 2, 4),
        ("vlm:focus-small", "synthetic", 1, 4),
        ("vlm:focus-small", "synthetic", 2, 4),
        ("random", "shuffled", 1, 4),
        ("random", "shuffled", 2, 4),
    ]
    assert len(summary["published"]) == 14
    names = {f"{policy}__{data}__{shots}-shot" for policy, data, shots, _ in cells}
    names = {name.replace(":", "-") for name in names}
    assert {path.stem for path in (tmp_path / "answers").iterdir()} == names
    assert {path.stem for path in (tmp_path / "sheets").iterdir()} == names
    with Image.open(tmp_path / "sheets/random__shuffled__2-shot.png") as sheet:
        assert sheet.height > 4 * 160
    error = main_error("evaluate", [*common, "--policy", "random", "--level", "5"], capsys)
    assert "data 'synthetic' was answered with other settings: level is 5 here and 3 there" in error
    assert "Choose another --output-dir, or for a data set another --label" in error


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "four"
    write_store(FakeDataset(5, shots=4), folder, source={})
    return folder


@pytest.mark.parametrize("shots", [[], ["--shots", "4"]])
def test_a_store_is_asked_with_its_own_number_of_shots(
    store: Path, shots: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "store", "--data-root", str(store), "--policy", "center", *shots]
    evaluate_here(monkeypatch, *arguments, "--output-dir", str(tmp_path / "table"))
    (cell,) = json.loads((tmp_path / "table/summary.json").read_text())["cells"]
    assert (cell["shots"], cell["num_episodes"]) == (4, 5)
    report = (tmp_path / "table/report.md").read_text()
    assert f"\nstore: dataset store, from {store}.\n" in report.replace("\\", "")
    assert "few episodes, 5" in report
    assert "split" not in report
    assert "protocol" not in report


def test_a_store_is_asked_with_no_other_number_of_shots(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--dataset", "store", "--data-root", str(store), "--output-dir", str(tmp_path / "table")]
    for shots in (["2"], ["1", "2", "4"]):
        error = main_error("evaluate", [*common, "--shots", *shots], capsys)
        assert "--shots: the data set 'store' has " in error, error
    for flag in ("--split", "--protocol", "--absent", "--data-seed"):
        value = {"--protocol": "random", "--absent": "keep"}.get(flag, "7")
        assert f"{flag}: the data set 'store' has nothing" in main_error("evaluate", [*common, flag, value], capsys)
    assert not (tmp_path / "table").exists()


def test_a_folder_in_the_layout_of_got10k_is_not_the_papers_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        boxes = [f"{x},5,10,8" for x in range(6)]
        write_got10k_sequence(tmp_path / "data/val", f"GOT-10k_Val_{number:06d}", boxes, [0] * 6, "cat")
    (tmp_path / "data/val/list.txt").write_text("GOT-10k_Val_000000\nGOT-10k_Val_000001\n")
    evaluate_here(
        monkeypatch, "--dataset", "got10k", "--data-root", str(tmp_path / "data"), "--split", "val", "--paper-table",
        "--policy", "center", "--shots", "1", "--output-dir", str(tmp_path / "table"),
    )  # fmt: skip
    report = (tmp_path / "table/report.md").read_text()
    beside = report[report.index("## Beside the paper: TAO") :]
    assert "FOCUS, Qwen2-VL-7B (published, table 1)" in beside
    assert "center" not in beside
    assert "got10k, 1 shot: left out beside the paper's rows, since the episodes are not the published ones: " in report
    assert "2 episodes of 2 objects, where the published data have 180" in report
    assert "one episode for each video (got10k)" in report


def test_a_bug_in_a_policy_is_shown_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy_with_a_bug.py").write_text("def locate(question, rng): return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match=r"'policy_with_a_bug:locate' on episodes 0 to 3 .*division by") as info:
        evaluate_here(
            monkeypatch, "--policy", "policy_with_a_bug:locate", "--num-episodes", "4", "--output-dir", "table"
        )
    assert isinstance(info.value.__cause__, ZeroDivisionError)


@pytest.mark.e2e
def test_a_killed_evaluation_answers_what_is_left(tmp_path: Path) -> None:
    def arguments(folder: str) -> list[str]:
        return [
            "--policy", "random", "--num-episodes", "300", "--shots", "4", "1", "--batch-size", "2", "--output-dir",
            str(tmp_path / folder),
        ]  # fmt: skip

    def answers(folder: str) -> list[list[dict]]:
        files = sorted((tmp_path / folder / "answers").iterdir())
        lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        return [[{**line, "seconds": 0} for line in sorted(part, key=lambda line: line["index"])] for part in lines]

    second = tmp_path / "killed/answers/random__synthetic__1-shot.jsonl"
    process = start("evaluate.py", *arguments("killed"))
    wait_for(lambda: second.exists() and second.stat().st_size > 4000, process)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/summary.json").exists()
    before = second.read_bytes()
    num_before = before.count(b"\n")
    assert 0 < num_before < 300
    for folder in ("killed", "straight"):
        result = run("evaluate.py", *arguments(folder))
        assert result.returncode == 0, result.stderr
    killed = answers("killed")
    assert [[line["index"] for line in part] for part in killed] == [list(range(300))] * 2
    assert killed == answers("straight")
    kept = before[: before.rindex(b"\n") + 1]
    assert second.read_bytes().startswith(kept), "what was answered is neither asked again nor written again"
