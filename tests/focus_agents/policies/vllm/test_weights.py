"""New weights in an engine: they answer, and nothing that others have made does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from focus_agents.errors import CheckpointError, PolicyError
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import PolicySpec
from focus_agents.policies.vllm.engine import EngineOptions, VLLMEngine
from focus_agents.policies.vllm.policy import VLLMPolicy
from focus_agents.policies.vllm.weights import write_weights
from focus_agents.rollout.records import Sampling
from focus_agents.runs.checkpoint import save_policy
from focus_env.types import Message
from tests.focus_agents.policies.vllm import stub
from tests.focus_agents.policies.vllm.checks import (
    CLOSE,
    RANK,
    Start,
    check_logprobs,
    with_adapters,
    write,
)


def test_adapters_are_swapped_and_nothing_of_the_one_before_is_left(
    start: Start, kind: str, model: Any, processor: VLMProcessor, questions: list[list[Message]], tmp_path: Path
) -> None:
    engine = start(lora_rank=RANK)
    policy = VLLMPolicy(engine, processor)
    check_logprobs(policy, model, processor, questions, CLOSE[kind])
    for version in (1, 2, 3):
        adapted = with_adapters(model, seed=version)
        # The same folder again and again, as a run has it.
        folder = write(adapted, tmp_path / str(version)).rename(tmp_path / "adapter")
        engine.load_adapter(folder)
        assert engine.version == version
        check_logprobs(policy, adapted, processor, questions, CLOSE[kind])
        folder.rename(tmp_path / f"old-{version}")


def test_new_weights_take_effect_in_the_tower_and_the_language_model(
    start: Start, kind: str, model: Any, processor: VLMProcessor, questions: list[list[Message]], tmp_path: Path
) -> None:
    engine = start()
    policy = VLLMPolicy(engine, processor)
    check_logprobs(policy, model, processor, questions, CLOSE[kind])
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    for number, tower_too in enumerate((False, True)):
        state = {}
        for name, parameter in changed.named_parameters():
            if "visual" in name and not tower_too:
                continue  # a frozen tower, which learners do not send
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
            state[name] = parameter.detach()
        write_weights(tmp_path / str(number), state, "tiny")
        engine.load_weights(tmp_path / str(number))
        check_logprobs(policy, changed, processor, questions, CLOSE[kind])


@pytest.mark.parametrize("cache", ["prefix_cache", "encoder_cache"])
def test_the_stand_in_is_stale_where_vllm_would_be(
    cache: str,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    model: Any,
    processor: VLMProcessor,
    questions: list[list[Message]],
    tmp_path: Path,
) -> None:
    """Each cache alone makes wrong log-probabilities if it outlives the weights, so that the tests above can fail."""
    stub.install(monkeypatch)
    engine = VLLMEngine(str(folder), EngineOptions())
    policy = VLLMPolicy(engine, processor)
    check_logprobs(policy, model, processor, questions, 1e-5)
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in changed.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
    write_weights(tmp_path / "new", dict(changed.named_parameters()), "tiny")
    llm = engine._llm
    reset = (
        (llm, "reset_prefix_cache", True) if cache == "prefix_cache" else (llm.llm_engine, "reset_encoder_cache", None)
    )
    monkeypatch.setattr(reset[0], reset[1], lambda: reset[2])
    engine.load_weights(tmp_path / "new")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_logprobs(policy, changed, processor, questions, 1e-2)


def test_a_cache_that_cannot_be_cleared_is_an_error(
    monkeypatch: pytest.MonkeyPatch, folder: Path, model: Any, tmp_path: Path
) -> None:
    stub.install(monkeypatch)
    engine = VLLMEngine(str(folder), EngineOptions(lora_rank=RANK))
    engine._llm.is_busy = True
    with pytest.raises(PolicyError, match=r"prefix cache could not be cleared after new weights"):
        engine.load_adapter(write(with_adapters(model, 1), tmp_path / "adapter"))


def test_prompts_and_pictures_are_read_once_for_all_answers(
    monkeypatch: pytest.MonkeyPatch, folder: Path, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    stub.install(monkeypatch)
    engine = VLLMEngine(str(folder), EngineOptions())
    policy = VLLMPolicy(engine, processor)
    for _ in range(2):
        policy.generate(questions, num_completions=3, sampling=Sampling(1.0, 2), seeds=[1, 2])
    assert engine._llm.num_prefills == len(questions)


def test_a_saved_adapter_is_answered_by_the_engine_on_its_base(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    model: Any,
    processor: VLMProcessor,
    questions: list[list[Message]],
    tmp_path: Path,
) -> None:
    stub.install(monkeypatch)
    adapted = with_adapters(model, seed=1)
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    saved = save_policy(tmp_path / "adapter", adapted, processor, form="adapter")
    policy = PolicySpec(text=f"vlm:{saved}", engine="vllm").build()
    assert isinstance(policy, VLLMPolicy)
    assert policy.engine.version == 1
    check_logprobs(policy, adapted, policy.processor, questions, 1e-4)
    adapted.peft_config["default"].rank_pattern = {"q_proj": 2}
    adapted.peft_config["default"].save_pretrained(str(saved))
    with pytest.raises(
        CheckpointError, match=r"its adapter has ranks by layer, .* make one model of it by `focus export`"
    ):
        PolicySpec(text=f"vlm:{saved}", engine="vllm").build()
