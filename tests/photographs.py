"""README's picture: the job on photographs, as `focus find` answers.

`python -m tests.photographs` asks the command for each of `ROWS`, and writes docs/photographs.jpg and
docs/photographs/found.json. A row whose answer misses the object is named and left out.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from focus_env.boxes import box_iou
from focus_env.rendering import ANSWER_COLOUR, TARGET_COLOUR, _tiles, stack_rows
from focus_env.types import Box, ImageArray
from tests.places import ROOT

FOLDER = ROOT / "docs/photographs"
PICTURE, FOUND = ROOT / "docs/photographs.jpg", FOLDER / "found.json"
LEAST_IOU = 0.5


@dataclass(frozen=True)
class Row:
    """An object that is shown in one photograph and looked for in another.

    Attributes:
        box: Of the object in `support`, in pixels.
        target: The object in `query`, measured by eye.
    """

    support: str
    box: Box
    query: str
    target: Box

    @property
    def command(self) -> str:
        """The command that answers, without its `--out`."""
        x1, y1, x2, y2 = (round(value) for value in self.box)
        folder = FOLDER.relative_to(ROOT)
        return f"focus find --support {folder}/{self.support}:{x1},{y1},{x2},{y2} --in {folder}/{self.query}"


ROWS: Mapping[str, Row] = {
    "packet": Row("packet.png", Box(3, 8, 318, 217), "packet_in_scene.png", Box(94, 162, 275, 300)),
    "house": Row("street_a.jpg", Box(318, 165, 418, 350), "street_b.jpg", Box(553, 197, 645, 350)),
}


def answer(row: Row) -> Box:
    """Ask the command, and read the box from its file."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        command = [sys.executable, "-m", "focus_agents", *shlex.split(row.command)[1:], "--out", str(out)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        (annotation,) = json.loads(out.read_text(encoding="utf-8"))["annotations"]
    x, y, width, height = annotation["bbox"]
    return Box(x, y, x + width, y + height)


def draw(found: Mapping[str, Box]) -> ImageArray:
    """Draw a row for each answer: the support with the box that was given, the query with the answer."""
    rows = []
    for name, box in found.items():
        support, query = (
            np.asarray(Image.open(FOLDER / file).convert("RGB")) for file in (ROWS[name].support, ROWS[name].query)
        )
        shown = [(support, ROWS[name].box, TARGET_COLOUR), (query, box, ANSWER_COLOUR)]
        rows.append(_tiles(shown, ["support", "query"]))
    return stack_rows(rows, legend=[("given", TARGET_COLOUR), ("answer", ANSWER_COLOUR)])


def main() -> None:
    """Write the picture and the boxes in it."""
    found = {name: answer(row) for name, row in ROWS.items()}
    right = {name: box for name, box in found.items() if box_iou(box, ROWS[name].target) >= LEAST_IOU}
    for name in found.keys() - right.keys():
        print(f"left out: {name}, answered {found[name]} where it is at {ROWS[name].target}")
    boxes = {name: [round(value, 1) for value in box] for name, box in right.items()}
    FOUND.write_text(json.dumps(boxes, indent=1) + "\n", encoding="utf-8")
    Image.fromarray(draw({name: Box(*box) for name, box in boxes.items()})).save(PICTURE, quality=88, optimize=True)


if __name__ == "__main__":
    main()
