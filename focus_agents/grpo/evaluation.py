"""RLlib's own evaluation (`.evaluation(evaluation_interval=...)`, `GRPO.evaluate`), and rewards under RLlib's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    EVALUATION_RESULTS,
    NUM_ENV_STEPS_SAMPLED,
    NUM_EPISODES,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from focus_agents.runs.scores import absence_metrics
from focus_env.metrics import summarize


def evaluate_greedily(algorithm: Any, eval_env_runner_group: Any) -> tuple[dict[str, Any], int, int]:
    """Answer the evaluation's episodes and log how good the answers are; RLlib's `custom_evaluation_function`.

    RLlib's own loop asks runners for a number of episodes, leaves out what a lost runner would have answered, and takes
    a data set that cannot be read for a runner that died.

    Args:
        algorithm: A `GRPO`. Its `last_evaluation` becomes the answers.
        eval_env_runner_group: RLlib's group of runners; the algorithm knows them.

    Returns:
        What RLlib expects: a dictionary that it ignores, environment steps, and the agent's steps.
    """
    answered = algorithm.answer_evaluation_episodes()
    algorithm.last_evaluation = [answer for _, answer in answered]
    scores = summarize(algorithm.last_evaluation)
    # RLlib reads an evaluation's results as those merged last, so they come as if from a runner.
    logger = MetricsLogger(root=False)
    log_episodes(logger, [reward for reward, _ in answered])
    logged = {"miou": scores["miou_all"], "parse_rate": scores["parse_rate"]}
    logger.log_dict(logged | absence_metrics(algorithm.last_evaluation), reduce="mean")
    logger.log_value(NUM_ENV_STEPS_SAMPLED, len(answered), reduce="sum")
    algorithm.metrics.aggregate([logger.reduce()], key=(EVALUATION_RESULTS, ENV_RUNNER_RESULTS))
    return {}, len(answered), len(answered)


def log_episodes(logger: MetricsLogger, returns: Sequence[float], *, key: Sequence[str] = ()) -> None:
    """Log the rewards of answers under RLlib's names, by which Tune stops and compares trials.

    Args:
        logger: The algorithm's, or one of its own.
        returns: The reward of each answer, at least one. An answer is an episode of one step.
        key: Where in the result.
    """
    for name, value in {EPISODE_RETURN_MEAN: float(np.mean(returns)), EPISODE_LEN_MEAN: 1.0}.items():
        logger.log_value((*key, name), value, reduce="mean")
    for name, value in {EPISODE_RETURN_MIN: float(np.min(returns)), EPISODE_LEN_MIN: 1}.items():
        logger.log_value((*key, name), value, reduce="min")
    for name, value in {EPISODE_RETURN_MAX: float(np.max(returns)), EPISODE_LEN_MAX: 1}.items():
        logger.log_value((*key, name), value, reduce="max")
    logger.log_value((*key, NUM_EPISODES), len(returns), reduce="sum")
