"""The linear probe of a model: how well a ridge regression reads the ground colour of the boxed object, by layer.

Where it reads the colour at the box's numbers, a loss that pulls attention to the numbers has something to hand over.
Where it reads it in the box's region alone, only a loss that pulls to the region has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.errors import CheckpointError
from focus_agents.models.processing import VLMProcessor
from focus_agents.probing.ridge import fit_ridge
from focus_agents.probing.settings import ProbeSettings
from focus_agents.probing.states import PLACES, collect_states
from focus_env.datasets import load_dataset
from focus_env.datasets.synthetic.identities import ground_colour
from focus_env.datasets.synthetic.paints import COLOURS
from focus_env.prompts import PromptTemplate
from focus_env.types import EpisodeDataset

TARGET = "ground colour"
TEST_SHARE = 4 / 15
"""Of the episodes, the last ones."""
BATCH_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class ProbeScores:
    """The result of a probe.

    Attributes:
        accuracy: By place of `PLACES`, the share of right classes of the test episodes: of the embedding first, then
            behind each layer.
        commonest: The share of the commonest class of the test episodes, which no constant answer exceeds.
        num_fit: Episodes that the regressions were fitted on.
        num_test: Other episodes, on which they were tested.
    """

    accuracy: dict[str, list[float]]
    commonest: float
    num_fit: int
    num_test: int

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON, as `summary.json` holds it under `probe`."""
        counts = {"num_fit": self.num_fit, "num_test": self.num_test}
        return {"target": TARGET, "accuracy": self.accuracy, "commonest": self.commonest, **counts}


def probe_model(
    model: Any,
    processor: VLMProcessor,
    template: PromptTemplate,
    settings: ProbeSettings,
    *,
    tell: Callable[[int], None] = lambda num_done: None,
) -> ProbeScores:
    """Probe a model on synthetic episodes with one support and four objects in each picture.

    Args:
        model: A model of a known family, on any device. It is put into evaluation mode.
        processor: Its processor.
        template: Words the prompts.
        settings: How many episodes, and which.
        tell: Told how many episodes have been run, after each batch.

    Raises:
        CheckpointError: If hidden states are not finite.
        ValueError: If the template does not mark boxes of four numbers.
    """
    model.eval()
    episodes = probe_episodes(settings)
    batches: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in PLACES}
    for start in range(0, len(episodes), BATCH_SIZE):
        stop = min(start + BATCH_SIZE, len(episodes))
        batch = [episodes[index] for index in range(start, stop)]
        for name, states in collect_states(model, processor, template, batch).items():
            if not np.isfinite(states).all():
                raise CheckpointError(
                    f"linear probe: expected finite hidden states, got NaN or infinity at {name}; compute in fp32 "
                    "(`precision`), or take a checkpoint from before the training fell apart"
                )
            batches[name].append(states)
        tell(stop)
    labels = [[*COLOURS].index(ground_colour(episodes[index].identity)) for index in range(len(episodes))]
    joined = {name: np.concatenate(parts, axis=1) for name, parts in batches.items()}
    return score_states(joined, np.array(labels), len(COLOURS))


def probe_episodes(settings: ProbeSettings) -> EpisodeDataset:
    """Return the episodes of a probe."""
    return load_dataset(
        "synthetic",
        split="train",
        shots=1,
        level=3,
        distractors="any",
        image_size=settings.probe_image_size,
        num_episodes=settings.num_probe_episodes,
        seed=settings.probe_seed,
    )


def score_states(
    states: dict[str, npt.NDArray[np.float32]], labels: npt.NDArray[np.int64], num_classes: int
) -> ProbeScores:
    """Fit a regression for each place and layer on the first episodes, and test it on the others.

    Args:
        states: By place, [layers + 1, n, features].
        labels: [n] int64, classes from 0.
        num_classes: How many there are.
    """
    num_fit = len(labels) - max(1, round(TEST_SHARE * len(labels)))
    fitted, tested = labels[:num_fit], labels[num_fit:]
    accuracy = {
        name: [
            float(np.mean(fit_ridge(layer[:num_fit], fitted, num_classes).predict(layer[num_fit:]) == tested))
            for layer in layers
        ]
        for name, layers in states.items()
    }
    commonest = float(np.bincount(tested).max() / len(tested))
    return ProbeScores(accuracy=accuracy, commonest=commonest, num_fit=num_fit, num_test=len(tested))
