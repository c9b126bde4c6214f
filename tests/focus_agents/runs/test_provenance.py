"""Which code made a result: what is recorded, and which changes are told."""

from __future__ import annotations

import copy
import functools
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import focus_env
from focus_agents.runs import provenance as module
from focus_agents.runs.provenance import differences, provenance
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.rewards.weighted import WeightedReward
from tests.fakes import FakeDataset

STATE: dict[str, Any] = {
    "versions": {"focus": "0.1.0", "torch": "2.12.0"},
    "commit": "abc",
    "sources": {"focus_env/rewards": "1", "focus_env/boxes.py": "2", "focus_agents/grpo": "3", "mine": "4"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """The state with other versions or sources; None takes one away."""
    state = copy.deepcopy(STATE)
    for name, value in changes.items():
        kind = "versions" if name in ("focus", "torch", "ray") else "sources"
        state[kind][name] = value
        if value is None:
            del state[kind][name]
    return state


UNRECORDED = "which code it was started with is not recorded, so what has changed since cannot be said"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, STATE, [UNRECORDED]),
        ({}, STATE, [UNRECORDED]),
        ("text", STATE, [UNRECORDED]),
        ({"versions": [], "sources": {}}, STATE, [UNRECORDED]),
        (STATE, STATE, []),
        (STATE, STATE | {"commit": "def-dirty"}, []),
        (STATE, changed(torch="2.13.0"), ["torch was 2.12.0 and is 2.13.0 now"]),
        (STATE, changed(torch=None), ["torch was 2.12.0 and is not installed now"]),
        (STATE, changed(ray="2.60"), ["ray was not installed and is 2.60 now"]),
        (
            STATE,
            changed(**{"focus_env/rewards": "9", "focus_env/boxes.py": "9"}),
            ["the source of focus_env (rewards, boxes.py) is another than before"],
        ),
        (
            STATE,
            changed(**{"focus_agents/grpo": "9", "mine": "9"}),
            ["the source of focus_agents (grpo) is another than before", "the source of mine is another than before"],
        ),
        (STATE, changed(mine=None), ["the source of mine is not in use any more"]),
        (STATE, changed(**{"other.part": "1"}), ["the source of other.part is another than before"]),
    ],
)
def test_each_difference_is_one_line(old: Any, new: dict[str, Any], expected: list[str]) -> None:
    assert differences(old, new) == expected


def test_what_is_recorded_survives_json() -> None:
    now = provenance()
    assert json.loads(json.dumps(now)) == now
    assert differences(json.loads(json.dumps(now)), provenance()) == []
    assert now["versions"]["focus"] == focus_env.__version__
    assert {"python", "numpy", "torch", "transformers", "ray"} <= set(now["versions"])
    assert {"focus_env/rewards", "focus_env/boxes.py", "focus_agents/grpo"} <= set(now["sources"])


def test_a_package_that_is_edited_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("focus_env/rewards", "focus_agents/grpo"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "terms.py").write_text("IOU = 1\n")
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    before = provenance()
    (tmp_path / "focus_env/rewards/terms.py").write_text("IOU = 2\n")
    (tmp_path / "focus_agents/grpo/README.txt").write_text("not source")
    assert differences(before, provenance()) == ["the source of focus_env (rewards) is another than before"]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Writes and imports modules of a user."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def write(name: str, text: str) -> Any:
        file = tmp_path / (name.replace(".", "/") + ".py")
        for folder in file.relative_to(tmp_path).parents[:-1]:
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "__init__.py").touch()
        file.write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


TERM = "import numpy as np\nfrom user_lengths import width\ndef term(answers): return np.zeros(len(answers))\n"
DATA = "class Episodes:\n    def __len__(self): return 2\n    def __getitem__(self, index): raise IndexError\n"


def test_a_users_modules_are_found(user: Callable[[str, str], Any], tmp_path: Path) -> None:
    """By path, function, instance, part of a reward, partial; with what they use of the user, and no library."""
    user("user_lengths", "def width(box): return box[2] - box[0]\n")
    reward = user("user_rewards", TERM)
    data = user("user_package.data", DATA)
    for used in (
        "user_rewards:term",
        reward,
        reward.term,
        functools.partial(reward.term, 1),
        WeightedReward.from_spec("iou:1,user_rewards:term:1"),
    ):
        names = [name for name in provenance(used)["sources"] if "/" not in name]
        assert names == ["user_lengths", "user_rewards"], used
    for used in (data.Episodes(), data.Episodes, "user_package.data:Episodes", ShuffledSupports(data.Episodes())):
        assert "user_package.data" in provenance(used)["sources"], used
    before = provenance("user_rewards:term")
    (tmp_path / "user_lengths.py").write_text("def width(box): return 1\n")
    assert differences(before, provenance("user_rewards:term")) == ["the source of user_lengths is another than before"]


@pytest.mark.parametrize("used", ["no.such.module:name", "iou", np.zeros, None, 5, lambda: 0, WeightedReward.default()])
def test_what_is_no_users_code_adds_nothing_of_a_user(used: Any) -> None:
    names = {name for name in provenance(used)["sources"] if "/" not in name}
    assert not {name for name in names if not name.startswith(("tests", "numpy"))}


def test_data_sets_of_tests_are_a_users_code() -> None:
    assert "tests.fakes" in provenance(ShuffledSupports(FakeDataset()))["sources"]
