"""The learner: groups in, one optimizer step at a time, in micro-batches. Its arithmetic is in `loss.py`."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from focus_agents.errors import TrainingError
from focus_agents.grpo.batch import GroupBatch, collate_groups, micro_batches, split_completions
from focus_agents.grpo.budget import ADVICE, LEARNING
from focus_agents.grpo.loss import policy_loss, rollout_weights
from focus_agents.grpo.module import ENTROPIES, GROUP_BATCH, LOGPROBS, REF_LOGPROBS
from focus_agents.grpo.steps import GroupTrainingData, TrainingGroup
from focus_agents.models.devices import memory_advice
from focus_agents.processes.loopback import listen_where_told
from focus_agents.processes.memory import MEMORY, memory_gib
from focus_agents.processes.names import own_name

logger = logging.getLogger(__name__)

GRAD_NORM = "gradients_default_optimizer_global_norm"
"""RLlib's metric."""
GROUPS, TOTALS = "groups", "totals"
SHARED_PREFIX, BAD_STEPS = "shared_prefix", "bad_steps"


class GRPOTorchLearner(TorchLearner):
    """Trains a `VLMModule` on the groups of a `GroupTrainingData`."""

    _gradients_are_checked = False
    _shares_prefixes: bool | None = None
    """The choice for `shared_prefix="auto"`; None: not made yet."""
    _num_bad_steps = _num_bad_in_a_row = 0
    """Steps whose loss or gradient was not finite: in all, and up to the last one."""

    def __init__(self, **kwargs: Any) -> None:
        listen_where_told()  # RLlib sets torch's process group up after this
        super().__init__(**kwargs)

    def __repr__(self) -> str:
        """Return the actor's name, which Ray's dashboard shows."""
        return own_name(lambda: type(self).__name__)

    def get_parameters(self, module: Any) -> list[torch.nn.Parameter]:
        """Return the trained parameters: neither those of the reference nor of the base under adapters."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW over the trained parameters; RLlib sets its learning rate by `config.lr`, `_set_lr` by the schedule."""
        parameters = self.get_parameters(self.module[module_id])
        optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=config.lr
        )

    def postprocess_gradients(self, gradients_dict: dict[Any, Any]) -> dict[Any, Any]:
        """Clip as RLlib does; before it, at the first step, check that the learners have the same gradients."""
        if self.distributed and not self._gradients_are_checked:
            self._check_gradients(gradients_dict)
            self._gradients_are_checked = True
        return super().postprocess_gradients(gradients_dict)

    def _check_gradients(self, gradients: Mapping[torch.nn.Parameter, torch.Tensor | None]) -> None:
        """Compare each parameter's gradient over the learners by its norm and its sum.

        Learners that do not exchange their gradients drift apart silently: each step is a good one for its own share.

        Raises:
            TrainingError: On every learner, if one has other gradients than the rest.
        """
        modules = [module.unwrapped() for module in self.module.values()]
        names = {parameter: name for module in modules for name, parameter in module.named_parameters()}
        marks = torch.zeros(len(gradients), 2, dtype=torch.float64, device=self.device)
        for mark, gradient in zip(marks, gradients.values(), strict=True):
            if gradient is not None:
                values = gradient.detach().double()
                mark[0], mark[1] = values.norm(), values.sum()
        everyones = [torch.empty_like(marks) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyones, marks)
        spread = torch.stack(everyones).cpu()
        # Far above the rounding of a sum in another order, far below what another batch makes of a gradient.
        tolerance = 1e-6 * spread[..., 0].amax(dim=0)
        differs = (spread.amax(dim=0) - spread.amin(dim=0)).amax(dim=1) > tolerance
        different = [names[parameter] for parameter, flag in zip(gradients, differs, strict=True) if flag]
        if different:
            raise TrainingError(
                f"gradients: expected the same on all {len(everyones)} learners after the first step's last backward "
                f"pass, got others for {len(different)} of {len(gradients)} parameters, e.g. {different[0]}; call the "
                "module through RLlib's data-parallel wrapper, and leave its no_sync for the last micro-batch"
            )

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return RLlib's state, the count of skipped steps, and what `shared_prefix="auto"` came to."""
        own = {SHARED_PREFIX: self._shares_prefixes, BAD_STEPS: (self._num_bad_steps, self._num_bad_in_a_row)}
        return super().get_state(*args, **kwargs) | own

    def set_state(self, state: dict[str, Any]) -> None:
        """Take what `get_state` gave."""
        super().set_state(state)
        self._num_bad_steps, self._num_bad_in_a_row = state.get(BAD_STEPS, (0, 0))
        # A learner that goes on does not look again: on another group the answer may be another, and so its numerics.
        if (shares_prefixes := state.get(SHARED_PREFIX)) is not None:
            self._share_prefixes(shares_prefixes)

    def _get_optimizer_state(self) -> dict[str, Any]:
        """Return copies on the CPU, each in its dtype."""
        # Overridden because RLlib makes NumPy arrays of it, which know no bfloat16.
        return {
            name: {"module_id": module_id, "state": _copy_state(optimizer.state_dict())}
            for name, (module_id, optimizer) in self._optimizers_by_name().items()
        }

    def _set_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Take what `_get_optimizer_state` gave."""
        optimizers = self._optimizers_by_name()
        for name, entry in state.items():
            _, optimizer = optimizers[name]
            # Overridden for this copy: PyTorch keeps the tensors that it is given, and learners on one machine get the
            # same object of the object store, so all of them would write their moments into its memory.
            optimizer.load_state_dict(_copy_state(entry["state"]))

    def _optimizers_by_name(self) -> dict[str, tuple[str, torch.optim.Optimizer]]:
        """Return (module's id, optimizer) under the names that RLlib gives to optimizers in a state."""
        return {
            f"{module_id}_{name}": (module_id, optimizer)
            for module_id, _ in self.module.items()
            for name, optimizer in self.get_optimizers_for_module(module_id)
        }

    def _create_iterator_if_necessary(self, *, training_data: GroupTrainingData, **kwargs: Any) -> Iterator[Any]:
        """Make one RLlib batch of each optimizer step of the plan."""
        # Overridden because RLlib cuts data into minibatches by rows. It takes a step for each batch from here.
        self._choose_path(next(iter(training_data.groups.values())))
        training_data = self._add_logprobs(training_data)
        for groups, totals in training_data.iterate():
            rows, step = np.empty(len(groups), dtype=object), np.empty(len(groups), dtype=object)
            rows[:], step[:] = groups, [totals] * len(groups)
            batch = SampleBatch({GROUPS: rows, TOTALS: step})
            yield MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=sum(len(g.token_ids) for g in groups))

    def _choose_path(self, group: TrainingGroup) -> None:
        """Find out at the first update whether this model computes shared rows as it should; all learners agree."""
        if self.config.shared_prefix != "auto" or self._shares_prefixes is not None:
            return
        module = self.module[DEFAULT_MODULE_ID].unwrapped()
        if not module.uses_shared_prefix:
            self._share_prefixes(False)
            warnings.warn(
                "shared prefix: the model has recurrent layers or sliding windows, so prompts are repeated for each "
                "answer in learning, which is slower by about the group size; sampling still encodes a prompt once",
                stacklevel=2,
            )
            return
        gap = torch.tensor(module.shared_prefix_gap(collate_groups([group], module.processor, device=self.device)))
        if torch.distributed.is_initialized():
            gap = gap.to(self.device)
            torch.distributed.all_reduce(gap, torch.distributed.ReduceOp.MAX)
        self._share_prefixes(bool(gap <= 1))
        if not self._shares_prefixes:
            warnings.warn(
                f"shared prefix: log-probabilities differ from those of repeated prompts by {float(gap):.1f} times "
                "what rounding explains, so prompts are repeated for each answer, which is slower by about the "
                "group size; please report the model",
                stacklevel=2,
            )

    def _share_prefixes(self, shares_prefixes: bool) -> None:
        self._shares_prefixes = self.module[DEFAULT_MODULE_ID].unwrapped().uses_shared_prefix = shares_prefixes

    def _add_logprobs(self, data: GroupTrainingData) -> GroupTrainingData:
        """Add what several optimizer steps need of the policy and the reference as they are before the first."""
        has_gold = any(group.has_gold for group in data.groups.values())
        needs_old, needs_reference = self.config.rollout_correction != "none" or has_gold, self.config.kl_coeff > 0
        if len(data.steps) == 1 or not (needs_old or needs_reference):
            return data
        module = self.module[DEFAULT_MODULE_ID].unwrapped()
        groups: dict[int, TrainingGroup] = {}
        size = self.config.micro_batch_groups or len(data.groups)
        for start in range(0, len(data.groups), size):
            part = list(data.groups)[start : start + size]
            batch = collate_groups([data.groups[p] for p in part], module.processor, device=self.device)
            added: dict[str, list[Any]] = {}
            if needs_old:
                added["old_logprobs"] = split_completions(module.policy_logprobs(batch), batch.lengths)
            if needs_reference:
                added["ref_logprobs"] = split_completions(module.reference_logprobs(batch), batch.lengths)
            for row, position in enumerate(part):
                changes = {name: values[row] for name, values in added.items()}
                groups[position] = replace(data.groups[position], **changes)
        return GroupTrainingData(groups=groups, steps=data.steps)

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Take one optimizer step: gradients add up over micro-batches, and learners exchange them after the last."""
        # Overridden because RLlib runs a step in one pass, whose activations would have to fit into memory at once.
        ((module_id, rows),) = batch.items()
        config = self.config.get_config_for_module(module_id)
        groups, totals = list(rows[GROUPS]), rows[TOTALS][0]
        portions = micro_batches(groups, config.micro_batch_groups)
        self.get_optimizer(module_id).zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for portion in portions:
            # The data-parallel wrapper averages gradients in each backward pass unless told not to; once is enough.
            is_last = portion is portions[-1]
            group_batch = collate_groups(portion, self._processor(module_id), device=self.device)
            micro_batch = {module_id: {GROUP_BATCH: group_batch, TOTALS: totals}}
            syncs = contextlib.nullcontext if is_last or config.num_learners <= 1 else self.module[module_id].no_sync
            with syncs(), memory_advice(ADVICE[LEARNING]):
                losses = self.compute_losses(fwd_out=self.module.forward_train(micro_batch), batch=micro_batch)
                losses[module_id].backward()
            total += losses[module_id].detach()
        parameters = self.get_parameters(self.module[module_id])
        gradients = {self.get_param_ref(parameter): parameter.grad for parameter in parameters}
        self.metrics.log_value((module_id, "lr"), self._set_lr(), window=1)
        self.metrics.log_value((module_id, MEMORY), memory_gib(), reduce="max", window=1)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        is_finite = self._is_finite(total, norm)
        postprocessed = self.postprocess_gradients(gradients)
        if is_finite:
            self.apply_gradients(postprocessed)
        else:  # RLlib logs 0 for a norm that is no number
            self.metrics.log_value((module_id, GRAD_NORM), float(norm), window=1)
        self._count_step(module_id, parameters, is_finite=is_finite)
        return {}, {module_id: total}, {}

    def _is_finite(self, loss: torch.Tensor, norm: torch.Tensor) -> bool:
        """Return whether loss and gradient of a step are finite, on all learners; each finds the same."""
        # Not left to RLlib, which takes a step with zeros in the place of such gradients.
        flag = torch.isfinite(loss + norm.to(loss)).float()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
        return bool(flag)

    def _count_step(self, module_id: str, parameters: Sequence[torch.nn.Parameter], *, is_finite: bool) -> None:
        """Count a step that was skipped, and stop where nothing good can follow.

        Raises:
            TrainingError: On every learner, after `max_bad_steps` such steps in a row, or where the weights are no
                numbers any more.
        """
        self._num_bad_steps += not is_finite
        self._num_bad_in_a_row = 0 if is_finite else self._num_bad_in_a_row + 1
        self.metrics.log_value((module_id, "skipped_steps"), self._num_bad_steps, window=1)
        advice = "lower `lr` or `grad_clip`, or try `precision` fp32; the last checkpoint is whole"
        if not is_finite and self._num_bad_steps == 1:
            logger.warning("skipped a step: its loss or gradient is not finite (more of them are only counted)")
        if self._num_bad_in_a_row >= self.config.max_bad_steps:
            raise TrainingError(
                f"training stopped: expected a finite loss and gradient, got none in {self._num_bad_in_a_row} steps in "
                f"a row; {advice}"
            )
        if is_finite and not torch.isfinite(torch.nn.utils.get_total_norm(parameters)):
            raise TrainingError(f"training stopped: expected finite weights, got others after a step; {advice}")

    def _set_lr(self) -> float:
        """Set the learning rate of the step that comes, and return it.

        How many steps there were is part of the optimizer's state, so a run that goes on goes on here; those that were
        skipped count. After the step RLlib sets its own again.
        """
        optimizer = self.get_optimizer()
        num_taken = max((int(state["step"]) for state in optimizer.state.values()), default=0)
        num_done = num_taken + self._num_bad_steps
        for group in optimizer.param_groups:
            group["lr"] = self.config.settings.lr_at(num_done)
        return float(optimizer.param_groups[0]["lr"])

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the micro-batch's part of the step's loss, times the learners, since these average their gradients."""
        groups: GroupBatch = batch[GROUP_BATCH]
        num_tokens = groups.token_ids.shape[-1]

        def flat(values: torch.Tensor) -> torch.Tensor:
            return values.reshape(-1, num_tokens)

        logprobs, sampler_logprobs, mask = (
            flat(fwd_out[LOGPROBS]),
            flat(groups.sampler_logprobs),
            flat(groups.loss_mask),
        )
        # In a single step the policy before the update is the policy.
        before_update = logprobs.detach() if groups.old_logprobs is None else flat(groups.old_logprobs)
        if groups.is_gold is not None:  # nobody sampled the right answer: the same policy stands in for a sampler
            sampler_logprobs = torch.where(groups.is_gold.reshape(-1, 1), before_update, sampler_logprobs)
        old_logprobs, weights = sampler_logprobs, None
        if config.rollout_correction != "none":
            old_logprobs = before_update
            weights = rollout_weights(
                old_logprobs, sampler_logprobs, mask, correction=config.rollout_correction, cap=config.correction_cap
            )
        loss, sums = policy_loss(
            logprobs,
            old_logprobs,
            groups.advantages.reshape(-1),
            mask,
            settings=config.settings,
            totals=batch[TOTALS],
            ref_logprobs=flat(fwd_out[REF_LOGPROBS]) if REF_LOGPROBS in fwd_out else None,
            rollout_weights=weights,
        )
        count = sums["num_tokens"].clamp(min=1)
        gap = (logprobs.detach() - sampler_logprobs).abs().masked_fill(~mask, 0.0).sum()
        self.metrics.log_dict(
            {
                "clip_fraction": sums["clipped_tokens"] / count,
                "clip_low": sums["clipped_low"] / count,
                "clip_high": (sums["clipped_tokens"] - sums["clipped_low"]) / count,
                "kl": sums["kl_sum"] / count,
                "ratio_mean": sums["ratio_sum"] / count,
                "entropy": fwd_out[ENTROPIES].masked_fill(~groups.loss_mask, 0.0).sum() / count,
                "sampler_gap": gap / count,
            },
            key=module_id,
            reduce="mean",
        )
        # The parts of a step are to be added up, but data-parallel learners average their gradients.
        return loss * max(1, config.num_learners)

    def _processor(self, module_id: str) -> Any:
        """Return the module's processor, also behind RLlib's data-parallel wrapper."""
        return self.module[module_id].unwrapped().processor


def _copy_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a PyTorch optimizer's `state_dict` that shares no memory with it, on the CPU."""
    tensors = {
        index: {
            key: value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
            for key, value in slots.items()
        }
        for index, slots in state["state"].items()
    }
    return {"state": tensors, "param_groups": copy.deepcopy(state["param_groups"])}
