"""The run folder: what is refused, what comes back, and the numbers in the summary."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from focus_agents.errors import CheckpointError
from focus_agents.rollout.records import Completion, Generation, RolloutGroup
from focus_agents.runs.folder import AFTER_COLOUR, BEFORE_COLOUR, NUM_SHEET_EPISODES, RunDirectory
from focus_agents.runs.metrics import METRICS, OF_ABSENCE, check_names
from focus_agents.runs.progress import progress_bar
from focus_agents.runs.samples import read_samples
from focus_agents.runs.scores import rollout_metrics
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus
from tests.answers import UNREADABLE, scored
from tests.fakes import FakeDataset

SUMMARY_KEYS = [
    "miou_start", "miou_start_interval", "miou_end", "miou_end_interval", "miou_gain", "miou_gain_interval",
    "parse_rate_start", "parse_rate_end", "num_validation_episodes", "checkpoint", "sheet",
    "warnings",
]  # fmt: skip


def group(
    rewards: Sequence[float],
    answers: Sequence[ScoredAnswer],
    lengths: Sequence[int],
    terms: Sequence[dict[str, float]] | None = None,
) -> RolloutGroup:
    """Completions of given lengths; one of three tokens or more was cut."""
    completions = tuple(
        Completion(f"text {n}", np.zeros(length, dtype=np.int64), np.zeros(length, dtype=np.float32), length < 3)
        for n, length in enumerate(lengths)
    )
    return RolloutGroup(
        0, Generation(completions), np.array(rewards), tuple(terms or [{}] * len(rewards)), tuple(answers)
    )


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def samples_of(run: RunDirectory) -> list[dict[str, Any]]:
    return list(read_samples(run.path / "samples"))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs" / "one", {"seed": 3})


class TestFolder:
    """Starting a run, and never over another one."""

    def test_an_existing_run_is_refused_and_left_alone(self, run: RunDirectory) -> None:
        run.log({"iteration": 1})
        with pytest.raises(FileExistsError, match=r"run folder .*one holds a run already; choose another `name`, or"):
            RunDirectory.create(run.path, {"seed": 4})
        assert run.config() == {"seed": 3}
        assert (run.path / "metrics.jsonl").exists()

    def test_an_empty_folder_may_become_a_run(self, tmp_path: Path) -> None:
        assert RunDirectory.create(tmp_path, {"seed": 1}).config() == {"seed": 1}

    def test_the_layout(self, run: RunDirectory) -> None:
        assert sorted(path.name for path in run.path.iterdir()) == [
            "checkpoints",
            "config.json",
            "samples",
            "validation",
        ]
        assert run.checkpoints == run.path / "checkpoints"

    def test_paths_in_the_config_become_text(self, tmp_path: Path) -> None:
        run = RunDirectory.create(tmp_path, {"data_root": Path("some/where"), "init_from": None, "shots": 2})
        assert run.config() == {"data_root": "some/where", "init_from": None, "shots": 2}


@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", "5"])
def test_a_config_that_is_none_is_named(run: RunDirectory, text: str) -> None:
    (run.path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: expected the arguments of|folder with config\.json"):
        run.config()


class TestMetrics:
    """`metrics.jsonl`: declared names, one line per iteration."""

    @pytest.mark.parametrize(
        ("metrics", "unknown"),
        [
            ({"reword": 1.0}, r"\['reword'\]"),
            ({"reward": 1.0, "z": 0.0, "a": 0.0}, r"\['a', 'z'\]"),
            ({"": 0.0}, r"\[''\]"),
        ],
    )
    def test_a_name_that_is_not_declared_is_refused(
        self, run: RunDirectory, metrics: dict[str, float], unknown: str
    ) -> None:
        expected = rf"expected names from runs\.metrics\.METRICS, got {unknown}; declare them"
        with pytest.raises(ValueError, match=expected):
            run.log(metrics)
        assert not (run.path / "metrics.jsonl").exists()

    def test_lines_are_appended(self, run: RunDirectory) -> None:
        run.log({"iteration": 1, "reward": 0.1})
        run.log({"iteration": 2})
        assert lines_of(run.path / "metrics.jsonl") == [{"iteration": 1, "reward": 0.1}, {"iteration": 2}]

    @pytest.mark.parametrize(("kept", "expected"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
    def test_what_came_after_a_checkpoint_is_dropped(self, run: RunDirectory, kept: int, expected: list[int]) -> None:
        for iteration in (1, 2, 3):
            run.log({"iteration": iteration})
            run.write_samples(iteration, [group([1.0, 0.0], [scored(1.0), UNREADABLE], [1, 2])])
        run.rewind(kept, counter="iteration")
        assert [line["iteration"] for line in lines_of(run.path / "metrics.jsonl")] == expected
        samples = [(record["iteration"], answer) for record in samples_of(run) for answer in record["answers"]]
        assert [iteration for iteration, _ in samples] == [i for i in expected for _ in ("best", "worst")]
        run.log({"iteration": 7})
        assert lines_of(run.path / "metrics.jsonl")[-1] == {"iteration": 7}

    def test_a_run_without_metrics_can_be_rewound(self, run: RunDirectory) -> None:
        run.rewind(5, counter="step")
        assert run.read_metrics() == []

    def test_steps_are_rewound_by_their_own_counter(self, run: RunDirectory) -> None:
        for step in (1, 2, 3):
            run.log({"step": step, "support_mass/4": 0.5, "grad_norm": None})
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')  # cut by a kill
        assert [line["step"] for line in run.read_metrics()] == [1, 2, 3]
        run.rewind(2, counter="step")
        assert [line["step"] for line in run.read_metrics()] == [1, 2]
        assert (run.path / "metrics.jsonl").read_text().endswith("}\n")

    def test_of_a_rollout_by_hand(self) -> None:
        absent = scored(0.0, status=ParseStatus.ABSENT, is_strict=True)
        groups = [
            group([1.5, 0.0], [scored(1.0), UNREADABLE], [1, 2], terms=[{"iou": 1.0, "format": 1.0}, {"iou": 0.0}]),
            group([0.5, 0.5], [scored(0.5, is_strict=False), absent], [3, 6], terms=[{"iou": 0.5}, {"format": 0.0}]),
        ]
        assert rollout_metrics(groups) == pytest.approx(
            {
                "reward": 2.5 / 4,
                "reward/iou": 1.5 / 3,
                "reward/format": 1.0 / 2,
                "reward_std": 0.75 / 2,
                "miou": 1.5 / 4,
                "acc_50": 2 / 4,
                "whole_image_rate": 0.0,
                "copy_rate": 0.0,
                "parse_rate": 3 / 4,
                "format_rate": 2 / 4,
                "zero_variance_rate": 1 / 2,
                "completion_tokens": 12 / 4,
                "completion_tokens_min": 1.0,
                "completion_tokens_max": 6.0,
                "truncated_rate": 2 / 4,
            }
        )
        check_names([*rollout_metrics(groups)])
        gone = group([1.0], [scored(0.0, status=ParseStatus.ABSENT, target_box=None)], [1])
        measured = rollout_metrics([*groups, gone])
        assert {name: measured[name] for name in OF_ABSENCE} == pytest.approx(
            {"miou_present": 1.5 / 4, "absent_recall": 1.0, "absent_precision": 1 / 2, "f1_50": 4 / (4 + 2)}
        )
        check_names([*measured])

    def test_a_part_of_a_metric_without_parts_is_refused(self, run: RunDirectory) -> None:
        with pytest.raises(ValueError, match=r"expected no part behind a slash for \['kl'\], which have none"):
            run.log({"reward/iou": 0.0, "kl/3": 0.0})
        run.log({"reward/my/term": 0.0})

    def test_what_metrics_mean_is_said(self) -> None:
        assert all(name == name.strip() and metric.unit and metric.meaning for name, metric in METRICS.items())

    def test_what_is_not_finite_is_null(self, run: RunDirectory) -> None:
        run.log({"iteration": 1, "loss": float("nan"), "grad_norm": float("inf"), "kl": None})
        text = (run.path / "metrics.jsonl").read_text()
        assert text == '{"iteration": 1, "loss": null, "grad_norm": null, "kl": null}\n'
        assert run.read_metrics() == [{"iteration": 1, "loss": None, "grad_norm": None, "kl": None}]

    def test_a_line_after_one_that_was_cut(self, run: RunDirectory) -> None:
        run.log({"step": 1})
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')
        run.log({"step": 2})
        assert lines_of(run.path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]

    def test_lines_that_count_nothing_are_named(self, run: RunDirectory) -> None:
        run.log({"step": 1})
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: expected a number as 'iteration' in each line"):
            run.rewind(1, counter="iteration")


class TestAnswers:
    """Validation answers in, the same out."""

    def test_round_trip(self, run: RunDirectory) -> None:
        answers = [
            *(
                scored(0.0, status=status, index=n)
                for n, status in enumerate(ParseStatus)
                if status is not ParseStatus.OK
            ),
            scored(1 / 3, index=50, is_whole_image=True),
            scored(0.1 + 0.2, index=51, is_support_copy=True, is_strict=False),
            scored(0.0, target_box=None, episode_id='quote " and\nline \N{GREEK SMALL LETTER MU}'),
            scored(0.0, target_box=None, status=ParseStatus.ABSENT),
        ]
        run.write_answers("before", answers)
        back = run.read_answers("before")
        assert back == answers
        assert [type(a.box) for a in back] == [type(a.box) for a in answers]
        assert all(isinstance(a.status, ParseStatus) for a in back)
        assert [a.credit for a in back] == [a.credit for a in answers]

    @pytest.mark.parametrize("text", [None, '{"iou": 1}\n', "5\n", "nothing\n"])
    def test_what_cannot_be_read_is_named(self, run: RunDirectory, text: str | None) -> None:
        if text is not None:
            (run.path / "validation/before.jsonl").write_text(text)
        with pytest.raises(CheckpointError, match=r"before\.jsonl"):
            run.read_answers("before")

    def test_written_anew_not_appended(self, run: RunDirectory) -> None:
        run.write_answers("after", [UNREADABLE] * 3)
        run.write_answers("after", [scored(0.5)])
        assert run.read_answers("after") == [scored(0.5)]
        run.write_answers("after", [])
        assert run.read_answers("after") == []

    def test_the_best_and_the_worst_of_each_group(self, run: RunDirectory) -> None:
        answers = [scored(0.2), UNREADABLE, scored(0.9, index=1)]
        run.write_samples(24, [group([0.7, 0.0, 1.4], answers, [1, 2, 4])])
        run.write_samples(25, [group([0.5, 0.5, 0.5], answers, [1, 1, 1])])
        first, rest = samples_of(run)
        worst, best = first["answers"]
        chosen = ("reward", "iou", "status", "text")
        assert [best[name] for name in chosen] == [1.4, 0.9, "ok", "text 2"]
        assert [worst[name] for name in chosen] == [0.0, 0.0, "no_box", "text 1"]
        assert first["iteration"] == 24
        assert [(rest["iteration"], answer["number"]) for answer in rest["answers"]] == [(25, 0), (25, 1)]


class TestFinish:
    """Everything that the module's docstring promises at the end of a run."""

    def test_writes_all_files_and_the_documented_keys(self, run: RunDirectory) -> None:
        before = [UNREADABLE, scored(0.25, index=1), scored(0.0, index=2, status=ParseStatus.ABSENT)]
        after = [scored(0.5, index=index) for index in range(3)]
        summary = run.finish(FakeDataset(), range(3), before, after, num_iterations=7, note="kept")
        assert list(summary) == [*SUMMARY_KEYS, "num_iterations", "note"]
        assert json.loads((run.path / "summary.json").read_text()) == json.loads(json.dumps(summary))
        assert run.read_answers("before") == before
        assert run.read_answers("after") == after
        assert summary["checkpoint"] == str(run.path / "checkpoints" / "final")
        assert summary["sheet"] == str(run.path / "samples" / "validation.png")
        assert not list(run.path.rglob("*.tmp"))

    def test_the_sheet_shows_both_answers(self, run: RunDirectory) -> None:
        summary = run.finish(FakeDataset(), [2, 0], [scored(0.2)] * 2, [scored(0.4, box=Box(40, 20, 70, 55))] * 2)
        pixels = np.array(Image.open(summary["sheet"]))
        for colour in (BEFORE_COLOUR, AFTER_COLOUR):
            assert (pixels == colour).all(axis=-1).sum() > 50

    def test_the_sheet_stays_small(self, run: RunDirectory) -> None:
        heights = []
        for count in (NUM_SHEET_EPISODES - 1, NUM_SHEET_EPISODES, NUM_SHEET_EPISODES + 4):
            answers = [UNREADABLE] * count
            summary = run.finish(FakeDataset(count), range(count), answers, answers)
            heights.append(Image.open(summary["sheet"]).height)
        assert heights[0] < heights[1] == heights[2]


def test_the_progress_bar_counts_and_lets_lines_through() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress_bar("SFT", 5, console) as move_to:
        console.print("a line above")
        move_to(3)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "3/5" in shown
    assert "a line above" in shown
