"""Policies that are answered by vLLM by their names, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import CheckpointError, PolicyError
from focus_agents.models.loading import load_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import PolicySpec
from focus_agents.policies.vllm.engine import EngineOptions, VLLMEngine
from focus_agents.policies.vllm.policy import VLLMPolicy
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Sampling
from focus_agents.runs.checkpoint import save_policy
from focus_env.errors import MissingDependencyError
from focus_env.types import Message
from tests.focus_agents.policies.vllm import stub as vllm_stub
from tests.focus_agents.policies.vllm.engines import IS_INSTALLED, check_logprobs, with_adapters


def test_without_vllm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "focus-localization\[vllm\]"'):
        VLLMEngine("no-such-model", EngineOptions())
    with pytest.raises(MissingDependencyError, match="engine vllm"):
        PolicySpec(text="vlm:tiny", engine="vllm").check()


def test_an_engine_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_stub.install(monkeypatch)
    with pytest.raises(PolicyError, match=r"does not start with the model '/no/such' .* set `engine` to transformers"):
        VLLMEngine("/no/such", EngineOptions())


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (257, 320)])
def test_adapters_take_the_next_larger_room(rank: int, room: int) -> None:
    assert EngineOptions(lora_rank=rank).arguments("model")["max_lora_rank"] == room


def test_adapters_that_vllm_has_no_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="lora_rank: expected at most 512 for the engine vllm, got 513"):
        EngineOptions(lora_rank=513).arguments("model")


def test_a_policy_of_a_name_is_answered_by_the_engine(
    monkeypatch: pytest.MonkeyPatch, questions: list[list[Message]]
) -> None:
    vllm_stub.install(monkeypatch)
    policy = PolicySpec(text="vlm:tiny", engine="vllm").build()
    assert isinstance(policy, VLLMPolicy)
    ask: dict[str, Any] = {"num_completions": 1, "sampling": Sampling(0.0, 3), "seeds": [0, 0]}
    ours = VLMPolicy(load_model("tiny"), policy.processor).generate(questions, **ask)
    theirs = policy.generate(questions, **ask)
    assert [g.completions[0].text for g in theirs] == [g.completions[0].text for g in ours]


def test_a_saved_adapter_is_answered_by_the_engine_on_its_base(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    model: Any,
    processor: VLMProcessor,
    questions: list[list[Message]],
    tmp_path: Path,
) -> None:
    vllm_stub.install(monkeypatch)
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


@pytest.mark.skipif(not IS_INSTALLED, reason="no vLLM, or no GPU")
def test_the_stand_in_has_signatures_of_vllm() -> None:
    import vllm
    from vllm.lora.request import LoRARequest

    known = set(inspect.signature(vllm.LLM).parameters) | {f.name for f in dataclasses.fields(vllm.EngineArgs)}
    assert set(inspect.signature(vllm_stub.LLM).parameters) <= known
    assert {f.name for f in dataclasses.fields(vllm_stub.SamplingParams)} <= set(vllm.SamplingParams.__struct_fields__)
    assert {f.name for f in dataclasses.fields(vllm_stub.LoRARequest)} <= set(LoRARequest.__struct_fields__)
