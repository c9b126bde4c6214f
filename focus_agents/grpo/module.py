"""The policy as an RLModule: a transformers model, its processor, and a frozen reference where KL needs one."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch import TorchRLModule

from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.engine.scoring import LARGEST_GAP, score_completions, shared_prefix_gap
from focus_agents.grpo.batch import GroupBatch
from focus_agents.models.adapters import base_model, has_adapters, keep_reference, reference_adapter
from focus_agents.models.attention import can_share_prefix
from focus_agents.models.lean_adapters import lean_adapters
from focus_agents.models.loading import has_frozen_vision, load_processor, load_trainable_model
from focus_agents.models.pictures import picture_budget
from focus_agents.models.settings import FinetuningSettings, ModelSettings
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.settings import names_of

LOGPROBS, REF_LOGPROBS, ENTROPIES = "logprobs", "ref_logprobs", "entropies"
GROUP_BATCH = "group_batch"


class VLMModule(TorchRLModule, InferenceOnlyAPI):
    """A vision-language policy.

    `model_config` holds the fields of `ModelSettings`, and those that `GRPOConfig` adds: `kl_coeff`, `temperature`,
    `constrained`, `largest_coordinate`, `allow_absent`, `shared_prefix` and `seed`.

    Attributes:
        policy: The model that is trained.
        processor: What encodes its prompts.
        validation_processor: What encodes those of the validation.
        pictures: How large either shows pictures.
        uses_shared_prefix: Whether groups are scored as one row each.
    """

    def setup(self) -> None:
        """Build the policy, and the reference that a KL penalty needs: the policy as it started.

        New adapters are switched off for it. Of an adapter that is trained on, a frozen copy stands in.
        """
        config = self.model_config
        settings = ModelSettings(**{name: config[name] for name in names_of(ModelSettings)})
        asked = settings.max_image_tokens, settings.validation_max_image_tokens
        self.pictures = picture_budget(settings.model, training=asked[0], validation=asked[1])
        self.processor = load_processor(settings.model, max_image_tokens=self.pictures.training)
        self.validation_processor = self.processor
        if self.pictures.validation != self.pictures.training:
            self.validation_processor = load_processor(settings.model, max_image_tokens=self.pictures.validation)
        self.policy = load_trainable_model(
            settings.model, seed=config["seed"], **{name: config[name] for name in names_of(FinetuningSettings)}
        )
        self.uses_shared_prefix = config["shared_prefix"] != "off" and can_share_prefix(base_model(self.policy).config)
        if config["shared_prefix"] == "on" and not self.uses_shared_prefix:
            raise ValueError(
                f"shared_prefix: expected 'auto' or 'off' for model {settings.model!r}, got 'on'; it has recurrent "
                "layers or sliding windows, behind which no row can hold several answers"
            )
        self.grammar = None
        if config["constrained"]:
            self.grammar = AnswerGrammar(
                self.processor.tokenizer,
                self.policy.config.get_text_config().vocab_size,
                eos_token_id=self.processor.eos_token_id,
                allow_absent=config["allow_absent"],
                largest=config["largest_coordinate"],
            )
        needs_reference = config["kl_coeff"] > 0 and not self.inference_only
        self._has_adapters, self._continues_adapter = has_adapters(self.policy), False
        if needs_reference and not self._has_adapters:
            self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        elif needs_reference and settings.lora_rank is None:
            self._continues_adapter = True
            keep_reference(self.policy)

    def get_non_inference_attributes(self) -> list[str]:
        """Return the attributes that an EnvRunner does without."""
        return ["reference"]

    def as_policy(self, *, validates: bool = False) -> VLMPolicy:
        """Return the same weights behind the `Policy` protocol.

        Args:
            validates: Whether it answers validation episodes.
        """
        return VLMPolicy(
            self.policy,
            self.validation_processor if validates else self.processor,
            grammar=self.grammar,
            precision=self.model_config["precision"],
            keeps_image_features=has_frozen_vision(self.policy),
        )

    def shared_prefix_gap(self, batch: GroupBatch) -> float:
        """Score groups in the shared and in the repeated way.

        Args:
            batch: One group is enough.

        Returns:
            Mean difference of the log-probabilities per token, as a multiple of what rounding may explain; above 1, the
            model does not compute shared rows as it should.
        """
        with self._precision(batch), lean_adapters(self.policy):
            gap = shared_prefix_gap(
                self.policy, batch.prompts, batch.token_ids, batch.lengths, **self._scoring_options()
            )
        return gap / LARGEST_GAP[self.model_config["precision"]]

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Return [N, G, T] log-probabilities of the completions, entropies, and the reference's if there is one."""
        # RLlib means modules to override this: its public forward_train, and the data-parallel wrapper, end here.
        group_batch: GroupBatch = batch[GROUP_BATCH]
        logprobs, entropies = self._score(self.policy, group_batch)
        output = {LOGPROBS: logprobs, ENTROPIES: entropies}
        if self.model_config["kl_coeff"] > 0:
            known = group_batch.ref_logprobs
            output[REF_LOGPROBS] = self.reference_logprobs(group_batch) if known is None else known
        return output

    @torch.no_grad()
    def reference_logprobs(self, batch: GroupBatch) -> torch.Tensor:
        """Return [N, G, T] log-probabilities under the reference, the policy as it was when the training started."""
        if not self._has_adapters:
            return self._score(self.reference, batch)[0]
        with reference_adapter(self.policy) if self._continues_adapter else self.policy.disable_adapter():
            return self._score(self.policy, batch)[0]

    @torch.no_grad()
    def policy_logprobs(self, batch: GroupBatch) -> torch.Tensor:
        """Return [N, G, T] log-probabilities under the policy as it is now."""
        return self._score(self.policy, batch)[0]

    def _score(self, model: Any, batch: GroupBatch) -> tuple[torch.Tensor, torch.Tensor]:
        with self._precision(batch):
            return score_completions(
                model,
                batch.prompts,
                batch.token_ids,
                batch.lengths,
                shared_prefix=self.uses_shared_prefix,
                prefix=batch.prefix if self._can_use_prefix(model) else None,
                **self._scoring_options(),
            )

    def _can_use_prefix(self, model: Any) -> bool:
        return self.uses_shared_prefix and model is self.policy and torch.is_grad_enabled()

    def _scoring_options(self) -> dict[str, Any]:
        return {
            "temperature": self.model_config["temperature"],
            "banned_token_ids": self.processor.banned_token_ids,
            "grammar": self.grammar,
        }

    def _precision(self, batch: GroupBatch) -> contextlib.AbstractContextManager[Any]:
        is_narrow = self.model_config["precision"] == "bf16"
        return torch.autocast(batch.token_ids.device.type, torch.bfloat16, enabled=is_narrow)

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Return copies of the trained parameters on the CPU; what is frozen comes back from where it was loaded.

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
