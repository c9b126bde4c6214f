"""RLlib's private names: the installed Ray has those that are listed, and only the one file uses others."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.train.torch import TorchTrainer

import focus_agents
from focus_agents.grpo.rllib_compat import HOOKS, READS, PrivateName

ROOT = Path(focus_agents.__file__).parent
COMPAT = ROOT / "grpo" / "rllib_compat.py"
COMPATS = {COMPAT.name, "ray_compat.py"}
"""Where private names may stand; those of the commands are in `cli`."""
RAY_CLASSES = (
    Algorithm, AlgorithmConfig, Checkpointable, EnvRunner, EnvRunnerGroup, FaultTolerantActorManager, LearnerGroup,
    MetricsLogger, MultiRLModule, TorchLearner, TorchRLModule, TorchTrainer,
)  # fmt: skip
"""The classes whose objects this package has in its hands."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def from_ray(owner: type) -> list[type]:
    return [base for base in owner.__mro__ if base.__module__.startswith("ray.")]


def private_names(owner: type) -> set[str]:
    """Private names of Ray's classes among the ancestors: class attributes, and what their methods assign to `self`."""
    names: set[str] = set()
    for base in from_ray(owner):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        stored = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_store(node))
        names |= set(vars(base)) | {node.attr for node in stored if is_self(node.value)}
    return {name for name in names if is_private(name)}


inherited_names = functools.cache(private_names)
"""The same, for a Ray that no test has changed."""


@functools.cache
def known_names() -> set[str]:
    return set().union(*map(inherited_names, RAY_CLASSES))


def is_store(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def missing(names: Iterable[PrivateName]) -> list[str]:
    """Those that the installed Ray lacks."""
    return [f"{entry.owner.__name__}.{entry.name}" for entry in names if entry.name not in private_names(entry.owner)]


def uses(source: str, namespace: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(kind of use, class or empty, name) of each use of a private name of Ray in a module."""
    known = known_names()
    tree = ast.parse(source)
    inherited: dict[ast.AST, tuple[str, set[str]]] = {}  # by node inside a class of ours: its name, Ray's private names
    for node in ast.walk(tree):
        owner = namespace.get(node.name) if isinstance(node, ast.ClassDef) else None
        if isinstance(node, ast.ClassDef) and isinstance(owner, type) and from_ray(owner):
            names = inherited_names(owner)
            inherited |= dict.fromkeys(ast.walk(node), (node.name, names))
            yield from (("overrides", node.name, name) for name in defined_names(node) if name in names)
    for node in ast.walk(tree):
        class_name, names = inherited.get(node, ("", set()))
        match node:
            case ast.Attribute(value=value, attr=name) if is_self(value) or is_super(value):
                if name in names:
                    yield "overrides" if is_store(node) else "reads", class_name, name
            case ast.Attribute(value=value, attr=name) if is_private(name):
                if name in known or (isinstance(value, ast.Name) and value.id == "ray"):
                    yield "reads", "", name
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                if name in known | names:
                    yield "reads", class_name, name
            case ast.Call(func=function, keywords=keywords) if "ray" in ast.unparse(function).split("."):
                yield from (("passes", "", word.arg) for word in keywords if word.arg and is_private(word.arg))
            case ast.ImportFrom(module=str(module), names=aliases) if module.split(".")[0] == "ray":
                parts = [*module.split("."), *(alias.name for alias in aliases)]
                yield from (("imports", "", part) for part in parts if is_private(part))
            case ast.Import(names=aliases):
                parts = [part for a in aliases if a.name.split(".")[0] == "ray" for part in a.name.split(".")]
                yield from (("imports", "", part) for part in parts if is_private(part))


def defined_names(node: ast.ClassDef) -> Iterator[str]:
    """Names that the class's body binds."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement.name
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def touches_ray(path: Path) -> bool:
    if path.parent.name in ("grpo", "sft"):
        return True
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    modules = (node.module if isinstance(node, ast.ImportFrom) else name.name
               for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names)  # fmt: skip
    return any((module or "").split(".")[0] == "ray" for module in modules)


def uses_in(path: Path) -> list[tuple[str, str, str]]:
    module = importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
    return list(uses(path.read_text(encoding="utf-8"), vars(module)))


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.name not in COMPATS and touches_ray(path)]


def test_this_ray_has_what_is_listed() -> None:
    assert missing(READS + HOOKS) == []


def test_a_method_that_a_release_drops_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TorchLearner, "_uncompiled_update")
    assert missing(READS + HOOKS) == ["TorchLearner._uncompiled_update"]


def test_an_attribute_that_a_release_renames_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda owner: source(owner).replace("self._workers", "self._actors"))
    assert missing(READS + HOOKS) == ["LearnerGroup._workers"]


def test_each_has_a_reason() -> None:
    assert all(entry.reason.endswith(".") and len(entry.reason.split()) > 6 for entry in READS + HOOKS)
    names = [(entry.owner, entry.name, entry.overridden_by) for entry in READS + HOOKS]
    assert len(set(names)) == len(names)


def test_the_one_file_reads_what_it_lists() -> None:
    tree = ast.parse(COMPAT.read_text(encoding="utf-8"))
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)}
    assert read == {entry.name for entry in READS}


def test_files_that_touch_ray_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in FILES}
    assert {"grpo/algorithm.py", "grpo/train.py", "sft/worker.py", "cli/cluster.py"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_uses_another_private_name(path: Path) -> None:
    listed = {(hook.overridden_by, hook.name) for hook in HOOKS}
    assert [use for use in uses_in(path) if use[1:] not in listed] == [], "list it in rllib_compat.py, or do without"


def test_each_listed_hook_is_overridden() -> None:
    overridden = {use[1:] for path in FILES for use in uses_in(path) if use[0] == "overrides"}
    assert overridden == {(hook.overridden_by, hook.name) for hook in HOOKS}


CLASS = "class Mine(LearnerGroup):\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("group._workers", [("reads", "", "_workers")]),
        ("algorithm.learner_group._learner.module", [("reads", "", "_learner")]),
        ("group._my_own", []),
        ("getattr(group, '_workers')", [("reads", "", "_workers")]),
        ("ray._private", [("reads", "", "_private")]),
        ("from ray._private.worker import Worker", [("imports", "", "_private")]),
        ("from ray.rllib.core import _x, y", [("imports", "", "_x")]),
        ("import ray._private.worker", [("imports", "", "_private")]),
        ("import numpy._core", []),
        ("ray.init(address='local', _system_config={})", [("passes", "", "_system_config")]),
        (CLASS + "  def _check_component(self): ...", [("overrides", "Mine", "_check_component")]),
        (CLASS + "  _check_component = None", [("overrides", "Mine", "_check_component")]),
        (CLASS + "  def f(self): self._workers = []", [("overrides", "Mine", "_workers")]),
        (CLASS + "  def f(self): return self._workers", [("reads", "Mine", "_workers")]),
        (CLASS + "  def f(self): return super()._workers", [("reads", "Mine", "_workers")]),
        (CLASS + "  def _my_own(self): return self._my_other", []),
        ("class Mine:\n  def f(self): return self._workers", []),
    ],
)
def test_uses_are_found(source: str, expected: list[tuple[str, str, str]]) -> None:
    namespace = {"LearnerGroup": LearnerGroup}
    if source.startswith("class"):
        exec(source, namespace)
    assert list(uses(source, namespace)) == expected
