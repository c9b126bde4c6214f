"""Our episodes in other harnesses; each runs where it is installed, with a model that knows the answers or none."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from focus_agents.cli.harness import main, task_name
from focus_agents.integrations import lmms_eval, vlmevalkit
from focus_agents.integrations.harness import EPISODES_FILE, REQUEST_FILE, metrics_of, served, write_request
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import load_dataset
from focus_env.errors import DatasetError, MissingDependencyError
from focus_env.metrics import summarize
from focus_env.parsing import write_answer
from focus_env.prompts import get_template
from focus_env.types import TextPart

DATASET = {"name": "synthetic", "split": "test", "shots": 2, "seed": 0, "level": 1}
NAME = "focus_synthetic_2_shot"
HAS_LMMS_EVAL = importlib.util.find_spec("lmms_eval") is not None
HAS_VLMEVALKIT = importlib.util.find_spec("vlmeval") is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / NAME
    assert write_request(folder, dataset=DATASET, num_episodes=4) == 4
    return folder


def right_answer(folder: Path, index: int) -> str:
    episode = served(str(folder)).episodes[index]
    return write_answer(episode.target_box, frame=CoordinateFrame.NORM_1000, image_wh=episode.query_frame.image_wh)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / EPISODES_FILE).read_text().splitlines()]


def test_the_folder_serves_the_same_episodes(folder: Path) -> None:
    ours = load_dataset("synthetic", split="test", shots=2, seed=0, level=1)
    found = served(str(folder)).episodes
    assert [found[index].episode_id for index in range(4)] == [ours[index].episode_id for index in range(4)]
    assert [row["index"] for row in rows_of(folder)] == [0, 1, 2, 3]


def test_scores_average_to_those_of_an_evaluation(folder: Path) -> None:
    texts = [right_answer(folder, 0), "<answer>[0, 0, 1000, 1000]</answer>", "no box", right_answer(folder, 3)]
    answers = [served(str(folder)).score(index, text) for index, text in enumerate(texts)]
    whole = summarize(answers)
    parts = [metrics_of(answer) for answer in answers]
    for metric, key in (("miou", "miou_all"), ("acc_50", "acc_50"), ("parse_rate", "parse_rate")):
        assert sum(part[metric] for part in parts) / 4 == pytest.approx(whole[key])


def test_prompts_have_their_pictures_between_the_texts(folder: Path) -> None:
    row = rows_of(folder)[0]
    (message,) = lmms_eval.doc_to_messages(row)
    kinds = [part["type"] for part in message["content"]]
    assert kinds.count("image") == 3
    assert kinds[0] == kinds[-1] == "text" or "image" not in kinds[:1]
    assert lmms_eval.doc_to_text(row).count("<image>") == len(lmms_eval.doc_to_visual(row)) == 3


@pytest.mark.parametrize("template", ["iploc_release", "iploc_id"])
def test_templates_that_tell_the_category_tell_it(tmp_path: Path, template: str) -> None:
    """As an evaluation does."""
    write_request(tmp_path, dataset=DATASET, num_episodes=3, template=template)
    asked = served(str(tmp_path))
    for index in range(3):
        texts = [part.text for turn in asked.messages(index) for part in turn.content if isinstance(part, TextPart)]
        assert f"<ref>{asked.episodes[index].category}</ref>" in texts
        assert "<ref>object</ref>" not in texts


def test_a_model_is_told_of_absence_if_asked_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["focus harness", "--absent-fraction", "0.5", "--num-episodes", "8", "--output", str(tmp_path / "task")]
    monkeypatch.setattr(sys, "argv", words)
    main()
    assert "pass --allow-absent" in " ".join(capsys.readouterr().err.split())
    untold = lmms_eval.doc_to_text(rows_of(tmp_path / "task")[0])
    monkeypatch.setattr(sys, "argv", [*words, "--allow-absent"])
    main()
    assert "--allow-absent" not in capsys.readouterr().err
    rows = rows_of(tmp_path / "task")
    told = lmms_eval.doc_to_text(rows[0])
    assert len(told) > len(untold)
    assert "none" in told
    assert "none" not in untold
    found = served(rows[0]["folder"])
    is_absent = [found.episodes[index].target_box is None for index in range(8)]
    assert set(is_absent) == {True, False}
    answer = "<answer>none</answer>"
    assert [lmms_eval.process_results(row, [answer])["focus_miou"] for row in rows] == is_absent


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / REQUEST_FILE).write_text("{}")
    with pytest.raises(DatasetError, match="expected a request for episodes"):
        served(str(tmp_path))


def test_the_task_names_functions_that_there_are(folder: Path) -> None:
    file = lmms_eval.write_task(folder, NAME, max_completion_tokens=40)

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = yaml.load(file.read_text(), Loader=Loader)
    for key in ("doc_to_visual", "doc_to_text", "doc_to_messages", "doc_to_target", "process_results"):
        assert task[key] == f"focus_agents.integrations.lmms_eval.{key}"
        assert callable(getattr(lmms_eval, key))
    assert {metric["metric"] for metric in task["metric_list"]} == set(
        lmms_eval.process_results(rows_of(folder)[0], [""])
    )


@pytest.mark.skipif(HAS_VLMEVALKIT, reason="VLMEvalKit is installed")
def test_without_vlmevalkit_the_message_names_it(folder: Path) -> None:
    with pytest.raises(MissingDependencyError, match="VLMEvalKit is not installed"):
        vlmevalkit.register(folder, NAME)


@pytest.mark.skipif(not HAS_LMMS_EVAL, reason="lmms-eval is not installed (pip install lmms-eval)")
def test_lmms_eval_runs_the_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    lmms_eval.write_task(folder, NAME, max_completion_tokens=40)

    class Model(lmms):  # type: ignore[misc]
        """Knows the answers to even episodes, and says nothing to others."""

        is_simple = False

        def generate_until(self, requests: list[Any]) -> list[str]:
            docs = [request.doc_id for request in requests]
            for request in requests:
                messages = request.args[1](served(str(folder)) and rows_of(folder)[request.doc_id])
                assert sum(part["type"] == "image" for part in messages[0]["content"]) == 3
            return [right_answer(folder, doc) if doc % 2 == 0 else "" for doc in docs]

        def loglikelihood(self, requests: list[Any]) -> Any:
            raise NotImplementedError

        def generate_until_multi_round(self, requests: list[Any]) -> Any:
            raise NotImplementedError

    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(model=Model(), tasks=[NAME], task_manager=tasks)["results"][NAME]
    expected = summarize(
        [served(str(folder)).score(index, right_answer(folder, index) if index % 2 == 0 else "") for index in range(4)]
    )
    assert found["focus_miou,none"] == pytest.approx(expected["miou_all"])
    assert found["focus_parse_rate,none"] == 0.5


@pytest.mark.skipif(not HAS_VLMEVALKIT, reason="VLMEvalKit is not installed (see its repository)")
def test_vlmevalkit_runs_the_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMUData", str(folder / "LMUData"))
    from vlmeval.dataset import build_dataset
    from vlmeval.inference import infer_data_job

    vlmevalkit.register(folder, NAME)
    dataset = build_dataset(NAME)

    class Model:
        """Knows the answers to even episodes."""

        is_api = False
        num_asked = 0

        def set_dump_image(self, dump_image: Any) -> None:
            """Takes a function that writes a row's pictures, which the data set does by itself."""

        def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
            assert sum(part["type"] == "image" for part in message) == 3
            index, self.num_asked = self.num_asked, self.num_asked + 1
            return right_answer(folder, index) if index % 2 == 0 else "nothing"

    work = folder / "work"
    work.mkdir()
    infer_data_job(Model(), str(work), "fake", dataset)
    (file,) = work.glob(f"fake_{NAME}.*")
    expected = summarize(
        [
            served(str(folder)).score(index, right_answer(folder, index) if index % 2 == 0 else "nothing")
            for index in range(4)
        ]
    )
    assert dataset.evaluate(str(file))["miou"] == pytest.approx(expected["miou_all"])


OWN = {"base": "default", "box_text": "({x1},{y1}),({x2},{y2})", "answer_text": "{box}", "frame": "pixel"}


@pytest.mark.parametrize("template", ["llava_onevision", "iploc_id", "paligemma", "default", "own.json"])
def test_the_templates_own_unit_is_asked_in(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the words of one's own are served from anywhere, whatever becomes of the file."""
    monkeypatch.chdir(tmp_path)
    Path("own.json").write_text(json.dumps(OWN))
    asked = get_template(template)
    write_request(tmp_path / "out", dataset=DATASET, num_episodes=1, template=template)
    Path("own.json").unlink()
    monkeypatch.chdir("/")
    found = served(str(tmp_path / "out"))
    assert found.template == asked
    episode = found.episodes[0]
    right = asked.answer(episode.target_box, episode.query_frame.image_wh)
    assert found.score(0, right).iou == pytest.approx(1, abs=0.1)


def test_a_unit_that_is_named_counts(tmp_path: Path) -> None:
    write_request(
        tmp_path, dataset=DATASET, num_episodes=1, template="llava_onevision", frame=CoordinateFrame.NORM_1000
    )
    assert served(str(tmp_path)).template.frame is CoordinateFrame.NORM_1000


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"frame": CoordinateFrame.RESIZED_PIXEL},
            "expected a unit that is known without the model, got resized_pixel",
        ),
        ({"template": "qwen2_5_vl"}, "template 'qwen2_5_vl': expected a unit that is known without the model"),
        ({"template": "r1_track"}, "template 'r1_track': expected a unit that is known without the model"),
        ({"template": "paligemma", "frame": CoordinateFrame.PIXEL}, "expected the unit norm_1024"),
        ({"template": "sonnet"}, "unknown prompt template 'sonnet'"),
        ({"template": "native"}, "expected a model that is loaded here"),
        ({"dataset": DATASET | {"level": 9}}, "level"),
        ({"dataset": DATASET | {"name": "sonnets"}}, "sonnets"),
    ],
)
def test_a_request_that_is_refused_leaves_no_folder(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, DatasetError), match=message):
        write_request(tmp_path / "new" / "out", **{"dataset": DATASET, "num_episodes": 1, **asked})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (REQUEST_FILE, '{"url": "https://example.org"}'),
        (REQUEST_FILE, "my notes"),
        (REQUEST_FILE, ""),
        (EPISODES_FILE, '{"index": 0, "folder": "x", "caption": "mine"}\n'),
        (EPISODES_FILE, "[" * 100_000),
        (EPISODES_FILE, b"\xff\xfe"),
        (f"{NAME}.yaml", "task: mine\n"),
        (f"{NAME}.yaml", "- mine\n"),
    ],
)
def test_files_of_another_kind_stay(name: str, content: str | bytes, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    whole = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(whole)
    write = (
        functools.partial(lmms_eval.write_task, folder, NAME, max_completion_tokens=40)
        if name.endswith(".yaml")
        else functools.partial(write_request, folder, dataset=DATASET, num_episodes=1)
    )
    with pytest.raises(DatasetError, match=f"{name}: expected no such file, or that of an earlier request"):
        write()
    assert (folder / name).read_bytes() == whole
    assert [file.name for file in folder.iterdir()] == [name]


def test_an_earlier_request_is_replaced(folder: Path) -> None:
    lmms_eval.write_task(folder, NAME, max_completion_tokens=40)
    (folder / "notes.txt").write_text("mine")
    assert write_request(folder, dataset=DATASET, num_episodes=2, template="llava_onevision") == 2
    assert "max_new_tokens: 7" in lmms_eval.write_task(folder, NAME, max_completion_tokens=7).read_text()
    assert len(rows_of(folder)) == 2
    assert (folder / "notes.txt").read_text() == "mine"
    assert served(str(folder)).template.name == "llava_onevision"


@pytest.mark.parametrize("output", ["/", "a b", "x/a,b"])
def test_a_folder_whose_name_is_none_of_a_task(output: str) -> None:
    with pytest.raises(ValueError, match="output: expected a folder whose name can be a task's"):
        task_name(Path(output))


def test_the_command_writes_the_unit_and_nothing_where_a_file_is_in_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["focus harness", "--template", "llava_onevision", "--num-episodes", "2", "--output", "out/."]
    monkeypatch.setattr(sys, "argv", words)
    main()
    assert "2 episodes of synthetic" in capsys.readouterr().out
    assert json.loads(Path("out", REQUEST_FILE).read_text())["frame"] == "norm_1"
    assert Path("out/out.yaml").exists()
    Path("new").mkdir()
    Path("new/new.yaml").write_text("mine: 1")
    monkeypatch.setattr(sys, "argv", [*words[:-1], "new"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert [file.name for file in Path("new").iterdir()] == ["new.yaml"]
    assert "choose another folder as --output" in capsys.readouterr().err.replace("\n", " ")
