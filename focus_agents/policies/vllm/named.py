"""A model by its name, answered by vLLM."""

from __future__ import annotations

import tempfile
from pathlib import Path

from focus_agents.models.loading import check_fit, load_config, load_processor
from focus_agents.models.settings import Precision
from focus_agents.models.shipped import model_name
from focus_agents.policies.vllm.engine import EngineOptions, VLLMEngine, check_vllm
from focus_agents.policies.vllm.policy import VLLMPolicy
from focus_agents.policies.vllm.weights import engine_files, processor_options


def from_pretrained(
    name_or_path: str | Path,
    *,
    precision: Precision = "fp32",
    max_image_tokens: int | None = None,
    memory: float = 0.9,
) -> VLLMPolicy:
    """Load a policy into a new engine.

    Args:
        name_or_path: As for `focus_agents.models.loading.load_model`.
        precision: What vLLM computes in.
        max_image_tokens: Larger pictures are scaled down to at most so many tokens; None: the model's own limit.
        memory: Share of the GPU that vLLM may fill.

    Raises:
        MissingDependencyError: If vLLM is not installed.
        CheckpointError: If there is no such model.
        ValueError: If vLLM does not take prompts of its family.
        PolicyError: If vLLM cannot start.
    """
    name = model_name(name_or_path)
    check_vllm(name)
    processor = load_processor(name, max_image_tokens=max_image_tokens)
    check_fit(name, load_config(name), processor)
    with tempfile.TemporaryDirectory(prefix="focus-engine-") as folder:  # read when the engine starts
        files = engine_files(name, Path(folder))
        shown = processor_options(files, processor)
        options = EngineOptions(
            precision=precision,
            memory=memory,
            lora_rank=None if files.lora is None else files.lora.r,
            processor_options=shown,
        )
        engine = VLLMEngine(files.model, options, files.revision)
    if files.adapter is not None:
        engine.load_adapter(files.adapter)
    return VLLMPolicy(engine, processor, shown)
