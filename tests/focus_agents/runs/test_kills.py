"""All writers of the package, killed at each of their calls: a reader finds old or new, a repeat leaves no scratch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from focus_agents import runs
from focus_agents.policies.openai.cache import AnswerCache
from focus_agents.policies.openai.protocol import Answer
from focus_agents.reports.documents import write_document
from focus_agents.runs.checkpoint import Checkpoints, load_training_state, save_policy, save_training_state
from focus_agents.runs.files import read_json, read_json_lines, write_json
from focus_agents.runs.folder import RunDirectory
from focus_env.files import UNFINISHED, find_folder, fresh_file
from focus_env.rendering import write_picture
from tests.answers import scored
from tests.kills import in_a_child, kill_at_each_call


class FakePart:
    """Of a policy: writes a file of its own."""

    def __init__(self, name: str, content: str) -> None:
        self.name, self.content = name, content

    def save_pretrained(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        (directory / self.name).write_text(self.content)


def write_policy(folder: Path, content: str) -> None:
    parts: Any = (FakePart("weights", content), FakePart("tokenizer", content))
    save_policy(folder / "final", *parts, documents={"README.md": content})


def read_policy(folder: Path) -> str:
    (content,) = {(find_folder(folder / "final") / name).read_text() for name in ("weights", "tokenizer", "README.md")}
    return content


def state(content: str) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    parameters = {"a": torch.nn.Parameter(torch.full((2,), float(len(content))))}
    return parameters, torch.optim.SGD(parameters.values(), lr=0.1)


def write_checkpoint(folder: Path, content: str, *, number: int | None = None) -> None:
    """The old one after a step, others after two."""
    with Checkpoints(folder, "step_", num_kept=1).write(number or (1 if content == "old" else 2)) as fresh:
        fresh.mkdir()
        save_training_state(fresh, *state(content), {"content": content})


def read_checkpoint(folder: Path) -> str:
    path, *_ = Checkpoints(folder, "step_").newest_first()
    parameters, optimizer = state("")
    progress = load_training_state(path, parameters, optimizer)
    assert parameters["a"][0] == len(progress["content"])
    return progress["content"]


def write_lines(folder: Path, content: str) -> None:
    run = RunDirectory(folder)
    if content == "old":
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        run.log({"step": 1.0})
    run.log({"step": 1.0 if content == "old" else 2.0})


def read_lines(folder: Path) -> str:
    steps = [line["step"] for line in read_json_lines(folder / "metrics.jsonl")]
    assert steps[:2] == [1.0, 1.0]
    return "old" if len(steps) == 2 else "new"


def write_rewound(folder: Path, content: str) -> None:
    if content == "old":
        (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    else:
        RunDirectory(folder).rewind(1, counter="step")


def read_rewound(folder: Path) -> str:
    return {1: "new", 2: "old"}[len(read_json_lines(folder / "metrics.jsonl"))]


def write_answers(folder: Path, content: str) -> None:
    (folder / "validation").mkdir(exist_ok=True)
    RunDirectory(folder).write_answers("after", [scored(0.5, episode_id=content)] * 3)


def read_answers(folder: Path) -> str:
    (content,) = {answer.episode_id for answer in RunDirectory(folder).read_answers("after")}
    return content


def write_code(folder: Path, content: str) -> None:
    if content == "old":
        write_json(folder / "config.json", {"seed": 3, "code": ["of another version"]})
    else:
        RunDirectory(folder).note_code()


def read_code(folder: Path) -> str:
    assert RunDirectory(folder).config() == {"seed": 3}
    return {1: "old", 2: "new"}[len(read_json(folder / "config.json", "arguments")["code"])]


def write_any_picture(folder: Path, content: str) -> None:
    write_picture(folder / "sheet.png", np.full((4, 4, 3), 0 if content == "old" else 200, np.uint8))


def read_picture(folder: Path) -> str:
    with Image.open(folder / "sheet.png") as picture:
        return "old" if picture.getpixel((3, 3)) == (0, 0, 0) else "new"


def write_figure(folder: Path, content: str) -> None:
    with fresh_file(folder / "curves.svg") as scratch:
        Figure(figsize=(1, 1 if content == "old" else 2)).savefig(scratch)


def read_figure(folder: Path) -> str:
    text = (folder / "curves.svg").read_text()
    assert text.rstrip().endswith("</svg>")
    return "old" if 'height="72pt"' in text else "new"


def read_text(folder: Path) -> str:
    text = (folder / "report.md").read_text()
    (folder / "report.html").read_text()
    return text.removeprefix("# ").strip()


def read_summary(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["content"])


def read_cache(folder: Path) -> str:
    answer = AnswerCache(folder).read("key")
    assert answer is not None
    return answer.text


Writer = tuple[Callable[[Path, str], object], Callable[[Path], str]]
WRITERS: dict[str, Writer] = {
    "policy": (write_policy, read_policy),
    "checkpoint": (write_checkpoint, read_checkpoint),
    "checkpoint of the same step": (lambda f, c: write_checkpoint(f, c, number=1), read_checkpoint),
    "metrics": (write_lines, read_lines),
    "rewound metrics": (write_rewound, read_rewound),
    "answers": (write_answers, read_answers),
    "code in config.json": (write_code, read_code),
    "summary": (lambda f, c: RunDirectory(f).write_summary({"content": c, "seconds": 1.0}), read_summary),
    "picture": (write_any_picture, read_picture),
    "figure": (write_figure, read_figure),
    "document": (lambda f, c: write_document(f / "report.md", f"# {c}\n"), read_text),
    "cache": (lambda f, c: AnswerCache(f).write("key", Answer(c, True)), read_cache),
}


@pytest.mark.parametrize("name", WRITERS)
@in_a_child
def test_old_or_new_and_no_scratch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.folder, "provenance", lambda: {"versions": {}, "sources": {"now": "1"}})
    write, read = WRITERS[name]
    folder = tmp_path / "place"
    write_anew = _restart(folder, write)
    write_anew()
    write(folder, "new")  # modules that it imports are imported now
    write_anew()
    found, num_kills = set(), 0
    for where in kill_at_each_call(lambda: write(folder, "new")):
        num_kills += 1
        found.add(read(folder))
        assert found <= {"old", "new"}, where
        write(folder, "new")
        assert read(folder) == "new", where
        assert [str(path) for path in folder.rglob(f"*{UNFINISHED}*")] == [], where
        write_anew()
    assert num_kills > 0
    assert "old" in found
    assert read(folder) == "new"


def _restart(folder: Path, write: Callable[[Path, str], object]) -> Callable[[], None]:
    def restart() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write(folder, "old")

    return restart
