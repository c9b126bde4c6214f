"""Show an object once, find it everywhere: in folders, videos and lists of pictures.

    sources    what is looked through: the pictures, by name, decoded one at a time
    wanted     what is looked for: objects, each with pictures that show it in a box
    looking    a batch of pictures, and an answer for each object in each of them
    answers    what an answer is, and how sure a policy is of it; `calibrating` makes probabilities of that
    unfinished what was answered before a kill
    drawing    the pictures with what was found in them; `video` reads and writes clips
    search     all of it in turn, and what is checked before

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
        supports: What is looked for: pairs of a picture and a box `xyxy` in its pixels, or texts such as
            ``"a.jpg:10,20,80,120"``; of several objects, these by name. A picture is a path, one of Pillow, or an
            array.
        pictures: Where: a folder, a pattern, a picture, a video, a list of files (.txt), or several of these; or
            pictures in memory.
        policy: A name with its argument, such as "vlm:focus-small", a spec, or an object with `generate`;
            None: the best that needs no download.
        template: Words the questions of an object with `generate`; None: its own, else "default".
        out: The annotations that are written; a search of the same that was killed is gone on with. None: nothing.
        format: Of `out`; None: by its ending.
        min_score: Boxes of a lower score count as not there; None: all count.
        calibration: A file of an evaluation of the same policy, by which scores of boxes become probabilities;
            None: scores are as the policy gives them.
        allow_absent: Whether a model is told what to answer where the object is not there.
        draw: A folder for pictures with boxes, or a picture file for a contact sheet.
        video: A video file for the same.
        every: Of a video, each so manyth frame is looked at.
        batch_size: Pictures that are asked about together.
        overwrite: Whether what is there is replaced.

    Raises:
        ValueError: If an argument is wrong; nothing was started then.
        DatasetError: If a support cannot be read.
        MissingDependencyError: If a policy or a video needs a package that is not installed.
        PolicyError: If the policy gives nothing but failures.
        StorageError: If something cannot be written.
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
