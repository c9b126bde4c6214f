"""Where tests find what lies outside of the packages: the project's folder, real frames, experiments."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

from focus_agents.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
REAL_FRAMES = Path(os.environ.get("FOCUS_TEST_DATA", ROOT.parent / "shared/data/davis-mini"))
NO_REAL_FRAMES = f"no real frames at {REAL_FRAMES}; set FOCUS_TEST_DATA to a folder in the layout of GOT-10k"


def load_experiment(script: str) -> ModuleType:
    """An experiment as a module; of a command, the module in the package that its script calls."""
    file = ROOT / "experiments" / f"{script}.py"
    if command := re.search(r'^    run_command\("(\w+)"\)$', file.read_text(), re.MULTILINE):
        return importlib.import_module(COMMANDS[command[1]].module)
    spec = importlib.util.spec_from_file_location(script, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[script] = module
    spec.loader.exec_module(module)
    return module
