"""Show an object once, find it everywhere: in folders, videos and lists of pictures.

    sources    the pictures to search, by name, decoded one at a time
    wanted     the objects to find, each with pictures that show the object in a box
    looking    asks a policy about a batch of pictures: one answer for each object in each picture
    answers    the answers with their scores; `calibrating` turns scores into probabilities
    unfinished the answers that a killed search has left
    drawing    the pictures with the boxes that were found; `video` reads and writes clips
    search     checks the arguments, then runs all of these in turn

`find` is the door from Python, and `focus find` from the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from focus_agents.finding.answers import Answer, Looked
from focus_agents.finding.calibrating import read_calibration
from focus_agents.finding.choice import choose_policy, describe_policy, make_policy, template_of
from focus_agents.finding.search import Findings, Outputs, Search
from focus_agents.finding.sources import list_sources
from focus_agents.finding.wanted import as_wanted
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Policy
from focus_env.prompts import PromptTemplate

__all__ = ["Answer", "Findings", "Looked", "find"]

DEFAULT_BATCH_SIZE = 8


def find(
    supports: Any,
    pictures: Any,
    *,
    policy: str | PolicySpec | Policy | None = None,
    template: PromptTemplate | None = None,
    out: str | Path | None = None,
    format: str | None = None,
    min_score: float | None = None,
    calibration: str | Path | None = None,
    allow_absent: bool = False,
    draw: str | Path | None = None,
    video: str | Path | None = None,
    every: int = 1,
    batch_size: int = DEFAULT_BATCH_SIZE,
    overwrite: bool = False,
) -> Findings:
    """Find objects in pictures.

    Args:
        supports: The objects to find: pairs of a picture and a box `xyxy` in the picture's pixels, or texts such as
            ``"a.jpg:10,20,80,120"``. For several objects, a mapping from names to such supports. A picture is a path, a
            Pillow image, or an array.
        pictures: The pictures to search: a folder, a pattern, a picture, a video, a list of files (.txt), or several of
            these; or pictures in memory.
        policy: A name with its argument, such as "vlm:focus-small", a spec, or an object with `generate`;
            None: the best policy that needs no download.
        template: The prompt of an object with `generate`; None: the object's own prompt, else "default".
        out: The file of annotations to write. A killed search with the same arguments continues. None: write nothing.
        format: Format of `out`; None: by its ending.
        min_score: Boxes of a lower score count as absent; None: all boxes count.
        calibration: A file of an evaluation of the same policy, by which scores of boxes become probabilities;
            None: keep the policy's scores.
        allow_absent: Whether the prompt tells a model what to answer where the object is absent.
        draw: A folder for pictures with boxes, or a picture file for a contact sheet.
        video: A video file for pictures with boxes.
        every: Search every n-th frame of a video.
        batch_size: Pictures that the policy answers together.
        overwrite: Whether existing outputs are replaced.

    Raises:
        ValueError: If an argument is wrong; then nothing has started.
        DatasetError: If a support cannot be read.
        MissingDependencyError: If a policy or a video needs a package that is not installed.
        PolicyError: If the policy gives nothing but failures.
        StorageError: If an output cannot be written.
    """
    wanted = as_wanted(supports)
    sources = list_sources(pictures, every=every)
    outputs = Outputs(
        out=None if out is None else Path(out).expanduser(),
        format=format,
        draw=None if draw is None else Path(draw).expanduser(),
        video=None if video is None else Path(video).expanduser(),
        overwrite=overwrite,
    )
    outputs.check(sources, wanted)
    chosen = choose_policy(wanted).text if policy is None else policy
    spec = PolicySpec(text=chosen) if isinstance(chosen, str) else chosen
    if isinstance(spec, PolicySpec):
        spec.check()
    words = template_of(spec, template=template, allow_absent=allow_absent)
    identity = describe_policy(spec, words)
    search = Search(
        wanted,
        sources,
        outputs=outputs,
        identity=identity,
        calibration=None if calibration is None else read_calibration(Path(calibration).expanduser(), identity),
        min_score=min_score,
        batch_size=batch_size,
    )
    return search.run(*make_policy(spec, words))
