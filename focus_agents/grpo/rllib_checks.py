"""RLlib's settings that GRPO does not honour are refused, so that none is accepted and has no effect.

The rule is a list of those that are honoured: what a new release of Ray adds is refused until it is known.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils import force_list

from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_agents.grpo.learner import GRPOTorchLearner
from focus_agents.grpo.rllib_compat import given_model_config, is_checked
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models.settings import ModelSettings
from focus_agents.policies.vllm.engine import check_vllm
from focus_agents.settings import as_dict

HONOURED = frozenset({
    "placement_strategy", "num_cpus_for_main_process", "custom_resources_for_main_process",
    "torch_ddp_kwargs", "torch_skip_nan_gradients",
    "env", "env_config",
    "env_runner_cls", "num_env_runners", "create_local_env_runner", "sample_timeout_s",
    "validate_env_runners_after_construction",
    "num_cpus_per_env_runner", "num_gpus_per_env_runner", "custom_resources_per_env_runner",
    "num_learners", "num_cpus_per_learner", "num_gpus_per_learner", "custom_resources_per_learner", "local_gpu_idx",
    "_learner_class", "learner_config_dict", "lr", "grad_clip", "grad_clip_by",
    "callbacks_class", "callbacks_on_algorithm_init", "callbacks_on_train_result", "callbacks_on_evaluate_start",
    "callbacks_on_evaluate_end", "callbacks_on_env_runners_recreated", "callbacks_on_checkpoint_loaded",
    "evaluation_interval", "evaluation_duration", "evaluation_duration_unit", "evaluation_num_env_runners",
    "evaluation_config",
    "evaluation_sample_timeout_s", "evaluation_unhealthy_workers_timeout_s", "custom_evaluation_function",
    "min_time_s_per_iteration", "min_train_timesteps_per_iteration", "min_sample_timesteps_per_iteration",
    "log_gradients", "stats_cls_lookup", "log_level", "log_sys_usage", "seed",
    "restart_failed_env_runners", "max_num_env_runner_restarts", "delay_between_env_runner_restarts_s",
    "env_runner_health_probe_timeout_s", "env_runner_restore_timeout_s",
    "_model_config", "_rl_module_spec",
})  # fmt: skip
"""RLlib's settings that mean here what they mean there."""

RLLIBS_OWN = frozenset({"in_evaluation", "_validate_config", "_per_module_overrides", "policies", "policy_mapping_fn"})
"""Attributes that RLlib sets itself, or that do not survive being sent to another process (see `is_multi_agent`)."""

HONOURED_IN_EVALUATION = frozenset({
    "env_config", "explore", "max_completion_tokens", "rollout_batch_groups",
    "num_cpus_per_env_runner", "num_gpus_per_env_runner", "custom_resources_per_env_runner",
    "restart_failed_env_runners", "max_num_env_runner_restarts", "delay_between_env_runner_restarts_s",
    "env_runner_health_probe_timeout_s", "env_runner_restore_timeout_s",
})  # fmt: skip
"""Settings that `.evaluation(evaluation_config={...})` may override."""

NO_CONNECTORS = "word prompts by env_config's `template`, and change observations by a Gymnasium wrapper in `env`"
ONE_STEP = "an episode is one step, and runners answer whole batches of `rollout_batch_groups` episodes"
READ_GROUPS = "use on_train_result, and read the sampled answers in the algorithm's `last_groups`"
ONE_POLICY = "there is one policy"
LEARN_FROM_DATA = "stage 1 (`focus_agents.sft`) learns from data sets"

INSTEAD: Mapping[str, str] = {
    "train_batch_size": "set `groups_per_iteration` and `group_size`",
    "_train_batch_size_per_learner": "set `groups_per_iteration` and `group_size`",
    "minibatch_size": "set `groups_per_step` for more optimizer steps, or `micro_batch_groups` to save memory",
    "num_epochs": "set `num_passes`",
    "shuffle_batch_per_epoch": "groups are shuffled in every pass of more than one optimizer step",
    "gamma": "an episode is one step, so there is nothing to discount",
    "model": "name the model by .rl_module(model_config={'model': ...})",
    "optimizer": "AdamW takes `lr` and `weight_decay`",
    "_torch_lr_scheduler_classes": "set `warmup`, `cooldown` and `lr_end`",
    "_torch_grad_scaler_class": "compute in bfloat16 by .rl_module(model_config={'precision': 'bf16'})",
    "torch_compile_learner": "models run uncompiled",
    "torch_compile_worker": "models run uncompiled",
    "num_gpus": "set `num_gpus_per_learner` and `num_gpus_per_env_runner`",
    "framework_str": "models are PyTorch's",
    "enable_rl_module_and_learner": "GRPO needs RLlib's new API stack",
    "enable_env_runner_and_connector_v2": "GRPO needs RLlib's new API stack",
    "num_envs_per_env_runner": ONE_STEP,
    "gym_env_vectorize_mode": ONE_STEP,
    "rollout_fragment_length": ONE_STEP,
    "batch_mode": ONE_STEP,
    "explore": "set `temperature`; evaluations and validations are greedy",
    "exploration_config": "set `temperature`",
    "observation_space": "the space is that of `env`",
    "action_space": "the space is that of `env`",
    "clip_rewards": "weigh the terms of env_config's `reward`",
    "_env_to_module_connector": NO_CONNECTORS,
    "_module_to_env_connector": NO_CONNECTORS,
    "_learner_connector": NO_CONNECTORS,
    "add_default_connectors_to_env_to_module_pipeline": NO_CONNECTORS,
    "add_default_connectors_to_module_to_env_pipeline": NO_CONNECTORS,
    "add_default_connectors_to_learner_pipeline": NO_CONNECTORS,
    "policies_to_train": ONE_POLICY,
    "count_steps_by": ONE_POLICY,
    "algorithm_config_overrides_per_module": ONE_POLICY,
    "input_": LEARN_FROM_DATA,
    "offline_data_class": LEARN_FROM_DATA,
    "output": "the sampled answers of an iteration are in the algorithm's `last_groups`",
    "evaluation_parallel_to_training": "an update changes the weights while an evaluation reads them",
    "evaluation_force_reset_envs_before_iteration": "each evaluation answers the same episodes, from the first on",
    "evaluation_error_after_n_consecutive_skips": "no evaluation is skipped",
    "off_policy_estimation_methods": "set `evaluation_interval`",
    "offline_evaluation_interval": "set `evaluation_interval`",
    "num_offline_eval_runners": "set `evaluation_num_env_runners`",
    "metrics_num_episodes_for_smoothing": "a result is of one iteration",
    "export_native_model_files": "call the algorithm's `save_policy`",
    "_use_msgpack_checkpoints": "a state holds PyTorch tensors",
    "ignore_env_runner_failures": "what a lost runner had to answer is answered by another",
    "num_consecutive_env_runner_failures_tolerance": "what a lost runner had to answer is answered by another",
    "restart_failed_sub_environments": "an episode that cannot be read ends the run with its name",
    **{
        f"callbacks_{hook}": READ_GROUPS
        for hook in (
            "on_environment_created", "on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end",
            "on_sample_end",
        )
    },
}  # fmt: skip
"""Advice instead of the settings that are refused, where there is some."""


def check_rllib_settings(config: AlgorithmConfig) -> None:
    """Refuse settings of RLlib that would have no effect.

    Args:
        config: A `GRPOConfig`. Nothing is checked if it says ``experimental(_validate_config=False)``, as in RLlib.

    Raises:
        ValueError: With the setting, what was expected and given, and what to do instead.
    """
    if not is_checked(config) or config.in_evaluation:
        return
    for name, default in _defaults().items():
        if name not in HONOURED | RLLIBS_OWN and not _is_equal(value := getattr(config, name), default):
            instead = f"; {INSTEAD[name]}" if name in INSTEAD else ""
            raise ValueError(
                f"{_public(name)}: expected {default!r}, since GRPO makes no use of this setting of RLlib, got "
                f"{value!r}{instead}"
            )
    if config.is_multi_agent:
        raise ValueError(f"policies: expected the default policy alone, got {', '.join(config.policies)}; {ONE_POLICY}")
    _check_values(config)
    _check_classes(config)
    _check_callbacks(config)
    _check_model_config(config)
    _check_evaluation(config)


def check_processes(config: AlgorithmConfig, settings: GRPOSettings) -> None:
    """Check that the work can be shared by as many processes as it is to be.

    Args:
        config: A `GRPOConfig`.
        settings: Its settings.

    Raises:
        ValueError: If a process would be left without work, sampling ahead or vLLM has no process of its own, or vLLM
            does not take the model's prompts.
        MissingDependencyError: If vLLM is to sample and is not installed.
    """
    num_learners = max(1, config.num_learners)
    if settings.groups_per_iteration < num_learners:
        raise ValueError(f"groups_per_iteration: expected {num_learners} or more, got {settings.groups_per_iteration}")
    if settings.groups_per_step is not None and settings.groups_per_step < num_learners:
        raise ValueError(
            f"groups_per_step: expected at least one group for each of {num_learners} learners, "
            f"got {settings.groups_per_step}"
        )
    # RLlib makes a copy of these settings for its own evaluation, without runners.
    if settings.async_steps and config.num_env_runners == 0 and not config.in_evaluation:
        raise ValueError("async_steps: expected 0 where sampling has no process of its own; set num_env_runners")
    if settings.engine == "vllm" and not config.in_evaluation:
        if config.num_env_runners == 0:
            raise ValueError(
                "engine: expected transformers where sampling has no process of its own, got 'vllm'; set "
                "num_env_runners and num_gpus_per_env_runner"
            )
        if config.model_settings.quantization != "none":
            raise ValueError(
                f"engine: expected transformers with quantization {config.model_settings.quantization!r}, got 'vllm', "
                "whose base would be another one than the learner's"
            )
        check_vllm(config.model_settings.model)
    num_batches = -(-settings.groups_per_iteration // settings.rollout_batch_groups)
    if config.num_env_runners > num_batches and not config.in_evaluation:
        raise ValueError(
            f"rollout_batch_groups: expected a batch for each of {config.num_env_runners} EnvRunners, got "
            f"{settings.rollout_batch_groups}, which makes {num_batches} of {settings.groups_per_iteration} "
            f"groups; set at most {max(1, settings.groups_per_iteration // config.num_env_runners)}, or raise "
            "groups_per_iteration"
        )


@functools.cache
def _defaults() -> dict[str, Any]:
    """Return RLlib's settings by attribute with their defaults, but for those that it has given up."""
    defaults = {name: value for name, value in AlgorithmConfig().get_state().items() if name != "class"}
    # No connector is ever run, so the default ones are off.
    return defaults | {name: False for name in defaults if name.startswith("add_default_connectors")}


def _is_equal(value: Any, default: Any) -> bool:
    try:
        return bool(value == default)
    except (TypeError, ValueError):  # e.g. arrays
        return False


def _public(name: str) -> str:
    """Return the name under which a setting is given; RLlib keeps some of them in private attributes."""
    if name == "framework_str":
        return "framework"
    return name if name in inspect.signature(AlgorithmConfig.experimental).parameters else name.strip("_")


def _check_values(config: AlgorithmConfig) -> None:
    units = ("episodes", "timesteps")
    checks = [
        ("env", isinstance(config.env, str), "the id of an environment that is registered with Gymnasium"),
        (
            "evaluation_interval",
            config.evaluation_interval is None or _is_count(config.evaluation_interval),
            "a number of iterations, or None",
        ),
        ("evaluation_duration_unit", config.evaluation_duration_unit in units, f"one of {', '.join(units)}"),
        (
            "evaluation_duration",
            _is_count(config.evaluation_duration),
            "a number of episodes, since GRPO does not evaluate beside training",
        ),
        ("custom_evaluation_function", config.custom_evaluation_function is not None, "a function, e.g. the default"),
    ]
    for name, is_valid, expected in checks:
        if not is_valid:
            raise ValueError(f"{name}: expected {expected}, got {getattr(config, name)!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_classes(config: AlgorithmConfig) -> None:
    expected = {"env_runner_cls": GRPOEnvRunner, "learner_class": GRPOTorchLearner}
    for name, base in expected.items():
        given = getattr(config, name)
        if not (isinstance(given, type) and issubclass(given, base)):
            raise ValueError(f"{name}: expected a subclass of {base.__name__}, got {given!r}")


def _check_callbacks(config: AlgorithmConfig) -> None:
    never_called = [
        name for name in dir(RLlibCallback) if name.startswith("on_") and f"callbacks_{name}" not in HONOURED
    ]
    for given in force_list(config.callbacks_class):
        for name in never_called:
            if getattr(given, name, None) is not getattr(RLlibCallback, name):
                raise ValueError(f"callbacks: GRPO does not call {given.__name__}.{name}; {READ_GROUPS}")


def _check_model_config(config: AlgorithmConfig) -> None:
    given = given_model_config(config)
    if not isinstance(given, Mapping):
        raise ValueError(f"model_config: expected a dictionary, got {type(given).__name__}")
    known = as_dict(ModelSettings())
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"model_config: expected keys out of {', '.join(known)}, got {', '.join(unknown)}")


def _check_evaluation(config: AlgorithmConfig) -> None:
    overrides: Mapping[str, Any] = config.evaluation_config or {}
    for name, value in overrides.items():
        if name == "explore" and value:
            raise ValueError("evaluation_config: expected explore=False, got True; an evaluation is greedy")
        if name not in HONOURED_IN_EVALUATION and not _is_equal(value, getattr(config, name, None)):
            raise ValueError(
                f"evaluation_config: {name} has no effect on an evaluation, got {value!r}; expected overrides of "
                f"{', '.join(sorted(HONOURED_IN_EVALUATION))}"
            )
    if overrides and not (config.evaluation_interval or config.evaluation_num_env_runners):
        raise ValueError(
            "evaluation_config: expected `evaluation_interval` or `evaluation_num_env_runners` beside it, got neither; "
            "without them evaluations run in the training's own runners"
        )
