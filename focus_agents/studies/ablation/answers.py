"""Answer the episodes of an ablation: the splits of a run, shared episodes, the floors of copies and oracle, probes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

from focus_agents.evaluation import evaluate
from focus_agents.models.adapters import family_of
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.probing.probe import probe_model
from focus_agents.probing.settings import ProbeSettings
from focus_agents.runs.files import read_json, write_json
from focus_agents.studies.ablation.arms import ARMS, MAIN_SPLIT, SPLITS, cell
from focus_agents.studies.ablation.grid import Variant
from focus_agents.studies.ablation.runs import AblationStudy, ArmRun
from focus_env.boxes import box_iou
from focus_env.datasets import load_dataset
from focus_env.datasets.synthetic import SyntheticDataset
from focus_env.datasets.synthetic.oracle import oracle_box
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.env import ENV_ID
from focus_env.prompts import PSEUDO_NAMES, IPLocTemplate
from focus_env.types import Episode, EpisodeDataset

EVALUATION_FILE = "evaluation.json"
MAX_COMPLETION_TOKENS = 16
BATCH_SIZE = 64
FLOORS = ("copy", "oracle")
"""Baselines beside the runs: the copy of the last support's box, and the oracle, which knows the rule of the scenes."""


def evaluate_run(study: AblationStudy, run: ArmRun) -> None:
    """Answer the splits by greedy decoding, and keep the IoU of each answer."""
    missing = missing_cells(study, run)
    if not missing:
        return
    model = load_model(run.model)
    family_of(model).batch_pictures(model)
    policy = VLMPolicy(model.eval(), load_processor(run.model), precision=study.precision)
    template = load_template(run.model)
    if isinstance(template, IPLocTemplate):  # half of its training had names that say nothing; no category is told here
        template = dataclasses.replace(template, object_name=PSEUDO_NAMES[0])
    run.folder.mkdir(exist_ok=True)
    file = run.folder / EVALUATION_FILE
    results = read_evaluation(run)
    for name, shots in missing:
        num_episodes = cell_episodes(study, name)
        dataset = drawn_episodes(name, shots, num_episodes, Variant.parse(run.variant).scenes)
        env = gymnasium.make(ENV_ID, dataset=dataset, template=template)
        answers = evaluate(
            env,
            policy,
            range(num_episodes),
            max_completion_tokens=MAX_COMPLETION_TOKENS,
            batch_size=BATCH_SIZE,
        )
        results[cell(name, shots)] = [round(answer.credit, 6) for answer in answers]
        write_json(file, results)


def missing_cells(study: AblationStudy, run: ArmRun) -> list[tuple[str, int]]:
    """Return the splits and numbers of shots that a run has not answered, or with too few episodes."""
    results = read_evaluation(run)
    return [
        (name, shots)
        for name, shots in cells_of(Variant.parse(run.variant))
        if len(results.get(cell(name, shots), ())) < cell_episodes(study, name)
    ]


def cells_of(variant: Variant) -> list[tuple[str, int]]:
    """Return the splits and numbers of shots that a variant answers."""
    return [
        (name, shots)
        for name, split in SPLITS.items()
        if variant.scenes in split.scenes
        for shots in split.shots
        if name in (MAIN_SPLIT, "shuffled") or ARMS[variant.arm].is_paper
    ]


def cell_episodes(study: AblationStudy, name: str) -> int:
    """Return the number of episodes of a cell: four times as many in the main split, on which most claims rest."""
    return study.num_episodes * (4 if name == MAIN_SPLIT else 1)


def split_episodes(
    name: str, shots: int, num_episodes: int, scenes: str = "one_look", *, absent_fraction: float = 0.0
) -> Any:
    """Return the episodes of a split of `SPLITS`; fewer shots have the same queries."""
    dataset = _synthetic(name, shots, num_episodes, scenes, absent_fraction)
    return ShuffledSupports(dataset) if SPLITS[name].is_shuffled else dataset


def _synthetic(name: str, shots: int, num_episodes: int, scenes: str, absent_fraction: float = 0.0) -> Any:
    options: dict[str, Any] = {
        "scenes": scenes, "level": 3, "image_size": 64, "absent_fraction": absent_fraction,
    }  # fmt: skip
    if scenes == "one_look":
        options["distractors"] = "any"
    options |= {**SPLITS[name].options, "num_episodes": num_episodes}
    return load_dataset("synthetic", shots=shots, **options)


class DrawnEpisodes:
    """Episodes of a data set that are drawn once and kept.

    Args:
        dataset: A data set whose episodes all fit into memory.
    """

    def __init__(self, dataset: EpisodeDataset) -> None:
        self._dataset = dataset
        self._drawn: dict[int, Episode] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int, /) -> Episode:
        if index not in self._drawn:
            self._drawn[index] = self._dataset[index]
        return self._drawn[index]


@functools.cache
def drawn_episodes(name: str, shots: int, num_episodes: int, scenes: str) -> DrawnEpisodes:
    """Return the episodes of a split, drawn once for all runs that this process answers."""
    return DrawnEpisodes(split_episodes(name, shots, num_episodes, scenes))


def floor_values(study: AblationStudy, scenes: str) -> dict[str, dict[str, list[float]]]:
    """Return the IoU of the copies of the last support's box and of the oracle's answers, by cell of the main split.

    Args:
        study: The study, for the number of episodes.
        scenes: The kind of scenes.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in FLOORS}
    num_episodes = cell_episodes(study, MAIN_SPLIT)
    for shots in SPLITS[MAIN_SPLIT].shots:
        dataset = _synthetic(MAIN_SPLIT, shots, num_episodes, scenes)
        assert isinstance(dataset, SyntheticDataset)
        episodes = [dataset[index] for index in range(num_episodes)]
        key = cell(MAIN_SPLIT, shots)
        found["copy"][key] = [_iou(episode.support[-1].box, episode) for episode in episodes]
        found["oracle"][key] = [_iou(oracle_box(dataset, index), episode) for index, episode in enumerate(episodes)]
    return found


def _iou(box: Any, episode: Episode) -> float:
    return 0.0 if box is None or episode.target_box is None else round(box_iou(box, episode.target_box), 6)


def kept_floors(study: AblationStudy, scenes: str) -> Mapping[str, Mapping[str, list[float]]]:
    """Return `floor_values`, read from the study's folder if they are there."""
    file = study.folder / f"floors-{scenes}-{cell_episodes(study, MAIN_SPLIT)}.json"
    if file.exists():
        found: Mapping[str, Mapping[str, list[float]]] = read_json(file, "the IoU of copies and of the oracle")
        return found
    values = floor_values(study, scenes)
    write_json(file, values)
    return values


def is_probed(study: AblationStudy, run: ArmRun) -> bool:
    """Tell whether a run is the first of its base, which is the run that probes the base."""
    variant = Variant.parse(run.variant)
    if variant.parent is not None:
        return False
    return variant == next(each for each in study.all_variants if each.parent is None and each.base == variant.base)


def probe_base(study: AblationStudy, run: ArmRun) -> None:
    """Probe a base if there is no probe yet, and keep the table."""
    file = probe_file(study, run)
    if is_probed(study, run) and not file.exists():
        settings = ProbeSettings(num_probe_episodes=study.num_probe_episodes)
        model = load_model(run.model)
        write_json(file, probe_model(model, load_processor(run.model), load_template(run.model), settings).as_dict())


def read_probes(study: AblationStudy) -> dict[str, Mapping[str, Any]]:
    """Return the probes of the study's bases by name; bases without a probe are left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in study.runs():
        if not run.command and (file := probe_file(study, run)).exists():
            found[Variant.parse(run.variant).base] = read_json(file, "the linear probe of a base")
    return found


def probe_file(study: AblationStudy, run: ArmRun) -> Path:
    """Return the file of a base's probe, named by the base's weights and the number of episodes."""
    digest = run.folder.name.rsplit("-", 1)[1]
    return study.folder / f"probe-{digest}-{study.num_probe_episodes}.json"


def read_evaluation(run: ArmRun) -> dict[str, list[float]]:
    """Return the IoU of each answer by cell; cells without answers are left out."""
    file = run.folder / EVALUATION_FILE
    return read_json(file, "the IoU of each answer by cell") if file.exists() else {}
