"""RLlib's settings: each is honoured, or refused with what to do instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import ray.cloudpickle
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from focus_agents.grpo.algorithm import GRPO, GRPOConfig
from focus_agents.grpo.rllib_checks import HONOURED, HONOURED_IN_EVALUATION, INSTEAD, RLLIBS_OWN

Change = Callable[[GRPOConfig], Any]


class Watching(RLlibCallback):
    """Hooks that are called."""

    def on_train_result(self, **kwargs: Any) -> None: ...

    def on_evaluate_end(self, **kwargs: Any) -> None: ...

    def on_env_runners_recreated(self, **kwargs: Any) -> None: ...


class WatchingEpisodes(Watching):
    """One that is not."""

    def on_episode_end(self, **kwargs: Any) -> None: ...


def do_nothing(*args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.training(train_batch_size=64), "train_batch_size: .* got 64; set `groups_per_iteration`"),
        (lambda c: c.training(train_batch_size_per_learner=64), "^train_batch_size_per_learner: .* `group_size`"),
        (lambda c: c.training(minibatch_size=8), "minibatch_size: expected None.*`groups_per_step`"),
        (lambda c: c.training(num_epochs=3), "num_epochs: expected 1"),
        (lambda c: c.training(shuffle_batch_per_epoch=True), "shuffle_batch_per_epoch: .* every pass"),
        (lambda c: c.training(gamma=0.9), r"gamma: expected 0\.99.*got 0\.9; an episode is one step"),
        (lambda c: c.training(optimizer={"type": "sgd"}), "optimizer: .* `weight_decay`"),
        (lambda c: c.training(model={"fcnet_hiddens": [8]}), r"model: .*\.rl_module\(model_config"),
        (lambda c: c.training(learner_class=TorchLearner), "learner_class: expected a subclass of GRPOTorchLearner"),
        (lambda c: c.training(learner_connector=do_nothing), "^learner_connector: .* `template`"),
        (lambda c: c.env_runners(num_envs_per_env_runner=4), "num_envs_per_env_runner: .* `rollout_batch_groups`"),
        (lambda c: c.env_runners(rollout_fragment_length=1), "rollout_fragment_length: .* an episode is one step"),
        (lambda c: c.env_runners(batch_mode="complete_episodes"), "batch_mode: expected 'truncate_episodes'"),
        (lambda c: c.env_runners(explore=False), "explore: expected True, .*set `temperature`"),
        (lambda c: c.env_runners(observation_filter="MeanStdFilter"), "observation_filter: expected 'NoFilter'"),
        (lambda c: c.env_runners(env_to_module_connector=do_nothing), "^env_to_module_connector: .* `template`"),
        (
            lambda c: c.env_runners(add_default_connectors_to_env_to_module_pipeline=True),
            "add_default_connectors_to_env_to_module_pipeline: expected False",
        ),
        (lambda c: c.env_runners(env_runner_cls=SingleAgentEnvRunner), "env_runner_cls: expected a subclass of GRPO"),
        (lambda c: c.environment(env=SingleAgentEnvRunner), "env: expected the id of an environment"),
        (lambda c: c.environment(clip_rewards=True), "clip_rewards: .*`reward`"),
        (lambda c: c.environment(normalize_actions=False), "normalize_actions: expected True"),
        (lambda c: c.environment(action_space=AlgorithmConfig), "action_space: expected None.*that of `env`"),
        (lambda c: c.framework("tf2"), "^framework: expected 'torch', .*got 'tf2'; models are PyTorch's"),
        (lambda c: c.framework(torch_compile_learner=True), "torch_compile_learner: expected False"),
        (lambda c: c.resources(num_gpus=1), "num_gpus: .*`num_gpus_per_learner`"),
        (lambda c: c.learners(num_aggregator_actors_per_learner=1), "num_aggregator_actors_per_learner: expected 0"),
        (
            lambda c: c.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False),
            "enable_rl_module_and_learner: expected True.*new API stack",
        ),
        (lambda c: c.multi_agent(policies={"one", "two"}), "policies: expected the default policy alone"),
        (lambda c: c.multi_agent(count_steps_by="agent_steps"), "count_steps_by: .* one policy"),
        (lambda c: c.offline_data(input_="/data"), "^input: expected 'sampler'.*stage 1"),
        (lambda c: c.offline_data(output="/data"), "output: .* `last_groups`"),
        (lambda c: c.callbacks(on_episode_end=do_nothing), "on_episode_end: .* `last_groups`"),
        (lambda c: c.callbacks(on_sample_end=do_nothing), "on_sample_end: .* `last_groups`"),
        (lambda c: c.callbacks(WatchingEpisodes), r"callbacks: GRPO does not call WatchingEpisodes\.on_ep"),
        (lambda c: c.callbacks([Watching, WatchingEpisodes]), r"WatchingEpisodes\.on_episode_end"),
        (lambda c: c.reporting(metrics_num_episodes_for_smoothing=5), "^metrics_num_episodes_for_smoothing"),
        (lambda c: c.checkpointing(export_native_model_files=True), "export_native_model_files: .* `save_policy`"),
        (lambda c: c.fault_tolerance(ignore_env_runner_failures=True), "ignore_env_runner_failures: expected False"),
        (lambda c: c.experimental(_use_msgpack_checkpoints=True), "^_use_msgpack_checkpoints: expected False"),
        (
            lambda c: c.experimental(_torch_lr_scheduler_classes=[torch.optim.lr_scheduler.ConstantLR]),
            "^_torch_lr_scheduler_classes: expected None, .*set `warmup`, `cooldown`",
        ),
        (lambda c: c.rl_module(model_config={"modle": "tiny"}), "model_config: expected keys out of .*got modle"),
        (lambda c: c.rl_module(model_config={"kl_coeff": 0.1}), "model_config: expected keys out of .*got kl_coeff"),
        (lambda c: c.evaluation(evaluation_duration="auto"), "evaluation_duration: expected a number of episodes"),
        (lambda c: c.evaluation(evaluation_duration=1.5), "evaluation_duration: expected a number of episodes"),
        (lambda c: c.evaluation(evaluation_interval=1.5), "evaluation_interval: expected a number of iterations"),
        (lambda c: c.evaluation(evaluation_interval=-1), "evaluation_interval: expected a number of iterations"),
        (lambda c: c.evaluation(evaluation_duration_unit="steps"), "evaluation_duration_unit: expected one of"),
        (
            lambda c: c.evaluation(evaluation_parallel_to_training=True, evaluation_num_env_runners=1),
            "evaluation_parallel_to_training: expected False.*an update changes the weights",
        ),
        (
            lambda c: c.evaluation(evaluation_interval=1, evaluation_config={"temperature": 0.5}),
            r"evaluation_config: temperature has no effect on an evaluation, got 0\.5; expected overrides",
        ),
        (
            lambda c: c.evaluation(evaluation_interval=1, evaluation_config={"explore": True}),
            "evaluation_config: expected explore=False, got True; an evaluation is greedy",
        ),
        (
            lambda c: c.evaluation(evaluation_config={"explore": False}),
            "evaluation_config: expected `evaluation_interval` or `evaluation_num_env_runners` beside it",
        ),
        (lambda c: c.evaluation(evaluation_force_reset_envs_before_iteration=False), "same episodes, from the first"),
        (lambda c: c.evaluation(custom_evaluation_function=None), "custom_evaluation_function: expected a function"),
        (lambda c: c.evaluation(offline_evaluation_interval=1), "offline_evaluation_interval: .*`evaluation_interval`"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(change: Change, message: str) -> None:
    config = GRPOConfig()
    change(config)
    with pytest.raises(ValueError, match=message):
        config.validate()
    config.experimental(_validate_config=False)
    if config.enable_rl_module_and_learner:  # without, RLlib itself has nothing to check
        config.validate()


@pytest.mark.parametrize("template", ["qwen3_vl", "iploc_id", "thinking"])
def test_a_grammar_knows_the_answers_in_tags_alone(template: str) -> None:
    config = GRPOConfig().environment(env_config={"template": template}).training(constrained=True)
    with pytest.raises(ValueError, match=f"constrained: expected a template without thoughts .* got '{template}'"):
        config.validate()
    GRPOConfig().environment(env_config={"template": "focus_paper"}).training(constrained=True).validate()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c,
        lambda c: c.training(lr=1e-3, grad_clip=None, learner_config_dict={"mine": 1}),
        lambda c: c.training(grad_clip=0.5, grad_clip_by="norm"),
        lambda c: c.env_runners(num_env_runners=2, num_gpus_per_env_runner=0.5, sample_timeout_s=5).training(
            groups_per_iteration=32
        ),
        lambda c: c.learners(num_learners=2, num_gpus_per_learner=1, num_cpus_per_learner=2),
        lambda c: c.framework(torch_ddp_kwargs={"bucket_cap_mb": 1}, torch_skip_nan_gradients=True),
        lambda c: c.callbacks(Watching, on_train_result=do_nothing, on_evaluate_start=do_nothing),
        lambda c: c.reporting(min_time_s_per_iteration=1, min_sample_timesteps_per_iteration=10),
        lambda c: c.debugging(seed=3, log_level="INFO"),
        lambda c: c.fault_tolerance(restart_failed_env_runners=False, max_num_env_runner_restarts=3),
        lambda c: c.rl_module(model_config={"model": "tiny", "lora_rank": 4}),
        lambda c: c.evaluation(evaluation_interval=2, evaluation_duration=3, evaluation_duration_unit="timesteps"),
        lambda c: c.evaluation(evaluation_num_env_runners=3, custom_evaluation_function=do_nothing),
        lambda c: c.evaluation(evaluation_interval=1, evaluation_config={"explore": False, "env_config": {}}),
        lambda c: c.evaluation(
            evaluation_interval=1, evaluation_config=GRPOConfig.overrides(max_completion_tokens=9, temperature=1.0)
        ),
    ],
)
def test_settings_that_are_honoured_are_accepted(change: Change) -> None:
    """And those of the evaluation with them, also behind the ways by which Tune and a checkpoint hand them on."""
    config = GRPOConfig()
    change(config)
    ways = (
        config,
        config.copy(),
        GRPOConfig().update_from_dict(config.to_dict()),
        GRPOConfig.from_state(config.get_state()),
        ray.cloudpickle.loads(ray.cloudpickle.dumps(config)),
    )
    for same in ways:
        same.validate()
        same.validate()  # RLlib does so again, and changes settings
        same.get_evaluation_config_object().validate()
    GRPO.default_resource_request(config.to_dict())


def test_each_setting_is_in_one_place() -> None:
    settings = AlgorithmConfig().get_state().keys()
    own = vars(GRPOConfig()).keys()
    assert settings >= HONOURED | RLLIBS_OWN | INSTEAD.keys()
    assert own >= HONOURED_IN_EVALUATION
    assert not HONOURED & RLLIBS_OWN
    assert not (HONOURED | RLLIBS_OWN) & INSTEAD.keys()


def test_advice_names_settings_that_there_are() -> None:
    known = {*vars(GRPOConfig()), *dir(GRPO), "last_groups", "template", "reward", "focus_agents.sft"}
    named = {name for text in INSTEAD.values() for name in re.findall(r"`([^`]+)`", text)}
    assert {"group_size", "save_policy"} <= named
    assert named <= known


def test_what_a_new_ray_adds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until somebody has looked whether GRPO honours it."""
    from focus_agents.grpo import rllib_checks

    defaults = {**rllib_checks._defaults(), "brand_new": 1}
    monkeypatch.setattr(rllib_checks, "_defaults", lambda: defaults)
    config = GRPOConfig()
    config.brand_new = 1
    config.validate()
    config.brand_new = 2
    with pytest.raises(ValueError, match=r"brand_new: expected 1, since GRPO makes no use .*, got 2$"):
        config.validate()
