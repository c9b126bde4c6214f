"""Commands that compute with no model wait for neither torch nor Ray, from their first word to their last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.places import ROOT

PROGRAM = """
import sys
from focus_agents.cli.main import main
try:
    main()
finally:
    print("large:", *(name for name in ("ray", "torch", "transformers") if name in sys.modules))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of a patch that moves, with its boxes."""
    folder = tmp_path_factory.mktemp("photos")
    patch = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    lines = ["image,label,x1,y1,x2,y2"]
    for number in range(4):
        pixels, left = np.full((80, 100, 3), 128, np.uint8), 10 + 12 * number
        pixels[20:40, left : left + 20] = patch
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,patch,{left},20,{left + 20},40")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("convert {photos}/boxes.csv {out}/boxes.json --to coco", "4 boxes"),
        ("data --dataset csv --data-root {photos}/boxes.csv --shots 1 --inspect", "pictures"),
        ("data --dataset csv --data-root {photos}/boxes.csv --shots 1 --output {out}/store --verify", "shards"),
        ("find --support {photos}/0.png:10,20,30,40 --in {photos} --policy template_match --out {out}/a.json", "found"),
        ("find --support {photos}/0.png:10,20,30,40 --in {photos} --out {out}/b.json", "policy: match"),
        (
            "evaluate --policy center template_match copy_support:last --num-episodes 4 --shots 1 --output-dir {out}/e",
            "report:",
        ),
        ("harness --output {out}/task --num-episodes 2", "2 episodes"),
        ("report --help", "usage:"),
        ("grpo --help", "usage:"),
    ],
)
def test_they_import_nothing_large(command: str, said: str, photos: Path, tmp_path: Path) -> None:
    words = [word.format(photos=photos, out=tmp_path) for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stdout.splitlines()[-1] == "large:"
