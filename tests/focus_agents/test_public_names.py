"""The door for users of the library: `from focus_agents import ...`."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import focus_agents
from tests.places import ROOT

SOURCE = ROOT / "focus_agents/__init__.py"


def imports_for_type_checkers() -> dict[str, str]:
    """Names that the file imports for type checkers alone, with their modules."""
    (block,) = (node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If) and not node.orelse
                and isinstance(node.test, ast.Name))  # fmt: skip
    return {
        name.name: node.module or "" for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names
    }


def test_all_names_what_is_there() -> None:
    late = {name: module for module, names in focus_agents._MODULES.items() for name in names}
    assert sorted(focus_agents.__all__) == sorted(late)
    assert imports_for_type_checkers() == late
    assert set(focus_agents.__all__) <= set(dir(focus_agents))
    public = {name for name in vars(focus_agents) if not name.startswith("_")}
    of_python = {"annotations", "importlib", "TYPE_CHECKING", "Any"}
    folders = {path.stem for path in (ROOT / "focus_agents").iterdir()}
    assert public - of_python - folders <= set(focus_agents.__all__)


@pytest.mark.parametrize("name", focus_agents.__all__)
def test_each_name_is_a_documented_class_or_function(name: str) -> None:
    value = getattr(focus_agents, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__name__ == name
    assert value.__doc__
    assert getattr(focus_agents, name) is value


def test_the_names_of_a_module_come_with_a_star() -> None:
    found: dict[str, object] = {}
    exec("from focus_agents import *", found)
    assert set(focus_agents.__all__) <= set(found)


def test_evaluate_is_the_function_even_after_its_folder_was_imported() -> None:
    import focus_agents.evaluation.run
    from focus_agents import evaluate

    assert evaluate is focus_agents.evaluation.evaluate


@pytest.mark.parametrize(
    ("name", "hint"),
    [("evalute", "; did you mean 'evaluate'?"), ("GRPOConfg", "; did you mean 'GRPOConfig'?"), ("x", "")],
)
def test_a_name_that_is_not_there(name: str, hint: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(focus_agents, name)
    assert str(caught.value) == f"module 'focus_agents' has no attribute '{name}'{hint}"
    assert caught.value.name == name
    assert not hasattr(focus_agents, name)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import focus_agents; dir(focus_agents)", ["torch", "ray", "transformers", "numpy", "focus_env"]),
        ("from focus_agents import RunInterrupted", ["torch", "ray", "transformers"]),
        ("from focus_agents import FocusPolicy, load_model, Completion, collect_groups, SFTConfig", ["ray"]),
    ],
)
def test_only_what_is_used_is_imported(statement: str, absent: list[str]) -> None:
    code = f"import sys\n{statement}\nprint([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
