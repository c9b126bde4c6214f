"""The learners as a group. What they learn travels through the object store, never through the driver."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import ray
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The learners' state after an update, in the object store; they are all alike, so it is the first one's.

    Its objects are return values of a task of the driver. So they are the driver's own, who has never seen what is in
    them, and outlive the learner that made them (not the loss of its machine).

    Attributes:
        weights: State of the modules by id.
        rest: All else that a learner needs to go on, above all the optimizer's state.
        weights_seq_no: Number of the weights.
    """

    weights: ray.ObjectRef
    rest: ray.ObjectRef
    weights_seq_no: int


class GRPOLearnerGroup(LearnerGroup):
    """RLlib's group, which hands out the weights by reference.

    With `num_learners=0` the learner is in this process, and the group is RLlib's.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._snapshot: Snapshot | None = None
        super().__init__(**kwargs)

    def update(self, **kwargs: Any) -> list[Any]:
        """RLlib's update; the weights are new afterwards."""
        self._snapshot = None
        return super().update(**kwargs)

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's state; for inference, a reference to the weights of remote learners, and their number."""
        if self.is_local or not inference_only:
            return super().get_state(components, not_components=not_components, inference_only=inference_only, **kwargs)
        snapshot = self._current_snapshot()
        return {COMPONENT_LEARNER: {COMPONENT_RL_MODULE: snapshot.weights, WEIGHTS_SEQ_NO: snapshot.weights_seq_no}}

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's; the weights are new afterwards."""
        super().set_state(state)
        self._snapshot = None

    def restore_from_path(self, *args: Any, **kwargs: Any) -> None:
        """RLlib's; the weights are new afterwards."""
        super().restore_from_path(*args, **kwargs)
        self._snapshot = None

    def _current_snapshot(self) -> Snapshot:
        """Of the learners' state as it is now; taken if it has not been yet."""
        if self._snapshot is None:
            weights, rest, number = self._workers[0].apply.options(num_returns=3).remote(_split_state)
            self._snapshot = Snapshot(weights, rest, ray.get(number))  # raises if the task failed
        return self._snapshot


def _split_state(learner: Any) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What goes into a `Snapshot`, on the learner."""
    state = learner.get_state()
    return state.pop(COMPONENT_RL_MODULE), state, state[WEIGHTS_SEQ_NO]
