"""All that decides a supervised run, for its driver and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from focus_agents.models.pictures import PictureBudget, picture_budget
from focus_agents.sft.settings import SFTConfig, SFTSchedule
from focus_env.prompts import PromptTemplate
from focus_env.types import EpisodeDataset


@dataclass(frozen=True, kw_only=True)
class SFTPlan:
    """Everything that a worker needs to know; travels to it as a whole.

    Attributes:
        model: Name or folder for `load_model`.
        template: Words prompts and answers.
        training_episodes: What to train on.
        validation_episodes: What to answer before, in between and after.
        config: Settings of the training.
        schedule: When to validate and to checkpoint.
        run_path: The run's folder, under the same absolute path for every worker.
        max_image_tokens: Most tokens of a picture in training; None: as the model's folder records it, else the model's
            own limit.
        validation_max_image_tokens: Likewise in validation; None: as the folder records it, else as in training.
        num_threads: CPU threads of all workers of a machine together.
    """

    model: str
    template: PromptTemplate
    training_episodes: EpisodeDataset
    validation_episodes: EpisodeDataset
    config: SFTConfig
    schedule: SFTSchedule
    run_path: Path
    max_image_tokens: int | None = None
    validation_max_image_tokens: int | None = None
    num_threads: int = 1

    @property
    def pictures(self) -> PictureBudget:
        """How large the model sees pictures."""
        return picture_budget(self.model, training=self.max_image_tokens, validation=self.validation_max_image_tokens)
