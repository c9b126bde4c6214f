"""From pictures to a box: show a policy pictures with a box around some object; it finds that object in another one.

How to run (a box is x1,y1,x2,y2 in pixels):
    focus demo --support a.jpg 10,20,80,120 --support b.jpg 5,5,60,90 --query c.jpg --out answer.png

Without any picture it draws an episode of its own; another policy by its name, as for `focus evaluate`:
    focus demo
    focus demo --policy copy_support

It prints the box, and writes a picture: supports and query with their boxes; with a vlm, below that the
supports lit where the answered place of the query looked, and the query where the answer's coordinates looked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.common import PolicyArguments, PolicyName
from focus_agents.cli.errors import user_errors
from focus_agents.policies.focus import FocusPolicy, locate
from focus_agents.settings import Settings
from focus_env.boxes import validate_box
from focus_env.datasets import SyntheticDataset
from focus_env.rendering import render_localization, write_picture
from focus_env.types import Box, ImageArray

DRAWN: Mapping[str, Any] = {"split": "test", "level": 3, "distractors": "any", "image_size": 64, "shots": 2}


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """From pictures to a box."""

    support: Annotated[tuple[tuple[Path, str], ...], tyro.conf.UseAppendAction] = ()
    """A picture, and the box x1,y1,x2,y2 of the object in it, in pixels; once for each shot."""
    query: Path | None = None
    """The picture to answer for."""
    out: Path = Path("answer.png")
    """Where the picture of the answer goes."""
    policy: PolicyName = "vlm:focus-small"
    policies: PolicyArguments = PolicyArguments()


def main() -> None:
    quiet_libraries()
    with user_errors(Args):
        args = parse(Args, __doc__)
        supports, query = read_pictures(args)
        spec = args.policies.spec(args.policy)
        policy = spec.build()
    if isinstance(policy, FocusPolicy):
        found = policy.locate(supports, query, with_attention=True)
    else:
        found = locate(policy, spec.load_template(), supports, query)
    with user_errors(Args):
        write_picture(args.out, render_localization(supports, query, found.box, found.attention))
    if found.error is not None:
        print(f"no answer: {found.error}")
    elif found.box is None:
        print(f"no box: {found.status}; the policy wrote {found.text!r}")
    else:
        print("box " + ",".join(f"{value:.1f}" for value in found.box) + " (x1,y1,x2,y2 in pixels of the query)")
    print(f"picture: {args.out}")


def read_pictures(args: Args) -> tuple[list[tuple[ImageArray, Box]], ImageArray]:
    """Supports and query, checked."""
    if args.out.suffix.lower() not in Image.registered_extensions() or not args.out.absolute().parent.is_dir():
        raise ValueError(f"--out {args.out}: expected a file such as answer.png in a folder that exists")
    args.policies.check_device()
    if bool(args.support) != (args.query is not None):
        raise ValueError("--support and --query: expected both, or neither for an episode that is drawn")
    if args.query is None:
        episode = SyntheticDataset(**DRAWN)[0]
        supports = [(exemplar.frame.image(), exemplar.box) for exemplar in episode.support]
        return supports, episode.query_frame.image()
    supports = []
    for file, words in args.support:
        image, box = read_picture(file), read_box(words)
        validate_box(box, (image.shape[1], image.shape[0]), f"--support {file}")
        supports.append((image, box))
    return supports, read_picture(args.query)


def read_picture(file: Path) -> ImageArray:
    try:
        with Image.open(file) as picture:
            return np.array(picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{file}: expected a picture that Pillow can read ({error})") from error


def read_box(words: str) -> Box:
    try:
        x1, y1, x2, y2 = (float(word) for word in words.split(","))
    except ValueError:
        raise ValueError(f"box {words!r}: expected four numbers x1,y1,x2,y2 in pixels, such as 10,20,80,120") from None
    return Box(x1, y1, x2, y2)


if __name__ == "__main__":
    main()
