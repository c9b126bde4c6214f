"""RLlib's private names that this package depends on, each with the reason.

RLlib's public methods do not reach everything that GRPO needs, and a release of Ray may rename what is private. So a
private attribute is read by a function of this file, and a private method that a class here overrides is listed in
`HOOKS`. `tests/focus_agents/grpo/test_rllib_compat.py` names whatever an installed Ray lacks, and finds reads and
overrides that are not listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.checkpoints import Checkpointable


@dataclass(frozen=True, slots=True)
class PrivateName:
    """A private name of RLlib.

    Attributes:
        owner: RLlib's class.
        name: Attribute or method of it.
        reason: Why nothing public does.
        overridden_by: Name of the class of this package that overrides it; empty: it is read.
    """

    owner: type
    name: str
    reason: str
    overridden_by: str = ""


READS = (
    PrivateName(
        LearnerGroup,
        "_learner",
        "With num_learners=0 sampler and learner share one module; public methods hand out copies of its state.",
    ),
    PrivateName(
        LearnerGroup,
        "_workers",
        "An update that fails is repeated, so each learner's answer must be waited for with a deadline, one by one.",
    ),
    PrivateName(
        LearnerGroup,
        "_worker_manager",
        "After learners were given a state, RLlib does not say how many of them took it.",
    ),
    PrivateName(
        LearnerGroup,
        "_backend_executor",
        "Learners that hang must be killed; LearnerGroup.shutdown waits for them.",
    ),
    PrivateName(LearnerGroup, "_module_spec", "New learners are built from the specification of those they replace."),
    PrivateName(
        Learner,
        "_weights_seq_no",
        "The number of the weights, by which runners refuse to sample from older ones; a learner's public state "
        "carries it only beside a copy of the weights.",
    ),
    PrivateName(
        EnvRunnerGroup,
        "_worker_manager",
        "Jobs go to named runners and weights to all, in one queue each; RLlib's own calls drop a push of weights "
        "while another is on its way.",
    ),
    PrivateName(
        Checkpointable, "_check_component", "RLlib's rule for the `components` that callers of get_state ask for."
    ),
    PrivateName(
        AlgorithmConfig,
        "_model_config",
        "What the user gave to rl_module(model_config=...); the public model_config adds GRPO's own keys to it.",
    ),
    PrivateName(
        AlgorithmConfig,
        "_validate_config",
        "RLlib's switch for all checks of settings, experimental(_validate_config=False).",
    ),
)
"""Names that are read, by the functions below."""

HOOKS = (
    PrivateName(
        Algorithm,
        "_setup_logdir",
        "A run writes to its own folder; RLlib's algorithms make one each in the user's home, if it can be written.",
        overridden_by="NamedAlgorithm",
    ),
    PrivateName(
        Algorithm,
        "_logdir",
        "What that method sets, and RLlib reads; an algorithm's constructor takes no folder outside of Tune.",
        overridden_by="NamedAlgorithm",
    ),
    PrivateName(
        AlgorithmConfig,
        "_model_config_auto_includes",
        "The module needs some of the algorithm's settings, and RLlib builds it from model_config alone.",
        overridden_by="GRPOConfig",
    ),
    PrivateName(
        TorchRLModule,
        "_forward_train",
        "The forward pass to learn from; RLlib means modules to override it, its public forward_train wraps it.",
        overridden_by="VLMModule",
    ),
    PrivateName(
        Learner,
        "_create_iterator_if_necessary",
        "Optimizer steps follow the plan of `plan_steps`; RLlib cuts data by rows, which takes groups apart.",
        overridden_by="GRPOTorchLearner",
    ),
    PrivateName(
        TorchLearner,
        "_uncompiled_update",
        "An optimizer step in micro-batches; RLlib computes a step in one forward and backward pass.",
        overridden_by="GRPOTorchLearner",
    ),
    PrivateName(
        TorchLearner,
        "_get_optimizer_state",
        "The state as PyTorch tensors; RLlib's NumPy arrays know no bfloat16.",
        overridden_by="GRPOTorchLearner",
    ),
    PrivateName(
        TorchLearner,
        "_set_optimizer_state",
        "Copies of what is given; RLlib's learners on one machine would share the memory of their moments.",
        overridden_by="GRPOTorchLearner",
    ),
)
"""Names that are overridden. RLlib calls these, so they stay methods of the classes that override them."""


def local_learner(group: LearnerGroup) -> Any:
    """Return the learner in this process; None where learners are processes of their own."""
    return group._learner


def learner_actors(group: LearnerGroup) -> list[Any]:
    """Return the handles of the learners that are processes of their own."""
    return list(group._workers or ())


def num_healthy_learners(group: LearnerGroup) -> int:
    """Count the remote learners that answered RLlib's last call to all of them."""
    return int(group._worker_manager.num_healthy_actors())


def kill_learners(group: LearnerGroup) -> None:
    """End the processes of all remote learners at once, also of those that hang."""
    group._backend_executor.shutdown(graceful_termination=False)


def module_spec(group: LearnerGroup) -> Any:
    """Return the specification that the learners' modules were built from."""
    return group._module_spec


def weights_number(learner: Learner) -> int:
    """Return the number of a learner's weights; each update counts it up."""
    return int(learner._weights_seq_no)


def runner_actors(group: EnvRunnerGroup) -> dict[int, Any]:
    """Return the handles of the remote runners by their index, from 1."""
    return dict(group._worker_manager.actors())


def mark_lost(group: EnvRunnerGroup, runner_index: int) -> None:
    """Take a runner out of service until RLlib has restored it."""
    group._worker_manager.set_actor_state(runner_index, False)


def wants_component(owner: Checkpointable, name: str, components: Any, not_components: Any) -> bool:
    """Tell whether a caller of `get_state` asks for a component."""
    return bool(owner._check_component(name, components, not_components))


def given_model_config(config: AlgorithmConfig) -> Any:
    """Return what the user gave to ``rl_module(model_config=...)``."""
    return config._model_config


def is_checked(config: AlgorithmConfig) -> bool:
    """Tell whether the user wants settings to be checked."""
    return bool(config._validate_config)
