"""Evaluations: each episode is answered once, whoever answers it and whatever comes in between."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from focus_agents.errors import CheckpointError, EvaluationError, PolicyError, RunInterrupted
from focus_agents.evaluation import evaluate
from focus_agents.evaluation.records import MAX_TEXT
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.evaluation.run import pending_chunks, run_chunks
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Completion, Generation
from focus_env.datasets import SyntheticDataset
from focus_env.types import Box, ParseStatus
from tests.fakes import FakeDataset
from tests.focus_agents.evaluation.scripted import (
    ASKED,
    NUM_EPISODES,
    WHOLE,
    Scripted,
    answers_file,
    make_plan,
    open_results,
    records_of,
    run,
    scripted,
)
from tests.focus_agents.rollout.fakes import GOLD, ScriptedPolicy, make_env


class TestAnswering:
    """What is asked, and what is kept of it."""

    def test_each_episode_is_asked_once_in_batches_with_a_seed_of_its_own(self, tmp_path: Path) -> None:
        results = run(tmp_path, make_plan())
        assert ASKED == [(0, 1, 2), (3, 4, 5), (6,)]
        records = results.read(results.cells()[0])
        assert [record.index for record in records] == list(range(NUM_EPISODES))
        expected = evaluate(
            make_env(FakeDataset(NUM_EPISODES)),
            ScriptedPolicy(by_prompt=[[GOLD], [WHOLE], [""], *[[WHOLE]] * 4]),
            range(NUM_EPISODES),
            max_completion_tokens=9,
        )
        assert [record.answer for record in records] == expected
        assert expected[0].iou > 0.99
        assert [record.error for record in records] == [None, None, "no answer within 3 s", *[None] * 4]
        assert len({record.seconds for record in records[:3]}) == 1
        assert all(0 < record.seconds < 60 for record in records)

    def test_a_line_has_everything(self, tmp_path: Path) -> None:
        results = run(tmp_path, make_plan())
        assert answers_file(results).name.endswith("__fake__2-shot.jsonl")
        line = json.loads(answers_file(results).read_text().splitlines()[1])
        assert line.pop("seconds") > 0
        assert line == {
            "policy": "scripted",
            "dataset": "fake",
            "shots": 2,
            "index": 1,
            "episode_id": "fake/1",
            "text": WHOLE,
            "error": None,
            "status": "ok",
            "is_strict": True,
            "box": [0.0, 0.0, 80.0, 60.0],
            "target_box": [21.0, 10.0, 60.0, 40.0],
            "iou": 39 * 30 / 4800,
            "is_whole_image": True,
            "is_support_copy": False,
            "numbers": [0.0, 0.0, 1000.0, 1000.0],
            "image_wh": [80, 60],
            "is_cut": False,
            "score": None,
        }

    @pytest.mark.parametrize("batch_size", [1, 3, 7])
    def test_an_exception_on_one_answer_is_one_failed_answer(self, tmp_path: Path, batch_size: int) -> None:
        expected = records_of(run(tmp_path / "whole", make_plan(batch_size=batch_size)))
        records = records_of(run(tmp_path / "raises", make_plan(policies=scripted("raises=4"), batch_size=batch_size)))
        assert (records[4].error, records[4].text) == ("episode 'fake/4': RuntimeError: the camera is broken", "")
        assert (records[4].answer.status, records[4].answer.credit) == (ParseStatus.NO_BOX, 0)
        assert records[:4] + records[5:] == expected[:4] + expected[5:]

    def test_exceptions_have_a_cap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        right = Scripted().answer(0)
        monkeypatch.setattr(Scripted, "answer", lambda self, seed: 1 / 0 if seed % 2 else right)
        monkeypatch.setattr("focus_agents.evaluation.answerer.MAX_RAISED", 2)
        with pytest.raises(EvaluationError, match=r"episodes 3 to 5 .*ZeroDivisionError"):
            run(tmp_path, make_plan())
        assert [record.error for record in records_of(ResultsFolder(tmp_path))] == [
            None, "episode 'fake/1': ZeroDivisionError: division by zero", None,
        ]  # fmt: skip

    def test_a_policy_that_answers_nothing_is_given_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Scripted, seed: int) -> Generation:
            nothing = np.empty(0)
            return Generation((Completion("", nothing, nothing, False, f"connection: refused, try {seed}"),))

        monkeypatch.setattr(Scripted, "answer", fail)
        with pytest.raises(PolicyError, match="'scripted': none of 7 episodes was answered"):
            run(tmp_path / "few", make_plan())
        assert len(records_of(ResultsFolder(tmp_path / "few"))) == 7
        monkeypatch.setattr("focus_agents.evaluation.run.MAX_FAILED_FIRST", 5)
        ASKED.clear()
        with pytest.raises(PolicyError, match="the first 6 answers failed alike"):
            run(tmp_path / "many", make_plan())
        assert ASKED == [(0, 1, 2), (3, 4, 5)]

    @pytest.mark.parametrize(
        ("text", "raised"),
        [("raise ValueError('no camera')", "ValueError: no camera"), ("import sys; sys.exit(0)", "SystemExit: 0")],
    )
    def test_a_policy_that_cannot_be_made_is_named_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, raised: str
    ) -> None:
        monkeypatch.setattr(Scripted, "__init__", lambda self: exec(text))
        with pytest.raises(PolicyError, match=f"^policy 'scripted' could not be made: making it raised {raised}$"):
            run(tmp_path, make_plan())

    def test_other_numbers_of_supports_are_refused(self, tmp_path: Path) -> None:
        plan = make_plan(episodes={3: FakeDataset(NUM_EPISODES)})
        for check in (plan.check_supports, lambda: run(tmp_path, plan)):
            with pytest.raises(ValueError, match=r"'fake': expected episodes of 3 supports, .* got one of 2, 'fake/0'"):
                check()

    def test_long_answers_are_cut(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = GOLD + "\ud800\n" * 2000
        monkeypatch.setattr(
            Scripted, "answer", lambda self, seed: Generation((Completion(text, np.empty(0), np.empty(0), False),))
        )
        record = records_of(run(tmp_path, make_plan(num_episodes=1)))[0]
        assert record.text == text[:MAX_TEXT]
        assert record.answer.iou > 0.99, "what is scored is the whole text"

    def test_chance_depends_on_the_episode_and_not_on_its_supports(self, tmp_path: Path) -> None:
        datasets = {shots: SyntheticDataset(split="test", level=1, shots=shots, image_size=56) for shots in (1, 2)}
        policies = {"random": PolicySpec(text="random"), "center": PolicySpec(text="center")}
        results = run(tmp_path, make_plan(policies=policies, episodes=datasets, num_episodes=4))
        one, two, center, _ = (records_of(results, position) for position in range(4))
        assert [record.text for record in one] == [record.text for record in two]
        assert len({record.text for record in one}) == 4
        assert one[0].text != center[0].text
        assert [(cell.policy, cell.shots) for cell in results.cells()] == [
            ("random", 1), ("random", 2), ("center", 1), ("center", 2),
        ]  # fmt: skip

    def test_a_policy_that_draws_answers_as_it_does_in_evaluate(self, tmp_path: Path) -> None:
        """Whatever the batch size and the number of episodes."""
        dataset = SyntheticDataset(split="test", level=3, shots=1, image_size=64)
        env, policy = make_env(dataset), PolicySpec(text="random")
        expected = evaluate(env, policy.build(), range(30))
        assert len({answer.box for answer in expected}) == 30
        for batch_size, num_episodes in ((30, 30), (7, 30), (4, 9)):
            plan = make_plan(
                policies={"random": policy}, episodes={1: dataset}, num_episodes=num_episodes, batch_size=batch_size
            )
            records = records_of(run(tmp_path / str(batch_size), plan))
            assert [record.answer for record in records] == expected[:num_episodes]

    def test_fewer_episodes_than_asked_for(self, tmp_path: Path) -> None:
        results = run(tmp_path, make_plan(num_episodes=100))
        assert len(records_of(results)) == results.cells()[0].num_episodes == NUM_EPISODES

    def test_absent_targets(self, tmp_path: Path) -> None:
        dataset = FakeDataset(NUM_EPISODES, with_absent=True)
        record = records_of(run(tmp_path, make_plan(episodes={2: dataset})))[-1]
        assert record.answer.is_absent_target
        assert (record.answer.status, record.answer.box, record.answer.credit) == (ParseStatus.OK, Box(0, 0, 80, 60), 0)


class TestResuming:
    """What is there is not asked again, and what is missing is."""

    @pytest.mark.parametrize(
        ("num_bytes", "num_left"),
        [(0, 0), (5, 0), (-1, 6), (-40, 6), (-600, 5)],
        ids=["empty", "cut in the first line", "without the last byte", "cut in the last line", "in the last but one"],
    )
    def test_a_cut_file_is_gone_on_with(self, tmp_path: Path, num_bytes: int, num_left: int) -> None:
        straight = records_of(run(tmp_path / "straight", make_plan()))
        results = run(tmp_path / "cut", make_plan())
        file = answers_file(results)
        file.write_bytes(file.read_bytes()[:num_bytes])
        assert len(results.read(results.cells()[0])) == num_left
        ASKED.clear()
        again = run(tmp_path / "cut", make_plan())
        assert [index for chunk in ASKED for index in chunk] == list(range(num_left, NUM_EPISODES))
        assert records_of(again) == straight
        assert sorted(json.loads(line)["index"] for line in file.read_text().splitlines()) == list(range(NUM_EPISODES))

    def test_what_is_complete_is_not_asked_again(self, tmp_path: Path) -> None:
        before = answers_file(run(tmp_path, make_plan())).read_bytes()
        plan = make_plan(batch_size=2)
        assert pending_chunks(plan, open_results(tmp_path, plan)) == []
        assert answers_file(ResultsFolder(tmp_path)).read_bytes() == before

    def test_a_folder_grows_by_episodes_shots_policies_and_data_sets(self, tmp_path: Path) -> None:
        run(tmp_path, make_plan(num_episodes=4))
        more = make_plan(episodes={2: FakeDataset(NUM_EPISODES), 1: FakeDataset(NUM_EPISODES, shots=1)})
        run(tmp_path, more)
        assert ASKED[2:] == [(4, 5), (6,), (0, 1, 2), (3, 4, 5), (6,)]
        run(tmp_path, make_plan(policies={"center": PolicySpec(text="center")}, num_episodes=2))
        results = run(tmp_path, make_plan(dataset="other", num_episodes=3))
        cells = [(cell.policy, cell.dataset, cell.shots, cell.num_episodes) for cell in results.cells()]
        assert cells == [
            ("scripted", "fake", 2, 7),
            ("scripted", "fake", 1, 7),
            ("center", "fake", 2, 2),
            ("scripted", "other", 2, 3),
        ]
        fewer = make_plan(num_episodes=2)
        assert pending_chunks(fewer, open_results(tmp_path, fewer)) == []
        assert [len(results.read(cell)) for cell in results.cells()] == [7, 7, 2, 3]
        assert [cell.num_episodes for cell in results.cells()] == [7, 7, 2, 3]

    def test_failed_ones_are_asked_again_where_that_is_wanted(self, tmp_path: Path) -> None:
        before = records_of(run(tmp_path, make_plan()))
        assert len(ASKED) == 3
        run(tmp_path, make_plan())
        assert len(ASKED) == 3
        ASKED.clear()
        plan = make_plan(policies=scripted("mended"))
        results = ResultsFolder(tmp_path)
        run_chunks(plan, results, pending_chunks(plan, results, retry_failed=True), on_done=lambda num_done: None)
        assert ASKED == [(2,)]
        after = records_of(results)
        assert (after[2].error, after[2].text) == (None, WHOLE)
        assert after[:2] + after[3:] == before[:2] + before[3:]

    def test_a_signal_stops_after_a_chunk(self, tmp_path: Path) -> None:
        plan = make_plan()
        results = open_results(tmp_path, plan)
        done: list[int] = []

        def stop(num_done: int) -> None:
            done.append(num_done)
            if num_done == 6:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(RunInterrupted, match=f"SIGTERM after 6 episodes.*`output_dir` {tmp_path}") as info:
            run_chunks(plan, results, pending_chunks(plan, results), on_done=stop)
        assert info.value.exit_code == 143
        assert done == [3, 6]
        assert len(records_of(run(tmp_path, plan))) == NUM_EPISODES
        assert ASKED == [(0, 1, 2), (3, 4, 5), (6,)]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
class TestWorkers:
    """Ray's processes answer what this one would."""

    def test_answers_do_not_depend_on_the_number_of_workers(self, ray_here: None, tmp_path: Path) -> None:
        datasets = {shots: SyntheticDataset(split="test", level=3, shots=shots, image_size=64) for shots in (1, 2)}
        policies = {text: PolicySpec(text=text) for text in ("random", "vlm:focus-small")}
        plan = make_plan(policies=policies, episodes=datasets, num_episodes=8, max_completion_tokens=20)
        outcomes = []
        for num_workers in (0, 1, 2):
            results = run(tmp_path / str(num_workers), dataclasses.replace(plan, num_workers=num_workers))
            outcomes.append([records_of(results, position) for position in range(4)])
        assert outcomes[0] == outcomes[1] == outcomes[2]
        assert [len(records) for records in outcomes[0]] == [8] * 4
        ious = [record.answer.iou for record in outcomes[0][3]]
        assert np.mean(ious) > 0.4
        assert len(set(ious)) > 4

    def test_a_worker_that_dies_is_replaced_and_its_chunk_asked_again(self, ray_here: None, tmp_path: Path) -> None:
        expected = records_of(run(tmp_path / "here", make_plan()))
        plan = make_plan(policies=scripted(f"dies_once={tmp_path / 'dead'}"), num_workers=2)
        assert records_of(run(tmp_path / "ray", plan)) == expected
        assert (tmp_path / "dead").exists()

    def test_one_that_always_dies_ends_the_run_and_loses_nothing(self, ray_here: None, tmp_path: Path) -> None:
        plan = make_plan(policies=scripted("dies=4"), num_workers=1)
        with pytest.raises(
            EvaluationError, match=r"'scripted' on episodes 3 to 5 .*: its worker died 4 times .*repeat"
        ):
            run(tmp_path, plan)
        assert [record.index for record in records_of(ResultsFolder(tmp_path))] == [0, 1, 2]

    def test_errors_come_back(self, ray_here: None, tmp_path: Path) -> None:
        plan = make_plan(policies=scripted("raises=all"), num_workers=1)
        with pytest.raises(EvaluationError, match=r"policy 'scripted' on episodes 0 to 2 .*the camera is broken"):
            run(tmp_path / "raises", plan)
        wrong = make_plan(policies={"wrong": PolicySpec(text="vlm:runs/nothing/here")}, num_workers=1)
        results = ResultsFolder.open(tmp_path / "wrong", data={}, policies={}, cells=wrong.cells())
        with pytest.raises(CheckpointError, match="runs/nothing/here"):
            run_chunks(wrong, results, pending_chunks(wrong, results), on_done=lambda num_done: None)
