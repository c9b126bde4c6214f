"""Our episodes for harnesses that ask many models many benchmarks: what they ask, and how an answer is scored.

A folder holds all that a harness needs to serve the same episodes, in any process:

    request.json      which episodes, by the arguments of `load_dataset` and whether supports are shuffled, and the
                      prompt's name and unit
    episodes.jsonl    a line for each episode: its number, and this folder

`write_request` writes it, and `served(folder)` opens it. Prompts, parser and scores are those of `focus evaluate`, so a
harness's figures are of the same protocol. `lmms_eval.py` and `vlmevalkit.py` hand it to a harness.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focus_agents.runs.files import write_json, write_json_lines
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import load_dataset
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.env import observe
from focus_env.errors import DatasetError
from focus_env.metrics import ScoredAnswer, summarize
from focus_env.prompts import PromptTemplate, get_template
from focus_env.rewards.scores import score_answers
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import EpisodeDataset, Message

REQUEST_FILE, EPISODES_FILE = "request.json", "episodes.jsonl"
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
    frame: CoordinateFrame = CoordinateFrame.NORM_1000,
    shuffle_supports: bool = False,
) -> int:
    """Write the folder that `served` opens.

    Args:
        folder: Where to; other files of it stay.
        dataset: Arguments of `load_dataset` by name, among them `name`; paths absolute.
        num_episodes: Most episodes, from the front.
        template: Name of the prompt.
        frame: Unit in which boxes are shown and answered.
        shuffle_supports: Show the supports of other episodes, a control.

    Returns:
        How many episodes there are.

    Raises:
        ValueError: If there is no such data set or template.
        DatasetError: If its files are missing, or it has no episode.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request = {
        "dataset": dict(dataset),
        "template": template,
        "frame": CoordinateFrame(frame).value,
        "shuffle_supports": shuffle_supports,
    }
    write_json(folder / REQUEST_FILE, json.loads(json.dumps(request, default=str)))
    served.cache_clear()
    count = min(num_episodes, len(served(str(folder)).episodes))
    if not count:
        raise DatasetError(f"data set {dataset.get('name')!r}: expected episodes, got none")
    rows = [{"index": index, "folder": str(folder.absolute())} for index in range(count)]
    write_json_lines(folder / EPISODES_FILE, rows)
    return count


@functools.cache
def served(folder: str) -> Served:
    """Open a folder that `write_request` has written; once in a process.

    Raises:
        DatasetError: If it is no such folder, or the data are not there.
    """
    file = Path(folder) / REQUEST_FILE
    try:
        request = json.loads(file.read_text(encoding="utf-8"))
        arguments, name, frame = dict(request["dataset"]), request["template"], CoordinateFrame(request["frame"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{file}: expected a request for episodes, got {error}; write it by focus harness"
        ) from error
    template = dataclasses.replace(get_template(name), frame=frame)
    episodes = load_dataset(arguments.pop("name"), **arguments)
    return Served(ShuffledSupports(episodes) if request.get("shuffle_supports") else episodes, template)


def metrics_of(answer: ScoredAnswer) -> dict[str, float]:
    """Return the metrics of one answer; their averages are those of `focus evaluate`."""
    summary = summarize([answer])
    return {name: float(summary[key]) for name, key in METRICS.items()}
