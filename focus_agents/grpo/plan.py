"""All that decides a run of GRPO, for the command, studies and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from focus_agents.grpo.algorithm import GRPOConfig
from focus_agents.grpo.settings import GRPOSchedule, GRPOSettings
from focus_agents.models.loading import check_form, check_model
from focus_agents.models.pictures import PictureBudget, picture_budget
from focus_agents.models.settings import ModelSettings
from focus_agents.settings import as_dict
from focus_env.prompts import PromptTemplate
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import EpisodeDataset


@dataclass(frozen=True, kw_only=True)
class GRPOPlan:
    """All that decides a run of GRPO, but for the processes that share its work.

    Attributes:
        model: The model, and how it is trained.
        template: Words prompts and answers.
        reward: Scores answers.
        training_episodes: The episodes to sample answers for.
        validation_episodes: The episodes to answer before, in between and after.
        settings: Settings of the training.
        schedule: When to validate and to checkpoint.
        seed: Of sampling, shuffling and new weights.
    """

    model: ModelSettings
    template: PromptTemplate
    reward: WeightedReward
    training_episodes: EpisodeDataset
    validation_episodes: EpisodeDataset
    settings: GRPOSettings
    schedule: GRPOSchedule
    seed: int = 0

    @property
    def objects(self) -> tuple[Any, ...]:
        """Objects that may be a user's own code, for `provenance`."""
        return (self.reward, self.training_episodes, self.validation_episodes)

    @property
    def pictures(self) -> PictureBudget:
        """How large the model sees pictures."""
        asked = self.model.max_image_tokens, self.model.validation_max_image_tokens
        return picture_budget(self.model.model, training=asked[0], validation=asked[1])

    def config(self) -> GRPOConfig:
        """Return RLlib's configuration of the run in one process.

        Raises:
            ValueError: If a setting is out of its range.
            CheckpointError: If there is no such model.
        """
        check_form(
            self.schedule.save,
            self.model.model,
            lora_rank=self.model.lora_rank,
            quantization=self.model.quantization,
        )
        training, validation = (
            {
                "reward": self.reward,
                "template": check_model(self.model.model, max_image_tokens=limit).fit_template(self.template),
            }
            for limit in (self.pictures.training, self.pictures.validation)
        )
        return (
            GRPOConfig()
            .environment(env_config={"dataset": self.training_episodes, **training})
            .validation(env_config={"dataset": self.validation_episodes, **validation})
            .training(**as_dict(self.settings))
            .rl_module(model_config=as_dict(self.model))
            .debugging(seed=self.seed, log_level="ERROR")
        )
