"""Which folder a run has, and what it goes on with."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from focus_agents.cli import grpo, pretrain, sft
from focus_agents.cli.command_line import flat, parse
from focus_agents.cli.errors import as_flags
from focus_agents.cli.main import COMMANDS
from focus_agents.cli.paths import expand_paths
from focus_agents.cli.runs import RunArguments, after_a_stop, nothing_to_do, resumed
from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import add_adapters
from focus_agents.models.loading import WEIGHTS, load_model
from focus_agents.runs.folder import RunDirectory

MODULES: dict[str, Any] = {"grpo": grpo, "sft": sft, "pretrain": pretrain}
LENGTH = {"grpo": "num_iterations", "sft": "num_steps", "pretrain": "num_steps"}


def words_of(command: str, *words: str) -> list[str]:
    """A command line; the first word that is no flag is the run's length."""
    return [word.replace("LENGTH", f"--{LENGTH[command].replace('_', '-')}") for word in words]


def make_run(
    folder: Path, command: str, *words: str, num_done: int | None = 5, summary: dict[str, Any] | None = None
) -> RunDirectory:
    """A run of 5 steps or iterations, as it was left behind."""
    args = parse(MODULES[command].Args, None, words=words_of(command, "LENGTH", "5", *words))
    run = RunArguments().open(folder, flat(args), command=command)
    if num_done is not None:
        (run.checkpoints / f"step_{num_done:06d}").mkdir()
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return run


def resume(run: RunDirectory, command: str, *words: str) -> Any:
    words = ("--resume", str(run.path), *words_of(command, *words))
    args = parse(MODULES[command].Args, None, words=words)
    return resumed(args, command=command, words=list(words))


@pytest.mark.parametrize("command", MODULES)
class TestResumed:
    """What stands beside `--resume` is done, or refused by name."""

    def test_a_run_keeps_its_own_arguments(self, command: str, tmp_path: Path) -> None:
        run = make_run(tmp_path, command, "--lr", "1e-4", num_done=3)
        args = resume(run, command)
        assert (args.learning.lr, getattr(args.learning, LENGTH[command])) == (1e-4, 5)
        assert nothing_to_do(run, args) is None

    def test_what_it_has_already_may_be_said_again(self, command: str, tmp_path: Path) -> None:
        run = make_run(tmp_path, command, "--lr", "1e-4", num_done=3)
        assert resume(run, command, "--lr", "0.0001", "LENGTH", "5").learning.lr == 1e-4

    def test_a_finished_run_becomes_longer(self, command: str, tmp_path: Path) -> None:
        run = make_run(tmp_path, command, summary={LENGTH[command]: 5})
        args = resume(run, command, "LENGTH", "9")
        assert getattr(args.learning, LENGTH[command]) == 9
        assert nothing_to_do(run, args) is None
        args.run.open(run.path, flat(args), command=command)
        assert run.config()[LENGTH[command]] == 9
        # Stopped again before its next checkpoint, it is not finished.
        assert nothing_to_do(run, resume(run, command)) is None

    def test_a_finished_run_has_nothing_to_do(self, command: str, tmp_path: Path) -> None:
        run = make_run(tmp_path, command, summary={LENGTH[command]: 5})
        message = nothing_to_do(run, resume(run, command))
        assert message is not None
        assert message.startswith(
            f"{run.path} is finished, there is nothing to do; a larger `{LENGTH[command]}` than 5"
        )

    @pytest.mark.parametrize("length", ["3", "4"])
    def test_no_run_becomes_shorter_than_it_is(self, command: str, length: str, tmp_path: Path) -> None:
        run = make_run(tmp_path, command, num_done=4)
        with pytest.raises(ValueError, match=f"^{LENGTH[command]}: expected more than the 4 that .* got {length}$"):
            resume(run, command, "LENGTH", length)

    def test_a_flag_that_changes_the_run_is_refused_by_name(self, command: str, tmp_path: Path) -> None:
        run = make_run(tmp_path, command, num_done=3)
        for words, name in ((("--lr", "0.5"), "lr"), (("--seed", "7"), "seed"), (("--cooldown", "0.3"), "cooldown")):
            with pytest.raises(
                ValueError, match=f"^{name}: expected .*, which the run .* was started with, got {words[1]}"
            ):
                resume(run, command, *words)

    def test_another_folder_is_refused_by_name(self, command: str, tmp_path: Path) -> None:
        run = make_run(tmp_path / "mine", command, num_done=3)
        with pytest.raises(ValueError, match=r"^name: expected none beside `resume`.* got other"):
            resume(run, command, "--name", "other")
        with pytest.raises(ValueError, match=r"^output_dir: expected none beside `resume`"):
            resume(run, command, "--output-dir", "elsewhere")
        resume(run, command, "--name", "mine")

    def test_a_setting_that_no_figure_depends_on_may_change(self, command: str, tmp_path: Path) -> None:
        args = resume(make_run(tmp_path, command, num_done=3), command, "--checkpoint-interval", "7")
        group = args.learning if command == "pretrain" else args.validation
        assert group.checkpoint_interval == 7

    def test_a_run_of_another_command_is_named(
        self, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for other in MODULES.keys() - {command}:
            run = make_run(tmp_path / other, other)
            config = run.config()
            for stored in (config, {name: value for name, value in config.items() if name != "command"}):
                (run.path / "config.json").write_text(json.dumps(stored, default=str))
                monkeypatch.setattr(sys, "argv", ["focus", "--resume", str(run.path)])
                with pytest.raises(SystemExit, match="2"):
                    MODULES[command].main()
                error = capsys.readouterr().err
                assert f"expected one of `focus {command}`, got one of `focus {other}`" in error

    def test_a_folder_that_is_not_there_is_named(
        self, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["focus", "--resume", "nowhere"])
        with pytest.raises(SystemExit, match="2"):
            MODULES[command].main()
        assert "run nowhere: expected a run's folder with config.json, but there is no such folder" in (
            capsys.readouterr().err
        )

    def test_a_finished_run_is_left_alone(
        self, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = make_run(tmp_path, command, summary={LENGTH[command]: 5, "seconds": 7})
        before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
        monkeypatch.setattr(sys, "argv", ["focus", "--resume", str(run.path)])
        MODULES[command].main()
        assert f"a larger --{LENGTH[command].replace('_', '-')} than 5 makes it longer" in capsys.readouterr().out
        assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before


def test_a_run_that_stopped_early_cannot_become_longer(tmp_path: Path) -> None:
    words = ("--patience", "2", "--validation-interval", "1")
    run = make_run(tmp_path, "sft", *words, num_done=3, summary={"num_steps": 3})
    assert nothing_to_do(run, resume(run, "sft")) is not None
    with pytest.raises(ValueError, match=r"^num_steps: .* stopped early, at 3 of 5, by its `patience`"):
        resume(run, "sft", "--num-steps", "9")


def test_a_unit_of_coordinates_comes_back_from_json(tmp_path: Path) -> None:
    run = make_run(tmp_path, "grpo", "--frame", "norm_1000", "--reward", "iou:1", num_done=3)
    assert resume(run, "grpo", "--frame", "norm_1000").model.frame == "norm_1000"


@pytest.mark.parametrize(
    ("num_done", "has_metrics", "message"),
    [
        (None, False, "there was no checkpoint yet, and {path} may be used again"),
        (None, True, "there was no checkpoint yet, and {path} may be used again"),
        (3, True, "go on from its last checkpoint by --resume {path}"),
    ],
)
def test_a_stop_says_how_to_go_on(num_done: int | None, has_metrics: bool, message: str, tmp_path: Path) -> None:
    """And a folder in which nothing can be gone on with does not block its own name."""
    run = make_run(tmp_path / "mine", "grpo", num_done=num_done)
    if has_metrics:
        (run.path / "metrics.jsonl").write_text('{"iteration": 1}\n')
    (run.checkpoints / ".scratch").mkdir()
    assert message.format(path=run.path) in as_flags(after_a_stop(run), grpo.Args)
    if num_done is None:
        again = make_run(tmp_path / "mine", "grpo", num_done=None)
        assert list(again.checkpoints.iterdir()) == []
    else:
        with pytest.raises(FileExistsError, match="holds a run already; choose another `name`, or go on with it by"):
            make_run(tmp_path / "mine", "grpo")


def test_a_run_killed_before_its_first_checkpoint_gets_advice_that_can_be_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", "grpo", num_done=None)
    (run.path / "metrics.jsonl").write_text('{"iteration": 1}\n')
    with pytest.raises(FileExistsError, match="or delete the folder, which has no checkpoint to go on from"):
        make_run(tmp_path / "mine", "grpo")


HOME = Path("~").expanduser()


@pytest.mark.parametrize(
    ("command", "words", "name", "expected"),
    [
        ("grpo", ["--output-dir=~/runs"], "output_dir", HOME / "runs"),
        ("grpo", ["--data-root=~"], "data_root", HOME),
        ("grpo", ["--validation-root=~/val"], "validation_root", HOME / "val"),
        (
            "grpo",
            ["--dataset=iploc_json", "--data-root=x", "--image-root=~/a/../b"],
            "image_root",
            HOME / "a/../b",
        ),
        ("grpo", ["--resume=~/runs/a"], "resume", HOME / "runs/a"),
        ("grpo", ["--init-from=~/a~b"], "init_from", HOME / "a~b"),
        ("grpo", ["--model=~/model"], "model", f"{HOME}/model"),
        ("grpo", ["--reward=~/r.yaml"], "reward", f"{HOME}/r.yaml"),
        ("grpo", ["--output-dir=a/~/b"], "output_dir", Path("a/~/b")),
        ("evaluate", ["--output-dir=~/runs"], "output_dir", HOME / "runs"),
        ("evaluate", ["--policy=openai_api:m", "--api-cache=~/cache"], "api_cache", HOME / "cache"),
        ("data", ["--output=~/store"], "output", HOME / "store"),
        ("ablation", ["--report-dir=~/report"], "report_dir", HOME / "report"),
        ("ablation", ["--base=~/base"], "base", f"{HOME}/base"),
        ("rewards", ["--output-dir=~"], "output_dir", HOME),
        ("plot", ["~/runs/a", "~/runs/b", "--output=~/runs.png"], "runs", (HOME / "runs/a", HOME / "runs/b")),
        ("plot", ["runs/a", "--output=~/runs.png"], "output", HOME / "runs.png"),
        ("demo", ["--out=~/a.png"], "out", HOME / "a.png"),
        ("demo", ["--support", "~/a.png", "1,2,3,4", "--query=~/b.png"], "support", ((HOME / "a.png", "1,2,3,4"),)),
        ("publish", ["--run=~/a", "--name", "x", "--commit", "1"], "run", HOME / "a"),
        ("export", ["--model", "m", "--to=~/a"], "to", HOME / "a"),
        ("push", ["--model", "m", "--to", "a/b", "--scores", "~/a"], "scores", (HOME / "a",)),
    ],
)
def test_each_path_of_each_command_has_the_users_home(
    command: str, words: list[str], name: str, expected: object
) -> None:
    module = importlib.import_module(f"focus_agents.cli.{command}")
    assert flat(parse(module.Args, None, words=words))[name] == expected


def test_other_texts_stay_as_they_are() -> None:
    assert expand_paths(("a~", "", "iou:1", 3, None, Path("."))) == ("a~", "", "iou:1", 3, None, Path("."))


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_a_command_writes_by_itself_lies_under_runs(command: str) -> None:
    """Of the folder where it is called, which may be the root of a repository."""
    module = importlib.import_module(f"focus_agents.cli.{command}")
    required = {"plot": ["a"], "publish": ["--run", "a", "--name", "x", "--commit", "1"]}
    required |= {"export": ["--model", "a", "--to", "b"], "push": ["--model", "a", "--to", "b/c"]}
    required |= {"convert": ["a.json", "runs/b.csv"]}
    values = flat(parse(module.Args, None, words=required.get(command, [])))
    written = [values[name] for name in ("output_dir", "output", "out", "report_dir") if values.get(name) is not None]
    assert {path.parts[0] for path in written} <= {"runs"}


class TestStart:
    """The weights that a run starts from are those that it goes on from."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        return Path(shutil.copytree(WEIGHTS / "focus-small-base", tmp_path / "model"))

    def go_on(self, run: Path, model: Path | None) -> RunDirectory:
        name = None if model is None else str(model)
        return RunArguments(resume=run).open(run, {}, command="sft", model=name)

    def test_other_weights_of_that_name_are_refused(self, model: Path, tmp_path: Path) -> None:
        run = RunArguments().open(tmp_path / "run", {}, command="sft", model=str(model)).path
        config = (run / "config.json").read_text()
        self.go_on(run, model)
        assert (run / "config.json").read_text() == config
        shutil.copy(WEIGHTS / "focus-small-sft" / "model.safetensors", model)
        with pytest.raises(CheckpointError, match=r"expected the weights that it was started from, .* put the"):
            self.go_on(run, model)

    def test_other_weights_under_an_adapter_are_refused(self, model: Path, tmp_path: Path) -> None:
        adapted = add_adapters(load_model(str(model)), rank=2)
        adapted.peft_config["default"].base_model_name_or_path = str(model)
        adapted.save_pretrained(str(tmp_path / "adapter"))
        adapter = tmp_path / "adapter"
        run = RunArguments().open(tmp_path / "run", {}, command="grpo", model=str(adapter)).path
        self.go_on(run, adapter)
        shutil.copy(WEIGHTS / "focus-small-sft" / "model.safetensors", model)
        with pytest.raises(CheckpointError, match="expected the weights that it was started from"):
            self.go_on(run, adapter)

    def test_a_run_without_a_note_of_its_start_goes_on(self, model: Path, tmp_path: Path) -> None:
        run = RunArguments().open(tmp_path / "run", {}, command="sft").path
        self.go_on(run, model)
        self.go_on(run, None)
