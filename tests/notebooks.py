"""The notebooks in docs/notebooks, executed without Jupyter.

`python -m tests.notebooks` executes each one in a process and a folder of its own, and writes its outputs into the
file: printed texts, and the picture or the text of a cell's last expression. A test executes them again and compares.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/notebooks"

Cell = dict[str, Any]


def notebooks() -> list[Path]:
    """The notebooks, by name."""
    return sorted(FOLDER.glob("*.ipynb"))


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    """The cells of a notebook that are executed."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> list[Cell]:
    """Execute a cell as Jupyter would; its outputs are what it prints and the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs: list[Cell] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    if value is not None:
        outputs.append({"data": _shown(value), "metadata": {}, "output_type": "display_data"})
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    """A value by its kinds: a figure or a picture as PNG, all else as text."""
    png = io.BytesIO()
    if isinstance(value, Image.Image):
        value.save(png, "PNG", optimize=True)
    elif isinstance(value, np.ndarray):
        raise TypeError("a notebook shows arrays by Image.fromarray, as a reader would have to")
    elif hasattr(value, "savefig"):
        value.savefig(png, format="png", dpi=80, bbox_inches="tight", metadata={"Software": None})
    else:
        return {"text/plain": repr(value)}
    return {"image/png": base64.b64encode(png.getvalue()).decode() + "\n", "text/plain": "<picture>"}


def execute(path: Path) -> dict[str, Any]:
    """Execute a notebook in this process, in the current folder; returns it with its outputs."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell["outputs"], cell["execution_count"] = run_cell("".join(cell["source"]), names), number
    return notebook


def execute_apart(path: Path) -> dict[str, Any]:
    """Execute a notebook in a process and an empty folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",  # more of them wait for each other on a busy machine
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        }
        result = subprocess.run(
            [sys.executable, "-m", "tests.notebooks", str(path)],
            cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
    assert result.returncode == 0, f"{path.name}\n{result.stderr}"
    notebook: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return notebook


def main() -> None:
    """Without arguments, execute all notebooks and write them; with a path, execute it here and print it."""
    if sys.argv[1:]:
        print(json.dumps(execute(Path(sys.argv[1]))))
        return
    for path in notebooks():
        text = json.dumps(execute_apart(path), indent=1, ensure_ascii=False, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(text) // 1000} kB")


if __name__ == "__main__":
    main()
