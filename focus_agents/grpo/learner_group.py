"""The learners as a group that outlives its members. What they learn never passes through the driver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow.fs
import ray
from ray.exceptions import RayActorError, RayError
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from focus_agents.errors import CheckpointError, TrainingError
from focus_agents.grpo.references import find_lost
from focus_agents.grpo.rllib_compat import (
    kill_learners,
    learner_actors,
    module_spec,
    num_healthy_learners,
)
from focus_agents.grpo.steps import GroupTrainingData
from focus_agents.processes.names import naming_grpo, where_logs_are
from focus_agents.rollout.records import PromptReference
from focus_env.errors import FocusError

logger = logging.getLogger(__name__)

PROBE_SECONDS = 1.0
"""So long it is looked which learner has died, before all are replaced; one that lives may be busy."""

T = TypeVar("T")
FAULTS = (RayError, TimeoutError, RuntimeError)
"""Errors that a dead, raising or silent learner causes here; RLlib turns a death during start-up into the last."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The learners' state after an update, in the object store; they are all alike, so it is the first one's.

    Its objects are return values of a task of the driver. So they are the driver's own, though it has never seen what
    is in them, and they outlive the learner that made them. A copy in the object store of the driver's machine
    outlives the learner's machine, too; Ray drops it only where that store is full.

    Attributes:
        weights: State of the modules by id.
        rest: All else that a learner needs to go on, above all the optimizer's state.
        weights_seq_no: Number of the weights.
    """

    weights: ray.ObjectRef
    rest: ray.ObjectRef
    weights_seq_no: int


class GRPOLearnerGroup(LearnerGroup):
    """RLlib's group, but an update that fails is repeated by new learners from the state before it.

    RLlib never replaces a learner, and waits without end for one that does not answer, e.g. because another has raised
    an error and left it in the exchange of gradients. A repeated update has the same groups in the same order, so its
    outcome is that of an update without a fault.

    With `num_learners=0` the learner is in this process: nothing is copied, and an error is raised as it is.

    Attributes:
        num_rebuilds: How often all learners were replaced.
        run_name: The run that new learners are named after.
    """

    run_name: str | None = None
    _last_fault = ""

    def __init__(self, **kwargs: Any) -> None:
        self.num_rebuilds = 0
        super().__init__(**kwargs)
        self._keep_snapshot()

    def update(
        self,
        *,
        training_data: GroupTrainingData,
        restore: Callable[[Sequence[PromptReference]], None] = lambda lost: None,
        timesteps: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Take the optimizer steps of a plan, on the learners that there are or on new ones.

        Args:
            training_data: The groups and the plan.
            restore: Samples lost prompts again, and updates their references.
            timesteps: As RLlib's.
            kwargs: As RLlib's.

        Raises:
            TrainingError: If it has failed `max_update_attempts` times, or on a learner with this error.
        """
        if self.is_local:
            self._ensure_prompts([training_data], restore)
            return super().update(training_data=training_data, timesteps=timesteps, **kwargs)
        # Not by RLlib's own update, which waits without a deadline. The parcels are cut once, so that a repeated update
        # deals the same groups to the same learners.
        training_data.validate()
        parcels = [parcel for parcel, _ in training_data.shard(len(self))]

        def attempt() -> list[Any]:
            # Before the first exchange of gradients, where a learner without its groups would leave the others waiting.
            self._ensure_prompts(parcels, restore)
            results = self._wait(
                [
                    learner.update.remote(training_data=parcel, timesteps=timesteps, **kwargs)
                    for learner, parcel in zip(learner_actors(self), parcels, strict=True)
                ]
            )
            self._keep_snapshot()
            return results

        return self._with_recovery(attempt)

    def _ensure_prompts(
        self, parcels: Sequence[GroupTrainingData], restore: Callable[[Sequence[PromptReference]], None]
    ) -> None:
        """Let each learner's machine fetch the prompts of its parcel, and restore lost prompts.

        Raises:
            TrainingError: If prompts are lost `max_update_attempts` times in a row.
        """
        for _ in range(self.config.max_update_attempts):
            references = [parcel.references for parcel in parcels]
            if not any(references):
                return
            contents = [[reference.content for reference in part] for part in references]
            if self.is_local:
                found = [find_lost(None, part) for part in contents]
            else:
                calls = zip(learner_actors(self), contents, strict=True)
                found = self._wait([learner.apply.remote(find_lost, part) for learner, part in calls])
            lost = [part[position] for part, positions in zip(references, found, strict=True) for position in positions]
            if not lost:
                return
            restore(lost)
        raise TrainingError(
            f"prompts: lost with their machine {self.config.max_update_attempts} times in a row before they were "
            "learned from; mend the cause, then go on from the newest checkpoint"
        )

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return RLlib's state; for inference, a reference to the weights of remote learners, and their number."""
        if self.is_remote and inference_only:
            # By reference: RLlib would fetch the weights into the driver, to send them out again to each runner.
            state = {COMPONENT_RL_MODULE: self._snapshot.weights, WEIGHTS_SEQ_NO: self._snapshot.weights_seq_no}
            return {COMPONENT_LEARNER: state}
        options = {"not_components": not_components, "inference_only": inference_only, **kwargs}
        return self._with_recovery(lambda: LearnerGroup.get_state(self, components, **options))

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the state as RLlib does, but raise if a learner cannot take it."""
        super().set_state(state)
        self._check_state()

    def save_to_path(
        self, path: Any = None, *, state: dict[str, Any] | None = None, filesystem: Any = None, **kwargs: Any
    ) -> str:
        """Save as RLlib does, but let a new learner write what a dying one has not; RLlib would leave it out."""
        filesystem = filesystem or pyarrow.fs.LocalFileSystem()

        def save() -> str:
            given = None if state is None else dict(state)  # RLlib takes things out of it
            written: str = LearnerGroup.save_to_path(self, path, state=given, filesystem=filesystem, **kwargs)
            folder = pyarrow.fs.FileSelector(f"{written}/{COMPONENT_LEARNER}", allow_not_found=True)
            # Learners write this file last.
            if not any(file.base_name.startswith("state.") for file in filesystem.get_file_info(folder)):
                raise RuntimeError(f"checkpoint {written}: a learner did not write its part")
            return written

        return self._with_recovery(save)

    def restore_from_path(self, *args: Any, **kwargs: Any) -> None:
        """Restore as RLlib does, but raise if a learner cannot take the state."""
        super().restore_from_path(*args, **kwargs)
        self._check_state()

    def revive(self) -> None:
        """Replace the learners if one of them has died.

        Raises:
            TrainingError: If that has failed `max_update_attempts` times.
        """
        self._with_recovery(lambda: self._wait([learner.__ray_ready__.remote() for learner in learner_actors(self)]))

    def _with_recovery(self, action: Callable[[], T]) -> T:
        """Do something with the learners; after a fault, again with new ones."""
        if self.is_local:
            return action()
        for attempt in range(1, self.config.max_update_attempts + 1):
            try:
                if attempt > 1:
                    self._rebuild()
                return action()
            except FAULTS as error:
                fault, cause = error, getattr(error, "cause", None)
                if isinstance(cause, FocusError):  # new learners would raise it again
                    break
                self._last_fault = f"attempt {attempt} failed: {_summary(error)}"
        self._kill()
        if isinstance(cause, FocusError):
            raise cause from fault
        raise TrainingError(
            f"learners: failed {self.config.max_update_attempts} times in a row, from the second time on as new "
            f"processes; the last time: {_summary(fault)}; mend the cause, then go on from the newest checkpoint"
        ) from fault

    def _wait(self, calls: Sequence[ray.ObjectRef]) -> list[Any]:
        """Return the results of calls to the learners, or the first failure; others may wait for that one."""
        deadline = time.monotonic() + self.config.update_timeout_s
        pending = list(calls)
        while pending:
            done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                raise TimeoutError(
                    f"{len(pending)} of {len(calls)} learners did not answer within {self.config.update_timeout_s} s "
                    "(update_timeout_s)"
                )
            ray.get(done)
        return ray.get(list(calls))

    def _kill(self) -> None:
        """End all learners, also those that hang."""
        kill_learners(self)

    def _rebuild(self) -> None:
        """New learners with the state of the snapshot. It goes to them by reference, too."""
        logger.warning(
            "%s: %s; nothing is lost but time: new processes repeat it from the state before",
            self._who_died(), self._last_fault,
        )  # fmt: skip
        self._kill()
        started = time.monotonic()
        # Starts new processes; what this class adds to the group, the snapshot above all, stays as it is.
        with naming_grpo(self.run_name):
            LearnerGroup.__init__(self, config=self.config, module_spec=module_spec(self))
        weights, rest = self._snapshot.weights, self._snapshot.rest
        self._wait([learner.apply.remote(_join_state, weights, rest) for learner in learner_actors(self)])
        self.num_rebuilds += 1
        logger.info("learners: new ones are ready after %.1f s", time.monotonic() - started)

    def _who_died(self) -> str:
        """Return the learners whose process is gone, for a message; all, where none is."""
        probes = [learner.__ray_ready__.remote() for learner in learner_actors(self)]
        answered, _ = ray.wait(probes, num_returns=len(probes), timeout=PROBE_SECONDS) if probes else ([], [])
        dead = [str(rank) for rank, probe in enumerate(probes) if probe in answered and _has_died(probe)]
        return f"learner {' and '.join(dead)} has died" if dead else "learners"

    def _keep_snapshot(self) -> None:
        """Remember the learners' state as it is now."""
        if self.is_remote:
            # One task with three return values, which the driver owns without having fetched them: runners and new
            # learners read them from the object store, also when this learner is gone. Only the number is fetched, and
            # with it the task's failure, if there is one.
            first = learner_actors(self)[0]
            weights, rest, number = first.apply.options(num_returns=3).remote(_split_state)
            (weights_seq_no,) = self._wait([number])
            # From store to store: `wait` fetches to this machine without reading into this process. Then a question,
            # so that a snapshot that is lost on its way does not take the place of the one before.
            ray.wait([weights, rest], num_returns=2, timeout=self.config.update_timeout_s)
            self._wait([first.__ray_ready__.remote()])
            self._snapshot = Snapshot(weights, rest, weights_seq_no)

    def _check_state(self) -> None:
        """After the learners were given a state; RLlib does not look whether they took it.

        Raises:
            CheckpointError: If one did not.
        """
        if self.is_remote and num_healthy_learners(self) < len(self):
            raise CheckpointError(
                f"learners: {num_healthy_learners(self)} of {len(self)} took the state; expected that "
                f"of the same model and adapters; more is {where_logs_are()}"
            )
        self._keep_snapshot()


def _has_died(probe: ray.ObjectRef) -> bool:
    """Return whether a question to a learner that was answered has found nobody."""
    try:
        ray.get(probe)
    except RayActorError:
        return True
    return False


def _split_state(learner: Any) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Split a state into what goes into a `Snapshot`, and the rest, on the learner."""
    state = learner.get_state()
    return state.pop(COMPONENT_RL_MODULE), state, state[WEIGHTS_SEQ_NO]


def _join_state(learner: Any, weights: dict[str, Any], rest: dict[str, Any]) -> None:
    """Join the parts of a state again, on a new learner."""
    learner.set_state({**rest, COMPONENT_RL_MODULE: weights})


def _summary(error: BaseException) -> str:
    """Return an error in a line; Ray's own texts hold the remote traceback."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else ''}"
