"""Find an object in a picture: show a policy pictures with a box around the object, and ask for the box in another.

How to run (a box is x1,y1,x2,y2 in pixels of the picture as viewers show it):
    focus demo --support a.jpg 10,20,80,120 --support b.jpg 5,5,60,90 --query c.jpg --out answer.png

Without pictures, the command draws an episode. Name another policy as for `focus evaluate`:
    focus demo
    focus demo --policy copy_support

The command prints the box, and writes a picture: supports and query with their boxes. With a vlm, a second row shows
attention: the supports are bright where the tokens inside the answered box attend, and the query is bright where the
coordinates of the answer attend.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from PIL import Image

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.common import PolicyArguments, PolicyName
from focus_agents.cli.data_checks import check_policy_flags
from focus_agents.cli.errors import as_flags, make_console, user_errors, warn
from focus_agents.policies.registry import PolicySpec, parse_policy
from focus_agents.settings import Settings
from focus_env import images
from focus_env.boxes import as_box
from focus_env.datasets import SyntheticDataset
from focus_env.errors import DatasetError, FocusError
from focus_env.rendering import render_localization, write_picture
from focus_env.types import Box, ImageArray

DRAWN: Mapping[str, Any] = {"split": "test", "level": 3, "distractors": "any", "image_size": 64, "shots": 2}


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Find an object in a picture."""

    support: Annotated[tuple[tuple[Path, str], ...], tyro.conf.UseAppendAction] = ()
    """A picture, and the box x1,y1,x2,y2 of the object in pixels of that picture; once for each shot."""
    query: Path | None = None
    """The picture in which to find the object."""
    out: Path = Path("runs/answer.png")
    """File for the picture of the answer; a missing folder is made."""
    policy: PolicyName = "vlm:focus-small"
    policies: PolicyArguments = PolicyArguments()

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags of a command line that have no effect; see `focus_agents.cli.data_checks`."""
        check_policy_flags(given, [self.policy])


def main() -> None:
    status = make_console(stderr=True).status  # torch takes its time; the output itself is for other programs, too
    with user_errors(Args):
        args = parse(Args, __doc__)
        supports, query = read_pictures(args)
        if parse_policy(args.policy)[0].is_model:
            quiet_libraries()
        spec = args.policies.spec(args.policy)
        with status(f"loading {args.policy}"):
            from focus_agents.policies.focus import FocusPolicy, locate  # here: what is wrong is said without torch

            quiet_libraries()
        warn(spec.other_prompt(), Args)
        check_sizes(args, spec, [*(image for image, _ in supports), query])
        policy = spec.build()
        if isinstance(policy, FocusPolicy):
            from focus_agents.models.pictures import picture_budget

            budget = picture_budget(spec.argument, validation=spec.max_image_tokens)
            if budget.validation is not None:
                print(f"most of a picture: {budget.validation:,} tokens")
        args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if isinstance(policy, FocusPolicy):
            found = policy.locate(supports, query, with_attention=True)
        else:
            found = locate(policy, spec.load_template(), supports, query)
    except FocusError as error:
        print(as_flags(f"error: {error}", Args), file=sys.stderr)
        raise SystemExit(1) from error
    except Exception as error:  # whatever a policy of the user's own raises
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename}, line {place.lineno}"
        print(f"error: policy {args.policy!r} raised {type(error).__name__}: {error} ({where})", file=sys.stderr)
        raise SystemExit(1) from error
    with user_errors(Args):
        write_picture(args.out, render_localization(supports, query, found.box, found.attention))
    if found.error is not None:
        print(f"no answer: {found.error}")
    elif found.box is None:
        print(f"no box: {found.status}; the policy wrote {found.text!r}")
    else:
        print("box " + ",".join(f"{value:.1f}" for value in found.box) + " (x1,y1,x2,y2 in pixels of the query)")
    print(f"picture: {args.out}")
    if found.error is not None:
        raise SystemExit(1)


def read_pictures(args: Args) -> tuple[list[tuple[ImageArray, Box]], ImageArray]:
    """Return supports and query, checked."""
    args.policies.check_device()
    if bool(args.support) != (args.query is not None):
        raise ValueError("--support and --query: expected both, or neither for an episode that is drawn")
    check_out(args.out, [file for file, _ in args.support] + ([] if args.query is None else [args.query]))
    if args.query is None:
        episode = SyntheticDataset(**DRAWN)[0]
        supports = [(exemplar.frame.image(), exemplar.box) for exemplar in episode.support]
        return supports, episode.query_frame.image()
    supports = []
    for file, words in args.support:
        image, box = read_picture(file), read_box(words)
        supports.append((image, as_box(box, f"--support {file}", image_wh=(image.shape[1], image.shape[0]))))
    return supports, read_picture(args.query)


def check_sizes(args: Args, spec: PolicySpec, pictures: Sequence[ImageArray]) -> None:
    """See that a model can take each of the given pictures, before its weights are read.

    Raises:
        ValueError: If it cannot.
        CheckpointError: If there is no such model.
    """
    if spec.entry.load_template is None or args.query is None:
        return
    from focus_agents.models.loading import load_processor
    from focus_agents.policies.builders import limit

    processor = load_processor(spec.argument, max_image_tokens=limit(spec))
    places = [*(f"--support {file}" for file, _ in args.support), f"--query {args.query}"]
    for place, image in zip(places, pictures, strict=True):
        try:
            processor.check_picture(image)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


def check_out(out: Path, given: Sequence[Path]) -> None:
    """See that the answer's picture can be written, before there is one.

    Raises:
        ValueError: If its ending names no format that pictures are written in, or it is a folder or one of the pictures
            that are given.
    """
    kind = Image.registered_extensions().get(out.suffix.lower())
    try:
        Image.new("RGB", (8, 8)).save(io.BytesIO(), kind or "none")
        is_written = True
    except (KeyError, OSError, ValueError):
        is_written = False
    if not is_written or out.is_dir():
        raise ValueError(f"--out {out}: expected a file such as answer.png")
    if any(out.exists() and file.exists() and out.samefile(file) for file in given):
        raise ValueError(f"--out {out}: expected another file than the given pictures, which it would write over")


def read_picture(file: Path) -> ImageArray:
    """Return the pixels of a picture as a person sees it; so a box is in pixels of the picture as viewers show it."""
    try:
        return images.read_picture(file)
    except DatasetError as error:
        reason = str(error).removeprefix(f"{file}: ")
        raise ValueError(f"{file}: expected a picture that Pillow can read ({reason})") from error


def read_box(words: str) -> Box:
    try:
        if "_" in words or not words.isascii():  # numbers to Python, not to people
            raise ValueError
        x1, y1, x2, y2 = (float(word) for word in words.split(","))
    except ValueError:
        raise ValueError(f"box {words!r}: expected four numbers x1,y1,x2,y2 in pixels, such as 10,20,80,120") from None
    return Box(x1, y1, x2, y2)


if __name__ == "__main__":
    main()
