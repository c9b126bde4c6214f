"""Checks of the contract, and which engines keep it."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.engine.forward import image_inputs
from focus_agents.models.adapters import add_adapters, base_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.vllm.engine import VLLMEngine
from focus_agents.policies.vllm.policy import VLLMPolicy
from focus_agents.policies.vllm.weights import write_adapter
from focus_agents.rollout.records import Completion, Sampling
from focus_env.types import Message

IS_INSTALLED = importlib.util.find_spec("vllm") is not None and torch.cuda.is_available()
RANK = 4
ENGINES = ["stand-in", pytest.param("vllm", marks=pytest.mark.skipif(not IS_INSTALLED, reason="no vLLM, or no GPU"))]
CLOSE = {"stand-in": 1e-5, "vllm": 2e-2}
"""Rounding of a log-probability: of one program, and of two that compute on different devices."""

Start = Callable[..., VLLMEngine]


@torch.no_grad()
def teacher_forced(
    model: Any, processor: VLMProcessor, question: list[Message], answer: Completion, temperature: float
) -> np.ndarray:
    """[T] log-probabilities by transformers' own forward pass over the prompt and the answer."""
    batch = processor.collate([processor.encode(question)])
    ids = torch.cat([batch.input_ids, torch.tensor(answer.token_ids)[None]], dim=1)
    inputs = image_inputs(model, batch, len(answer.token_ids))
    inner = base_model(model)
    implementation = inner.config.get_text_config()._attn_implementation
    inner.set_attn_implementation({"text_config": "eager"})
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[
        0, batch.input_ids.shape[1] - 1 : -1
    ]
    inner.set_attn_implementation({"text_config": implementation})
    logits[:, list(processor.banned_token_ids)] = -torch.inf
    logprobs = (logits.float() / (temperature or 1.0)).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0].numpy()


def check_logprobs(
    policy: VLLMPolicy, model: Any, processor: VLMProcessor, questions: list[list[Message]], tolerance: float
) -> list[Completion]:
    """Answers to the questions, after a look at their log-probabilities under a model."""
    generations = policy.generate(questions, num_completions=2, sampling=Sampling(0.7, 5), seeds=[3, 4])
    for question, generation in zip(questions, generations, strict=True):
        for answer in generation.completions:
            expected = teacher_forced(model, processor, question, answer, 0.7)
            np.testing.assert_allclose(answer.logprobs, expected, atol=tolerance)
    return [answer for generation in generations for answer in generation.completions]


def with_adapters(model: Any, seed: int) -> Any:
    """The model with adapters that change its answers."""
    adapted = add_adapters(copy.deepcopy(model), rank=RANK, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2, generator=generator)
    return adapted


def write(adapted: Any, path: Path) -> Path:
    state = {name: p.detach() for name, p in adapted.named_parameters() if p.requires_grad}
    write_adapter(path, state, adapted.peft_config["default"])
    return path
