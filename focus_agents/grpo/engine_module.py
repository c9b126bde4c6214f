"""The module of a sampler in place of `VLMModule` where vLLM answers: the same weights, held by the engine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from focus_agents.models.loading import load_processor
from focus_agents.models.pictures import picture_budget
from focus_agents.models.settings import ModelSettings
from focus_agents.policies.vllm.engine import EngineOptions, VLLMEngine
from focus_agents.policies.vllm.policy import VLLMPolicy
from focus_agents.policies.vllm.weights import (
    engine_files,
    new_adapter,
    processor_options,
    write_adapter,
    write_weights,
)
from focus_agents.settings import names_of

PREFIX = "policy."
"""Of the names of parameters in a `VLMModule`."""


class EngineModule:
    """The weights of a `VLMModule` in vLLM.

    New weights come as the learner sends them. Adapters are written to a folder and swapped; without adapters the
    trained weights are, and vLLM loads them in place. Neither starts it anew.

    Args:
        config: The module's `model_config`.
        memory: Share of the GPU that vLLM may fill.

    Raises:
        MissingDependencyError: If vLLM is not installed.
        PolicyError: If it cannot start.
    """

    uses_shared_prefix = False

    def __init__(self, config: Mapping[str, Any], *, memory: float) -> None:
        self._settings = ModelSettings(**{name: config[name] for name in names_of(ModelSettings)})
        settings = self._settings
        asked = settings.max_image_tokens, settings.validation_max_image_tokens
        pictures = picture_budget(settings.model, training=asked[0], validation=asked[1])
        self.processor = load_processor(settings.model, max_image_tokens=pictures.training)
        self.validation_processor = load_processor(settings.model, max_image_tokens=pictures.validation)
        self._temporary = tempfile.TemporaryDirectory(prefix="focus-engine-")
        self._folder = Path(self._temporary.name)
        has_new = settings.lora_rank is not None
        files = engine_files(settings.model, self._folder / "base", seed=config["seed"], is_whole=has_new)
        self._lora = files.lora
        if settings.lora_rank is not None:
            self._lora = new_adapter(settings.model, rank=settings.lora_rank, alpha=settings.lora_alpha)
        self._shown = [processor_options(files, p) for p in (self.processor, self.validation_processor)]
        options = EngineOptions(
            precision=settings.precision,
            memory=memory,
            lora_rank=None if self._lora is None else self._lora.r,
            # What a prompt does not say is the engine's, so that of two budgets none is.
            processor_options=self._shown[0] if self._shown[0] == self._shown[1] else None,
            seed=config["seed"],
        )
        self._engine = VLLMEngine(files.model, options, files.revision)
        self._state: Mapping[str, torch.Tensor] = {}

    def as_policy(self, *, validates: bool = False) -> VLLMPolicy:
        """Return the engine behind the `Policy` protocol.

        Args:
            validates: Whether it answers validation episodes.
        """
        processor = self.validation_processor if validates else self.processor
        return VLLMPolicy(self._engine, processor, self._shown[validates])

    def get_state(self, *args: Any, **kwargs: Any) -> Mapping[str, torch.Tensor]:
        """Return the weights as they were given last."""
        return self._state

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Hand weights to the engine, which forgets all that others have made.

        Args:
            state: As `VLMModule.get_state` gives it.

        Raises:
            PolicyError: If the engine cannot forget.
        """
        settings, folder = self._settings, self._folder / f"version-{self._engine.version + 1}"
        named = {name.removeprefix(PREFIX): torch.as_tensor(tensor) for name, tensor in state.items()}
        if self._lora is None:
            write_weights(folder, named, settings.model)
            self._engine.load_weights(folder)
            shutil.rmtree(folder)
        else:
            write_adapter(folder, named, self._lora)
            self._engine.load_adapter(folder)
            # vLLM reads an adapter when it is first asked; that before this one is not asked any more.
            shutil.rmtree(self._folder / f"version-{self._engine.version - 1}", ignore_errors=True)
        self._state = state
