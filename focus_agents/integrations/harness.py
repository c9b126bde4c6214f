"""Our episodes for harnesses that ask many models many benchmarks: what they ask, and how an answer is scored.

A folder holds all that a harness needs to serve the same episodes, in any process:

    request.json      which episodes, by the arguments of `load_dataset` and whether supports are shuffled, and the
                      prompt's name, or its fields where it is one's own, its unit, and whether it tells of absence
    episodes.jsonl    a line for each episode: its number, and this folder

`write_request` writes it, and `served(folder)` opens it. Prompts, parser and scores are those of `focus evaluate`, so a
harness's figures are of the same protocol. `lmms_eval.py` and `vlmevalkit.py` hand it to a harness.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from focus_agents.runs.files import write_json, write_json_lines
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import load_dataset
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.env import observe
from focus_env.errors import DatasetError
from focus_env.metrics import ScoredAnswer, summarize
from focus_env.prompts import PromptTemplate, allowing_absent, get_template, spelled_out
from focus_env.regular_files import open_regular
from focus_env.rewards.scores import score_answers
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import EpisodeDataset, Message

REQUEST_FILE, EPISODES_FILE = "request.json", "episodes.jsonl"
_LARGEST_FILE = 1_000_000
METRICS: Mapping[str, str] = {"miou": "miou_all", "acc_50": "acc_50", "parse_rate": "parse_rate"}
"""Names in a harness's tables, with those of `focus_env.metrics.summarize`; an average over answers each."""


@dataclass(frozen=True, slots=True)
class Served:
    """Episodes as a harness asks them.

    Attributes:
        episodes: The data set.
        template: Words questions and reads answers.
    """

    episodes: EpisodeDataset
    template: PromptTemplate

    def messages(self, index: int) -> Sequence[Message]:
        """Return the prompt of an episode, its pictures between the texts."""
        episode = self.episodes[index]
        return self.template.for_question(episode).render(observe(episode))

    def score(self, index: int, text: str) -> ScoredAnswer:
        """Score an answer to an episode."""
        reward = WeightedReward.from_spec("iou")
        return score_answers(self.episodes[index], [text], template=self.template, reward=reward).answers[0]


def write_request(
    folder: Path,
    *,
    dataset: Mapping[str, Any],
    num_episodes: int,
    template: str = "default",
    frame: CoordinateFrame | None = None,
    allow_absent: bool = False,
    shuffle_supports: bool = False,
) -> int:
    """Write the folder that `served` opens; nothing is written before all of it can be.

    Args:
        folder: Where to; other files of it stay.
        dataset: Arguments of `load_dataset` by name, among them `name`; paths absolute.
        num_episodes: Most episodes, from the front.
        template: The prompt, as for `get_template`; the words of one's own are written into the folder.
        frame: Unit in which boxes are shown and answered; None: the template's own.
        allow_absent: Whether the prompt tells what to answer where the object is absent.
        shuffle_supports: Show the supports of other episodes, a control.

    Returns:
        How many episodes there are.

    Raises:
        ValueError: If there is no such data set or template, the template cannot be asked in the unit or has no words
            for an absent object, or the unit depends on a model.
        DatasetError: If the data set's files are missing, it has no episode, or the folder has files of these names
            that are not of such a request.
    """
    request = {
        "dataset": dict(dataset),
        "template": spelled_out(template),
        "frame": CoordinateFrame(get_template(template).frame if frame is None else frame).value,
        "allow_absent": allow_absent,
        "shuffle_supports": shuffle_supports,
    }
    request = json.loads(json.dumps(request, default=str))
    count = min(num_episodes, len(_opened(request).episodes))
    if not count:
        raise DatasetError(f"data set {dataset.get('name')!r}: expected episodes, got none")
    check_replaceable(folder / REQUEST_FILE, *request)
    check_replaceable(folder / EPISODES_FILE, "index", "folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REQUEST_FILE, request)
    served.cache_clear()
    rows = [{"index": index, "folder": str(folder.absolute())} for index in range(count)]
    write_json_lines(folder / EPISODES_FILE, rows)
    return count


def check_replaceable(file: Path, *names: str) -> None:
    """See that a file is not there, or is one that an earlier call has written.

    Args:
        file: To be written.
        names: Entries by which ours is known: all names of its object, the first line's in JSON lines.

    Raises:
        DatasetError: If it is another file.
    """
    if not os.path.lexists(file):
        return
    try:
        with open_regular(file) as stream:
            text = stream.readline(_LARGEST_FILE) if file.suffix == ".jsonl" else stream.read(_LARGEST_FILE)
        found = yaml.load(text, Loader=yaml.BaseLoader) if file.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != set(names):
        raise DatasetError(
            f"{file}: expected no such file, or that of an earlier request for episodes, got another one; move it, or "
            "choose another folder as `output`"
        )


@functools.cache
def served(folder: str) -> Served:
    """Open a folder that `write_request` has written; once in a process.

    Raises:
        DatasetError: If it is no such folder, or the data are not there.
    """
    file = Path(folder) / REQUEST_FILE
    try:
        request = json.loads(file.read_text(encoding="utf-8"))
        dict(request["dataset"]), request["template"], CoordinateFrame(request["frame"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{file}: expected a request for episodes, got {error}; write it by focus harness"
        ) from error
    return _opened(request)


def _opened(request: Mapping[str, Any]) -> Served:
    """Return the episodes and the prompt of a request.

    Raises:
        ValueError: If a harness cannot ask so.
        DatasetError: If the data are not there.
    """
    template = dataclasses.replace(get_template(request["template"]), frame=CoordinateFrame(request["frame"]))
    if template.frame is CoordinateFrame.RESIZED_PIXEL and template.image_to_input_wh is None:
        raise ValueError(
            f"template {template.name!r}: expected a unit that is known without the model, got {template.frame}, "
            "pixels as the model resizes a picture, which a harness does not tell; choose another `frame`, such as "
            "pixel, or another `template`"
        )
    if request.get("allow_absent"):
        template = allowing_absent(template)
    arguments = dict(request["dataset"])
    episodes = load_dataset(arguments.pop("name"), **arguments)
    return Served(ShuffledSupports(episodes) if request.get("shuffle_supports") else episodes, template)


def metrics_of(answer: ScoredAnswer) -> dict[str, float]:
    """Return the metrics of one answer; their averages are those of `focus evaluate`."""
    summary = summarize([answer])
    return {name: float(summary[key]) for name, key in METRICS.items()}
