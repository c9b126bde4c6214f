"""The learner: groups in, one optimizer step at a time, in micro-batches. Its arithmetic is in `loss.py`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from focus_agents.grpo.batch import GroupTrainingData, collate_groups
from focus_agents.grpo.loss import grpo_loss
from focus_agents.grpo.module import ENTROPIES, GROUP_BATCH, LOGPROBS, REF_LOGPROBS
from focus_env.errors import TrainingError

GROUPS, NUM_STEP_TOKENS = "groups", "num_step_tokens"


class GRPOTorchLearner(TorchLearner):
    """Trains a `VLMModule` on the groups of a `GroupTrainingData`."""

    _gradients_are_checked = False

    def get_parameters(self, module: Any) -> list[torch.nn.Parameter]:
        """What is trained: not the reference, nor the base under adapters."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW over the trained parameters; RLlib sets its learning rate by `config.lr`."""
        parameters = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=config.lr
        )

    def postprocess_gradients(self, gradients_dict: dict[Any, Any]) -> dict[Any, Any]:
        """RLlib's clipping; before it, at the first step, a look whether the learners have the same gradients."""
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

    def _get_optimizer_state(self) -> dict[str, Any]:
        """Copies on the CPU, each in its dtype; RLlib's own version takes NumPy arrays, which know no bfloat16."""
        return {
            name: {"module_id": self._optimizer_name_to_module[name], "state": _copy_state(optimizer.state_dict())}
            for name, optimizer in self._named_optimizers.items()
        }

    def _set_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Take what `_get_optimizer_state` gave.

        The optimizer gets its own copy, since PyTorch keeps the tensors that it is given: learners that read one object
        of the object store would all write their moments into the same memory.
        """
        for name, entry in state.items():
            self._named_optimizers[name].load_state_dict(_copy_state(entry["state"]))

    def _create_iterator_if_necessary(self, *, training_data: GroupTrainingData, **kwargs: Any) -> Iterator[Any]:
        """One RLlib batch per optimizer step of the plan; RLlib would cut the data by rows instead."""
        for groups, num_tokens in training_data.iterate():
            rows = np.empty(len(groups), dtype=object)
            rows[:] = groups
            batch = SampleBatch({GROUPS: rows, NUM_STEP_TOKENS: np.full(len(groups), num_tokens)})
            yield MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=sum(len(g.token_ids) for g in groups))

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """One optimizer step: gradients add up over micro-batches, and learners exchange them after the last."""
        ((module_id, rows),) = batch.items()
        config = self.config.get_config_for_module(module_id)
        groups, num_tokens = list(rows[GROUPS]), float(rows[NUM_STEP_TOKENS][0])
        size = config.micro_batch_groups or len(groups)
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for start in range(0, len(groups), size):
            is_last = start + size >= len(groups)
            group_batch = collate_groups(groups[start : start + size], self._processor(module_id), device=self.device)
            micro_batch = {module_id: {GROUP_BATCH: group_batch, NUM_STEP_TOKENS: num_tokens}}
            with contextlib.nullcontext() if is_last or config.num_learners <= 1 else self.module[module_id].no_sync():
                losses = self.compute_losses(fwd_out=self.module.forward_train(micro_batch), batch=micro_batch)
                losses[module_id].backward()
            total += losses[module_id].detach()
        gradients = {key: parameter.grad for key, parameter in self._params.items()}
        self.apply_gradients(self.postprocess_gradients(gradients))
        return {}, {module_id: total}, {}

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The micro-batch's part of the step's loss, times the learners, since these average their gradients."""
        groups = batch[GROUP_BATCH]
        num_tokens = groups.token_ids.shape[-1]
        reference = fwd_out.get(REF_LOGPROBS)
        loss, sums = grpo_loss(
            fwd_out[LOGPROBS].reshape(-1, num_tokens),
            groups.old_logprobs.reshape(-1, num_tokens),
            groups.advantages.reshape(-1),
            groups.loss_mask.reshape(-1, num_tokens),
            num_valid_tokens=batch[NUM_STEP_TOKENS],
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            kl_coeff=config.kl_coeff,
            ref_logprobs=None if reference is None else reference.reshape(-1, num_tokens),
        )
        count = sums["num_tokens"]
        self.metrics.log_dict(
            {
                "clip_fraction": sums["clipped_tokens"] / count,
                "kl": sums["kl_sum"] / count,
                "ratio_mean": sums["ratio_sum"] / count,
                "entropy": fwd_out[ENTROPIES][groups.loss_mask].mean(),
            },
            key=module_id,
            reduce="mean",
        )
        return loss * max(1, config.num_learners)

    def _processor(self, module_id: str) -> Any:
        """The module's processor, also behind RLlib's data-parallel wrapper."""
        return self.module[module_id].unwrapped().processor


def _copy_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A PyTorch optimizer's `state_dict` that shares no memory with it, on the CPU."""
    tensors = {
        index: {
            key: value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
            for key, value in slots.items()
        }
        for index, slots in state["state"].items()
    }
    return {"state": tensors, "param_groups": copy.deepcopy(state["param_groups"])}
