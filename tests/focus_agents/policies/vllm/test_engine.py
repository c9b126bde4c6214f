"""How vLLM is started, and what is said where it cannot be."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest

from focus_agents.errors import PolicyError
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import PolicySpec
from focus_agents.policies.vllm.engine import EngineOptions, VLLMEngine
from focus_agents.policies.vllm.named import from_pretrained
from focus_agents.runs.checkpoint import save_policy
from focus_env.errors import MissingDependencyError
from tests.focus_agents.models.cases import make_case
from tests.focus_agents.policies.vllm import stub
from tests.focus_agents.policies.vllm.checks import (
    IS_INSTALLED,
)


def test_without_vllm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "focus-localization\[vllm\]"'):
        VLLMEngine("no-such-model", EngineOptions())
    with pytest.raises(MissingDependencyError, match="engine vllm"):
        PolicySpec(text="vlm:tiny", engine="vllm").check()


def test_an_engine_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    stub.install(monkeypatch)
    with pytest.raises(PolicyError, match=r"does not start with the model '/no/such' .* set `engine` to transformers"):
        VLLMEngine("/no/such", EngineOptions())


def test_a_family_whose_prompts_vllm_computes_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, processor: VLMProcessor, tmp_path: Path
) -> None:
    """PaliGemma takes one picture there, and no episode has so few."""
    stub.install(monkeypatch)
    case = make_case("paligemma", processor)
    folder = save_policy(tmp_path / "model", case.model, case.processor)
    message = "engine: expected transformers for models of the family 'paligemma', got 'vllm', which takes one picture"
    with pytest.raises(ValueError, match=message):
        PolicySpec(text=f"vlm:{folder}", engine="vllm").check()
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)
    PolicySpec(text="vlm:tiny", engine="vllm").check()


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (257, 320)])
def test_adapters_take_the_next_larger_room(rank: int, room: int) -> None:
    assert EngineOptions(lora_rank=rank).arguments("model")["max_lora_rank"] == room


def test_adapters_that_vllm_has_no_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="lora_rank: expected at most 512 for the engine vllm, got 513"):
        EngineOptions(lora_rank=513).arguments("model")


@pytest.mark.skipif(not IS_INSTALLED, reason="no vLLM, or no GPU")
def test_the_stand_in_has_signatures_of_vllm() -> None:
    import vllm
    from vllm.lora.request import LoRARequest

    known = set(inspect.signature(vllm.LLM).parameters) | {f.name for f in dataclasses.fields(vllm.EngineArgs)}
    assert set(inspect.signature(stub.LLM).parameters) <= known
    assert {f.name for f in dataclasses.fields(stub.SamplingParams)} <= set(vllm.SamplingParams.__struct_fields__)
    assert {f.name for f in dataclasses.fields(stub.LoRARequest)} <= set(LoRARequest.__struct_fields__)
