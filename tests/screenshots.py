"""Pictures of the site at the widths of a desktop and a phone.

`python -m tests.screenshots` builds the site and writes docs/screens/, which CONTRIBUTING.md shows. It needs chromium.
Look at each picture before you commit it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import chromium
from tests.places import ROOT

PAGES = ("index", "start", "finding", "how_it_works", "errors")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCREENS = ROOT / "docs/screens"
COLOURS = 256


def build_site(folder: Path) -> Path:
    """Build the site as `make lint` does, without a word about mkdocs 2, and return its folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder, "profile")) as page:
        site = build_site(Path(folder, "site"))
        for name in PAGES:
            for size, (width, height) in SIZES.items():
                page.open(site / f"{name}.html", width=width, height=height)
                page.call("Emulation.setScrollbarsHidden", hidden=True)
                page.value("Promise.all([...document.images].map(image => image.decode()))")
                path = SCREENS / f"{name}_{size}.png"
                page.picture(path)
                with Image.open(path) as picture:
                    picture.convert("RGB").quantize(COLOURS, kmeans=1).save(path, optimize=True)


if __name__ == "__main__":
    main()
