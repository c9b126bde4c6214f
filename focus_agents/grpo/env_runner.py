"""The EnvRunner: episodes in, scored groups out. A shell around `rollout.collect` and `evaluation.evaluate`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED, NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO

import focus_env  # noqa: F401  (registers the environment in this process)
from focus_agents.evaluation import evaluate
from focus_agents.evaluation.answers import answer_episodes
from focus_agents.grpo.budget import ADVICE, SAMPLING, VALIDATION
from focus_agents.grpo.engine_module import EngineModule
from focus_agents.grpo.rllib_compat import wants_component
from focus_agents.models.devices import memory_advice
from focus_agents.models.loading import load_processor
from focus_agents.models.pictures import picture_budget
from focus_agents.processes.memory import MEMORY, memory_gib
from focus_agents.processes.names import own_name
from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import RolloutGroup, Sampling
from focus_env.boxes import CoordinateFrame
from focus_env.datasets.training import shots_at
from focus_env.errors import FocusError
from focus_env.metrics import ScoredAnswer
from focus_env.prompts import PromptTemplate


class GRPOEnvRunner(EnvRunner, Checkpointable):
    """Samples groups in one process.

    What it samples is a function of (config's seed, iteration, position of the episode in the iteration) and the
    weights: it does not matter how many runners share the work.

    A runner in the driver's process loads no weights before it needs them, since a module of that process may take
    their place (`share_module`).
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self._weights_seq_no = 0
        self._is_shared = self._reuses_prefill = False
        self._pending_weights: Any = None
        use_gpu = config.num_gpus_per_env_runner > 0 and torch.cuda.is_available()
        self._device = torch.device("cuda" if use_gpu else "cpu")
        self.make_env()
        if self.worker_index != 0:
            self.make_module()

    def __repr__(self) -> str:
        """Return the actor's name, which Ray's dashboard shows."""
        return own_name(lambda: f"sampler {self.worker_index}")

    def make_env(self) -> None:
        """Build the training environment, and the one for validation if the config has it."""
        model = self.config.model_settings
        pictures = picture_budget(
            model.model, training=model.max_image_tokens, validation=model.validation_max_image_tokens
        )
        training, validation = self.config.env_config, self.config.validation_env_config
        self.env = gymnasium.make(self.config.env, **{"template": self._template(pictures.training), **training})
        self.validation_env = None
        if validation is not None:
            shown = {"template": self._template(pictures.validation)}
            self.validation_env = gymnasium.make(self.config.env, **{**shown, **validation})

    def _template(self, max_image_tokens: int | None) -> PromptTemplate:
        """Return the config's template; in pixels of the resized picture, with the sizes of pictures."""
        template = self.config.template
        if template.frame is not CoordinateFrame.RESIZED_PIXEL:
            return template
        model = self.config.model_settings.model
        return load_processor(model, max_image_tokens=max_image_tokens).fit_template(template)

    @functools.cached_property
    def module(self) -> Any:
        """The weights to answer with; in the driver's process they are loaded here, at first use."""
        self.make_module()
        return self.module

    @functools.cached_property
    def policy(self) -> Any:
        """The module as what samples."""
        return self.module.as_policy()

    @functools.cached_property
    def validation_policy(self) -> Any:
        """The module as what answers validation episodes."""
        return self.module.as_policy(validates=True)

    def make_module(self) -> None:
        """Build the policy; its weights arrive by `set_state`."""
        spec = self.config.get_rl_module_spec(env=self.env, spaces=self.get_spaces(), inference_only=True)
        if self.config.engine == "vllm" and self.worker_index > 0:
            self.module = EngineModule(spec.model_config, memory=self.config.engine_memory)
        else:  # a runner of the driver evaluates at most, and its process may have no GPU
            self.module = spec.build().to(self._device)
        if self._pending_weights is not None:
            self._load_weights(self._pending_weights)
            self._pending_weights = None

    def share_module(self, module: Any, *, reuses_prefill: bool) -> None:
        """Answer by a module that this process has already, instead of a copy of it.

        Args:
            module: A learner's, or another runner's; whoever owns it brings its weights up to date.
            reuses_prefill: Whether groups come with the forward pass over their prompts, for the learner.
        """
        self.module, self._is_shared, self._reuses_prefill = module, True, reuses_prefill
        self._pending_weights = None
        for name in ("policy", "validation_policy"):  # of a module that was there before
            self.__dict__.pop(name, None)

    def get_spaces(self) -> dict[str, Any]:
        """Return the environment's spaces, under RLlib's keys."""
        spaces = (self.env.observation_space, self.env.action_space)
        return {INPUT_ENV_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def num_episodes(self) -> int:
        """Return episodes of the training data set."""
        return len(self.env.get_wrapper_attr("dataset"))

    @property
    def evaluation_env(self) -> gymnasium.Env[Any, Any]:
        """The environment of RLlib's evaluation: the one for validation, or the only one."""
        return self.env if self.validation_env is None else self.validation_env

    def num_evaluation_episodes(self) -> int:
        """Return episodes of the data set of `evaluation_env`."""
        return len(self.evaluation_env.get_wrapper_attr("dataset"))

    def sample(
        self,
        *,
        jobs: Sequence[tuple[int, int]] | None = None,
        iteration: int = 0,
        weights_seq_no: int = 0,
        **kwargs: Any,
    ) -> dict[int, RolloutGroup]:
        """Sample one group for each job.

        Args:
            jobs: (position in the iteration, episode index).
            iteration: Training iteration that learns from them; with the position it seeds the group, and it says how
                far the training is, for rewards with a curriculum.
            weights_seq_no: Number of the weights that the groups must come from.
            kwargs: What RLlib's runners are called with, e.g. `num_episodes`; not used.

        Returns:
            Groups by position. As a return value they belong to the driver, and outlive this runner.

        Raises:
            TypeError: If there are no jobs.
            RuntimeError: If this runner holds other weights.
        """
        if jobs is None:
            raise TypeError(
                "sample: expected jobs, got None; a GRPO runner answers the episodes that it is named, so call "
                "`GRPO.evaluate` or `GRPO.validate`, or a runner's `evaluate(episode_indices=...)`"
            )
        self._check_weights(weights_seq_no)
        groups: list[RolloutGroup] = []
        self.policy.keeps_prefix = self._reuses_prefill and self.module.uses_shared_prefix
        for start in range(0, len(jobs), self.config.rollout_batch_groups):
            batch = jobs[start : start + self.config.rollout_batch_groups]
            with memory_advice(ADVICE[SAMPLING]):
                groups += collect_groups(
                    self.env,
                    self.policy,
                    [index for _, index in batch],
                    group_size=self.config.group_size,
                    sampling=Sampling(self.config.temperature, self.config.max_completion_tokens),
                    seeds=[_group_seed(self.config.seed, iteration, position) for position, _ in batch],
                    progress=self.config.settings.progress_at(iteration),
                    shots=shots_at(self.env.get_wrapper_attr("dataset"), iteration),
                    encode_answer=self.module.processor.encode_answer if self.config.gold_answer else None,
                )
        num_steps = sum(len(group.rewards) for group in groups)
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, num_steps, reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, num_steps, reduce="lifetime_sum")
        self.metrics.log_value(MEMORY, memory_gib(), reduce="max", window=1)
        return {position: group for (position, _), group in zip(jobs, groups, strict=True)}

    def evaluate(
        self, *, episode_indices: Sequence[int], weights_seq_no: int | None = None
    ) -> list[tuple[float, ScoredAnswer]]:
        """Answer episodes of `evaluation_env` greedily.

        Args:
            episode_indices: Which episodes.
            weights_seq_no: Number of the weights that must answer; None: those that this runner has.

        Returns:
            For each episode the reward, a curriculum's as at its end, and the score.

        Raises:
            RuntimeError: If this runner holds other weights.
        """
        if weights_seq_no is not None:
            self._check_weights(weights_seq_no)
        batches = answer_episodes(
            self.evaluation_env,
            self.validation_policy,
            episode_indices,
            max_completion_tokens=self.config.max_completion_tokens,
            batch_size=self.config.settings.num_validated_together,
        )
        with memory_advice(ADVICE[VALIDATION]):
            return [(float(group.rewards[0]), group.answers[0]) for groups in batches for group in groups]

    def _check_weights(self, weights_seq_no: int) -> None:
        if weights_seq_no != self._weights_seq_no:
            raise RuntimeError(
                f"stale weights: expected number {weights_seq_no}, this runner has {self._weights_seq_no}"
            )

    def validate(self, *, episode_indices: Sequence[int]) -> list[ScoredAnswer]:
        """Return one greedy answer for each of these episodes of the validation data."""
        if self.validation_env is None:
            raise ValueError("validation_env_config: expected the validation environment's arguments, got None")
        with memory_advice(ADVICE[VALIDATION]):
            return evaluate(
                self.validation_env,
                self.validation_policy,
                episode_indices,
                max_completion_tokens=self.config.max_completion_tokens,
                batch_size=self.config.settings.num_validated_together,
            )

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call as RLlib does, which ends this process after any error; but raise one of our own where it was asked.

        A file that cannot be read or a reward term that fails does so in every process: another one would only raise it
        again, and the reason would stay in a log.
        """
        errors: list[FocusError] = []

        def guarded(runner: Any) -> Any:
            try:
                return func(runner, *args, **kwargs)
            except FocusError as error:
                errors.append(error)

        # Caught inside and raised outside: for an error inside, RLlib's method would sleep and end the process.
        result = super().apply(guarded)
        if errors:
            raise errors[0]
        return result

    def get_metrics(self) -> Any:
        """Return the metrics that `sample` logged since the last call."""
        return self.metrics.reduce()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Return the weights and their number."""
        if not wants_component(self, COMPONENT_RL_MODULE, components, not_components):
            return {}
        return {COMPONENT_RL_MODULE: self.module.get_state(**kwargs), WEIGHTS_SEQ_NO: self._weights_seq_no}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take weights, given as they are or by reference."""
        if COMPONENT_RL_MODULE not in state:
            return
        if "module" not in self.__dict__:  # not loaded yet
            self._pending_weights = state[COMPONENT_RL_MODULE]
        elif not self._is_shared:
            self._load_weights(state[COMPONENT_RL_MODULE])
        self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, 0)

    def _load_weights(self, weights: Any) -> None:
        weights = ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights
        self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """Return the arguments that rebuild this runner."""
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """Return the module alone: a runner has no other state."""
        return [(COMPONENT_RL_MODULE, self.module)]

    def assert_healthy(self) -> None:
        """Called by RLlib after construction and before reuse."""
        assert self.module is not None

    def stop(self) -> None:
        """Close the environments."""
        self.env.close()  # type: ignore[no-untyped-call]
        if self.validation_env is not None:
            self.validation_env.close()  # type: ignore[no-untyped-call]


def _group_seed(seed: int | None, iteration: int, position: int) -> int:
    """Return a seed for one group of the run."""
    return int(np.random.SeedSequence([seed or 0, iteration, position]).generate_state(1)[0])
