"""The policy as an RLModule: a transformers model, its processor, and a frozen reference where KL needs one."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch import TorchRLModule

from focus_agents.generation import score_completions
from focus_agents.grpo.batch import GroupBatch
from focus_agents.models.adapters import add_adapters
from focus_agents.models.loading import load_model, load_processor
from focus_agents.policies.vlm import VLMPolicy

LOGPROBS, REF_LOGPROBS, ENTROPIES = "logprobs", "ref_logprobs", "entropies"
GROUP_BATCH = "group_batch"


class VLMModule(TorchRLModule, InferenceOnlyAPI):
    """A vision-language policy.

    `model_config`, which `GRPOConfig` fills, holds `model` (a name or folder for `load_model`), `max_image_tokens`
    (None: the processor's own limit), `lora_rank` (None trains all parameters), `kl_coeff`, `temperature` and `seed`.
    """

    def setup(self) -> None:
        """Build the policy, and the reference if a KL penalty is asked for and adapters cannot be switched off."""
        config = self.model_config
        self.processor = load_processor(config["model"], max_image_tokens=config["max_image_tokens"])
        self.policy = load_model(config["model"], seed=config["seed"])
        self._has_adapters = config["lora_rank"] is not None
        if self._has_adapters:
            self.policy = add_adapters(self.policy, rank=config["lora_rank"], seed=config["seed"])
        elif config["kl_coeff"] > 0 and not self.inference_only:
            self.reference = copy.deepcopy(self.policy).requires_grad_(False)

    def get_non_inference_attributes(self) -> list[str]:
        """What an EnvRunner does without."""
        return ["reference"]

    def as_policy(self) -> VLMPolicy:
        """The same weights behind the `Policy` protocol."""
        return VLMPolicy(self.policy, self.processor)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """[N, G, T] log-probabilities of the completions, entropies, and the reference's log-probabilities if any."""
        group_batch: GroupBatch = batch[GROUP_BATCH]
        logprobs, entropies = self._score(self.policy, group_batch)
        output = {LOGPROBS: logprobs, ENTROPIES: entropies}
        if self.model_config["kl_coeff"] > 0:
            with torch.no_grad():
                output[REF_LOGPROBS] = self._reference_logprobs(group_batch)
        return output

    _forward = _forward_train

    def _reference_logprobs(self, batch: GroupBatch) -> torch.Tensor:
        """With adapters, the reference is the same model with its adapters off."""
        model = self.policy if self._has_adapters else self.reference
        adapters_off = self.policy.disable_adapter() if self._has_adapters else contextlib.nullcontext()
        with adapters_off:
            return self._score(model, batch)[0]

    def _score(self, model: Any, batch: GroupBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return score_completions(
            model,
            batch.prompts,
            batch.token_ids,
            temperature=self.model_config["temperature"],
            banned_token_ids=self.processor.banned_token_ids,
        )

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Copies of the trained parameters on the CPU; what is frozen comes back from where it was loaded.

        In their own dtype: RLlib's NumPy arrays cannot hold bfloat16.
        """
        return {name: p.detach().to("cpu", copy=True) for name, p in self._trained_parameters().items()}

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take what `get_state` gave.

        Raises:
            ValueError: If the state is another model's, or has other adapters.
        """
        parameters = self._trained_parameters()
        for name in sorted(parameters.keys() | state.keys()):
            expected, got = (tuple(p[name].shape) if name in p else None for p in (parameters, state))
            if expected != got:
                raise ValueError(
                    f"module state: expected the trained parameters of this model, with {name} of shape {expected}, "
                    f"got {got}; it belongs to another model or other adapters"
                )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def _trained_parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
