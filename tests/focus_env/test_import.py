"""What importing the environment brings along, and what it offers."""

from __future__ import annotations

import subprocess
import sys

import focus_env

IMPORT_ALL = """
import importlib, pkgutil, sys
import focus_env
names = [module.name for module in pkgutil.walk_packages(focus_env.__path__, "focus_env.")]
for name in names:
    importlib.import_module(name)
print(len(names))
print(*sorted({"torch", "ray", "transformers", "focus_agents"} & set(sys.modules)))
"""

IMPORT_TOP = """
import sys
import focus_env
print(*sorted({"torch", "ray", "transformers", "pyarrow", "shapely", "matplotlib"} & set(sys.modules)))
"""


def run(code: str) -> list[str]:
    """What a new interpreter prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_no_module_imports_torch_ray_or_transformers() -> None:
    num_modules, heavy = run(IMPORT_ALL)
    assert int(num_modules) > 12
    assert heavy == ""


def test_the_package_alone_is_light() -> None:
    assert run(IMPORT_TOP) == [""]


def test_public_names_exist_and_are_sorted() -> None:
    assert all(hasattr(focus_env, name) for name in focus_env.__all__)
    assert sorted(set(focus_env.__all__)) == sorted(focus_env.__all__)
    assert focus_env.__version__ == "0.1.0"
